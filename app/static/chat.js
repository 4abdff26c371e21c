// Saves what the page was handed as a file: {"name": ..., "text": ...}. Nothing goes over the network.
(() => {
  function download(props, watch) {
    watch("value", () => {
      if (!props.value) return;
      const { name, text } = JSON.parse(props.value);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      link.download = name;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
  window.tuneboard = { ...window.tuneboard, download };
})();
