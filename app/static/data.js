// Data: clicks and keys in what app/datasets/{table,turns,advice}.py draw, told to the page as `word:value`.
// Everything drawn is text that the server has escaped; nothing here makes HTML.
(() => {
  const WORDS = ["row", "sort", "show", "mend", "leave", "whole", "skip", "all"];

  function pressed(element, trigger) {
    element.addEventListener("click", (event) => {
      if (window.getSelection()?.toString()) return;  // somebody marks a text to copy it
      if (event.target.closest("[data-save]")) {
        const boxes = [...element.querySelectorAll("textarea[data-text]")];
        return trigger("select", { id: "save:", texts: Object.fromEntries(boxes.map((box) => [box.dataset.text, box.value])) });
      }
      for (const word of WORDS) {
        const target = event.target.closest(`[data-${word}]`);
        if (target && element.contains(target) && !target.disabled) return trigger("select", { id: `${word}:${target.dataset[word]}` });
      }
    });
    element.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const row = step && event.target.closest("tr[data-row]");
      const next = row && (step > 0 ? row.nextElementSibling : row.previousElementSibling);
      if (!next) return;
      next.querySelector("button").focus();
      event.preventDefault();
    });
  }
  window.tuneboard = { ...window.tuneboard, pressed };
})();
