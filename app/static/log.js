// A log box of fixed height: follows its end unless the reader scrolls away, and finds lines. Knows text, nothing else.
(() => {
  function log(element, props, watch) {
    const host = element.querySelector(".tb-log");
    const text = document.createElement("pre");
    text.tabIndex = 0;
    text.setAttribute("aria-label", "Log");
    const find = Object.assign(document.createElement("input"), { type: "search", placeholder: "Find in log" });
    find.setAttribute("aria-label", "Find in log");
    const follow = Object.assign(document.createElement("button"), { type: "button", className: "tb-toggle", textContent: "Follow" });
    const bar = document.createElement("div");
    bar.className = "tb-log-bar";
    const title = Object.assign(document.createElement("strong"), { textContent: "Log" });
    bar.append(title, find, follow);
    host.replaceChildren(bar, text);
    let run = null, lines = [], following = true, moved = false;

    const end = () => { if (following) { moved = true; text.scrollTop = text.scrollHeight; } };
    const set = (on) => { following = on; follow.setAttribute("aria-pressed", on); end(); };
    const render = () => {
      const wanted = find.value.toLowerCase();
      const shown = wanted ? lines.filter((line) => line.toLowerCase().includes(wanted)) : lines;
      const content = shown.join("\n") || (wanted && lines.length ? "No line has that." : "Nothing logged yet.");
      if (text.textContent !== content) {
        const top = text.scrollTop;
        text.textContent = content;
        text.scrollTop = top;
      }
      end();
    };
    text.addEventListener("scroll", () => {
      if (moved) { moved = false; return; }
      const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 8;
      if (atEnd !== following) set(atEnd);
    });
    find.oninput = render;
    follow.onclick = () => set(!following);
    const receive = () => {
      const next = props.value ? JSON.parse(props.value) : { run: "", lines: [] };
      const other = next.run !== run;
      ({ run, lines } = next);
      if (other) { find.value = ""; following = true; }
      render();
      if (other) set(true);
    };
    new ResizeObserver(end).observe(text);
    watch("value", receive);
    set(true);
    receive();
  }
  window.tuneboard = { ...window.tuneboard, log };
})();
