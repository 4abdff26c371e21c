// The frame's own behaviour: the pill is a button that asks for the running run.
(() => {
  function frame(element, trigger, event) {
    element.addEventListener("click", (press) => press.target.closest("button.tb-pill") && trigger(event));
  }
  window.tuneboard = { ...window.tuneboard, frame };
})();
