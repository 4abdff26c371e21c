// Applies what app/form.py says about a form: wrong fields, what auto comes to, counts of changes, variants in sight,
// and the names that a field of name=value lines can hold, as chips: the text of the field says which are on.
// Gathers what its fields hold. Touches only classes, attributes and placeholders, so nothing is redrawn under the cursor. Knows no argument by name.
(() => {
  function form(element, props, watch) {
    let said = null;
    const apply = () => {
      if (!said) return;
      for (const field of document.querySelectorAll(`[id^="${said.name}-"].tb-wrong`)) {
        if (!(field.id in said.wrong)) mark(field, "");
      }
      for (const [id, sentence] of Object.entries(said.wrong)) {
        const field = document.getElementById(id);
        if (field) mark(field, sentence);
      }
      for (const [id, text] of Object.entries(said.auto)) {
        const input = document.getElementById(id)?.querySelector("input, textarea");
        if (input && input.placeholder !== text) input.placeholder = text;
      }
      for (const [id, html] of Object.entries(said.chips)) offer(document.getElementById(id), html);
      for (const [id, hide] of Object.entries({ ...said.away, ...said.idle })) document.getElementById(id)?.classList.toggle("tb-away", hide);
      for (const [id, text] of Object.entries(said.changed)) {
        const label = document.getElementById(id)?.querySelector("button");
        if (label && (label.dataset.changed || "") !== text) label.dataset.changed = text;
      }
      for (const [union, kind] of Object.entries(said.kinds)) {
        const stem = `${said.name}-variant-${union}`;
        for (const part of document.getElementsByClassName(stem)) {
          part.classList.toggle("tb-away", !part.classList.contains(`${stem}-${kind}`));
        }
      }
    };
    const mark = (field, sentence) => {
      if ((field.dataset.problem || "") === sentence && field.classList.contains("tb-wrong") === !!sentence) return;
      field.classList.toggle("tb-wrong", !!sentence);
      field.dataset.problem = sentence;
      for (const input of field.querySelectorAll("input, textarea")) {
        if (sentence) input.setAttribute("aria-invalid", "true"); else input.removeAttribute("aria-invalid");
      }
    };
    const receive = () => { said = props.value ? JSON.parse(props.value) : null; apply(); };
    watch("value", receive);
    receive();

    // Parts of the page are made when they are first opened, and want the same marks.
    let waiting = false;
    new MutationObserver(() => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; apply(); });
    }).observe(document.body, { childList: true, subtree: true });
  }

  // As `names` of app/typed.py reads them: a line each, or, where one has no `=`, in any row.
  const pieces = (text) => {
    const lines = text.split("\n").filter((line) => line.trim());
    return lines.every((line) => line.includes("=")) ? lines : text.split(/[,\s]+/).filter(Boolean);
  };
  const named = (piece) => piece.split("=")[0].trim();
  const offer = (field, html) => {
    const area = field?.querySelector("textarea");
    if (!area) return;
    let row = field.querySelector(".tb-chips");
    if (!row) {
      row = Object.assign(document.createElement("div"), { className: "tb-chips", role: "group" });
      row.setAttribute("aria-label", "Names for this field");
      field.querySelector("[data-testid=block-info]").after(row);
    }
    if (row.said !== html) row.innerHTML = row.said = html;
    press(field, area.value);
    if (area !== document.activeElement) strangers(row, area.value); // a word that is being typed is no stranger yet
  };
  const press = (field, text) => {
    const on = pieces(text).map(named);
    for (const chip of field.querySelectorAll(".tb-chip")) {
      const there = on.includes(chip.dataset.name);
      if (there || !chip.matches(".tb-strange")) chip.setAttribute("aria-pressed", there);
      else chip.remove();
    }
  };
  // A line that nobody knows here, as after another choice of what it was a setting of: its chip takes it out.
  const strangers = (row, text) => {
    const known = [...row.children].map((chip) => chip.dataset.name);
    for (const name of new Set(pieces(text).map(named).filter((name) => name && !known.includes(name)))) {
      const chip = Object.assign(document.createElement("button"), { type: "button", className: "tb-chip tb-strange", textContent: name });
      Object.assign(chip.dataset, { name, tip: "Nothing here has this name. Click to take its line out." });
      chip.setAttribute("aria-label", `${name}: ${chip.dataset.tip}`);
      chip.setAttribute("aria-pressed", true);
      row.append(chip);
    }
  };
  document.addEventListener("input", (event) => {
    const field = event.target.matches?.("textarea") && event.target.closest(".block:has(.tb-chips)");
    if (field) press(field, event.target.value);
  });
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".tb-chips")) return;
    event.preventDefault(); // or the label around them would take it for a click on itself
    const chip = event.target.closest(".tb-chip");
    if (!chip) return;
    const area = chip.closest(".block").querySelector("textarea"), { name, line } = chip.dataset;
    const held = pieces(area.value), kept = held.filter((piece) => named(piece) !== name);
    area.value = (kept.length < held.length ? kept : [...kept, line]).join("\n");
    area.dispatchEvent(new Event("input", { bubbles: true }));
  });

  // A field that is named in a sentence leads to its place, in an accordion that may never have been opened.
  const lead = async (id, within) => {
    const frame = () => new Promise(requestAnimationFrame);
    const seen = () => { const field = document.getElementById(id); return field?.offsetParent ? field : null; };
    if (!seen() && within) document.getElementById(within)?.querySelector("button")?.click();
    for (let tries = 0; tries < 60 && !seen(); tries += 1) await frame();
    const field = seen();
    if (!field) return;
    field.scrollIntoView({ block: "center", behavior: "smooth" });
    (field.querySelector("input:checked") ?? field.querySelector("input, textarea"))?.focus({ preventScroll: true });
    field.classList.remove("tb-here");
    await frame();
    field.classList.add("tb-here");
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("[data-field]");
    if (link) lead(link.dataset.field, link.dataset.in);
  });

  // What all fields of a form hold, by their places in it, as one text: some of them have changed.
  const all = {};
  const held = (name, places, values) => {
    const own = (all[name] ??= {});
    places.forEach((place, index) => { own[place] = values[index]; });
    return JSON.stringify(own);
  };
  window.tuneboard = { ...window.tuneboard, form, held };
})();
