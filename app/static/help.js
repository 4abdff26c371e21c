// The (i) behind a field's label, which reads #tb-help (elem_id -> what, when, usual), and the tip of whatever carries its
// own in data-tip and data-usual; knows nothing else of the form.
(() => {
  const read = () => JSON.parse(document.getElementById("tb-help")?.textContent || "{}");

  function start() {
    const helps = read();
    if (!Object.keys(helps).length) return;
    const tip = document.createElement("div");
    tip.id = "tb-tip";
    tip.role = "tooltip";
    tip.hidden = true;
    document.body.append(tip);
    let owner = null;

    const line = (title, text) => {
      const p = document.createElement("p");
      if (title) p.append(Object.assign(document.createElement("b"), { textContent: `${title} ` }));
      p.append(text);
      return p;
    };
    const hide = () => {
      tip.hidden = true;
      if (owner?.matches(".tb-i")) owner.setAttribute("aria-expanded", "false");
      owner = null;
    };
    const show = (button) => {
      const { tip: what, usual } = button.dataset, help = what ? { what, usual } : helps[button.dataset.help];
      if (owner && owner !== button) hide();
      owner = button;
      if (!what) button.setAttribute("aria-expanded", "true");
      // A line for each choice, which begins with its name.
      const [first, ...choices] = help.what.split("\n");
      const named = choices.map((said) => { const end = said.indexOf(":") + 1; return line(said.slice(0, end), said.slice(end + 1)); });
      tip.replaceChildren(line("", first), ...named,
        ...(help.when ? [line("When", help.when)] : []), ...(help.usual ? [line("Usual", help.usual)] : []));
      tip.hidden = false;
      const at = button.getBoundingClientRect(), width = tip.offsetWidth, height = tip.offsetHeight;
      const below = at.bottom + 8 + height < innerHeight;
      tip.style.left = `${Math.max(8, Math.min(at.left - 12, innerWidth - width - 8))}px`;
      tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - height - 8)}px`;
    };

    // A field's label lies in its block-info span (a checkbox has its own). The control keeps its plain name.
    const decorate = (field) => {
      if (field.querySelector(".tb-i")) return;
      const label = field.querySelector("[data-testid=block-info], [data-testid=checkbox-label], label > span, .label-text");
      if (!label) return;
      const name = label.textContent.trim();
      const control = field.querySelector("input:not([type=radio]), textarea, select");
      if (control && !control.hasAttribute("aria-label")) control.setAttribute("aria-label", name);
      const button = document.createElement("button");
      button.type = "button";
      button.className = "tb-i";
      button.dataset.help = field.id;
      button.textContent = "i";
      button.setAttribute("aria-label", `About ${name}`);
      button.setAttribute("aria-expanded", "false");
      button.setAttribute("aria-describedby", "tb-tip");
      label.append(button);
    };
    const sweep = () => {
      for (const id of Object.keys(helps)) {
        const field = document.getElementById(id);
        if (field) decorate(field);
      }
      if (owner && !owner.isConnected) hide();
    };

    const aim = (event) => event.target.closest?.(".tb-i, [data-tip]");
    const stays = () => owner === document.activeElement && owner?.matches(".tb-i, :focus-visible");
    document.addEventListener("pointerover", (event) => aim(event) ? show(aim(event)) : stays() || hide());
    document.addEventListener("focusin", (event) => aim(event) ? show(aim(event)) : hide());
    document.addEventListener("click", (event) => aim(event) && (event.preventDefault(), show(aim(event))));
    document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    document.addEventListener("scroll", hide, true);

    let waiting = false;
    new MutationObserver(() => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; sweep(); });
    }).observe(document.body, { childList: true, subtree: true });
    sweep();
  }

  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
