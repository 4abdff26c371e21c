// The list of runs: draws what app/running/ledger.py says, filters as one types, tells which run was picked.
// A line is replaced only when its words change, so focus and scroll position survive every poll.
(() => {
  function list(element, props, watch, trigger) {
    const host = element.querySelector(".tb-list");
    const find = Object.assign(document.createElement("input"), { type: "search", placeholder: "Find", className: "tb-find", hidden: true });
    find.setAttribute("aria-label", "Find in the list");
    const box = Object.assign(document.createElement("div"), { className: "tb-items" });
    const none = Object.assign(document.createElement("div"), { className: "tb-none" });
    host.replaceChildren(find, box, none);
    const buttons = new Map();
    let said = { rows: [], opened: "", nothing: "" };

    const draw = () => {
      const here = new Set(said.rows.map((row) => row.id));
      for (const [id, button] of buttons) if (!here.has(id)) { button.remove(); buttons.delete(id); }
      said.rows.forEach((row, place) => {
        let button = buttons.get(row.id);
        if (!button) {
          button = Object.assign(document.createElement("button"), { type: "button", className: "tb-item" });
          button.dataset.run = row.id;
          button.onclick = () => trigger("select", { id: row.id });
          buttons.set(row.id, button);
        }
        if (button.said !== row.html) { button.said = row.html; button.innerHTML = row.html; }
        button.words = row.words;
        if (box.children[place] !== button) box.insertBefore(button, box.children[place] || null);
        if (row.id === said.opened) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
      });
      find.hidden = said.rows.length < 4 && !find.value;
      sift();
    };
    const sift = () => {
      const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const button of buttons.values()) {
        button.hidden = !wanted.every((word) => button.words.includes(word));
        shown += !button.hidden;
      }
      const text = said.rows.length ? (shown ? "" : "<p class='tb-muted'>No run has these words.</p>") : said.nothing;
      if (none.said !== text) { none.said = text; none.innerHTML = text; }
    };
    find.oninput = sift;
    const receive = () => { if (props.value) { said = JSON.parse(props.value); draw(); } };
    watch("value", receive);
    receive();
  }
  window.tuneboard = { ...window.tuneboard, list };
})();
