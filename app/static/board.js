// The frame: a tab that a person has clicked while the page was still loading stays the one on screen.
(() => {
  let chosen = null;

  document.addEventListener("click", (event) => {
    const tab = event.isTrusted && event.target.closest?.("#tb-tabs [role=tab]");
    if (tab) chosen = tab;
  }, true);

  // Called when the page has been told what its address says, which it then draws within some frames.
  const stay = (frames = 60) => {
    if (!chosen || !frames) return;
    if (chosen.getAttribute("aria-selected") === "false") chosen.click();
    else requestAnimationFrame(() => stay(frames - 1));
  };
  window.tuneboard = { ...window.tuneboard, stay };
})();
