// Draws the chart of app/running/charts.py: one large plot and its small multiples, as SVG styled by the page's tokens.
// Knows a picture (JSON) and the reader's wishes: smoothing, scale, axis, which panel is large. Asks the server nothing.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const AXES = { step: "Step", tokens: "Tokens", time: "Time" };
  const PAD = { left: 52, right: 12, top: 8, bottom: 24 };

  const make = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const draw = (name, attributes = {}) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };

  // Numbers as a colleague would say them.
  const number = (value) => {
    if (value === null || value === undefined || !isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace("e+", "e");
    if (size >= 1000) return Math.round(value).toLocaleString("en-GB");
    return String(Number(value.toPrecision(4)));
  };
  const short = (value, digits = 3) => {
    if (!isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && size < 1e-3) return Number(value.toPrecision(digits - 1)).toExponential();
    for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (size >= unit) return Number((value / unit).toPrecision(digits)) + name;
    return String(Number(value.toPrecision(digits)));
  };
  // A share reads as percent; the unit of everything else stands behind it.
  const share = (value) => (isFinite(value) ? `${Number((100 * value).toPrecision(3))}%` : "–");
  const worth = (value, unit) => (unit === "share" ? share(value ?? NaN) : number(value));
  const behind = (unit) => (unit && unit !== "share" ? ` ${unit}` : "");
  const tick = (value, unit = "") => (unit === "share" ? share(value) : short(value, 6)); // evenly spaced ticks read so: 5.725 is not 5.73
  const duration = (seconds) => {
    const s = Math.round(seconds);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min` + (s % 60 ? ` ${s % 60} s` : "");
    return `${Math.floor(s / 3600)} h` + (s % 3600 >= 60 ? ` ${Math.floor((s % 3600) / 60)} min` : "");
  };
  const along = { step: tick, tokens: tick, time: duration };

  // Bias-corrected exponential mean. The weight is per drawn point of a 500-point run, so that a bucket of many
  // records fades as much as the records in it would, and nothing changes its look when buckets merge.
  const smooth = (series, weight) => {
    const points = series.mean || series.raw;
    const base = Math.pow(weight, series.bucket * Math.min(1, 500 / series.n));
    let mean = 0, sure = 0;
    return {
      ...points,
      y: points.y.map((y) => {
        if (y === null) return null;
        mean = base * mean + (1 - base) * y;
        sure = base * sure + (1 - base);
        return sure > 0 ? mean / sure : y;
      }),
    };
  };

  const niceStep = (span, count) => {
    const rough = span / count, power = Math.pow(10, Math.floor(Math.log10(rough)));
    return [1, 2, 2.5, 5, 10].find((nice) => nice * power >= rough * 0.999) * power;
  };
  const timeStep = (span, count) =>
    [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400]
      .find((nice) => nice >= span / count) || 86400 * niceStep(span / 86400, count);

  // Ends on round numbers, so it holds still while values move a little.
  const roundUp = (value, axis) => {
    if (!(value > 0)) return 1;
    const step = axis === "time" ? timeStep(value, 5) : niceStep(value, 5);
    return Math.ceil(value / step - 1e-9) * step;
  };
  const range = (values, log, unit) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value === null || (log && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (low > high) return log ? [0.1, 1] : [0, 1];
    if (log) return [Math.pow(10, Math.floor(Math.log10(low) * 4) / 4), Math.pow(10, Math.ceil(Math.log10(high) * 4) / 4)];
    if (low === high && unit === "share") return [0, 1];
    if (low === high) [low, high] = low === 0 ? [0, 1] : [low - Math.abs(low) / 10, high + Math.abs(high) / 10];
    const base = low >= 0 && low < (high - low) * 0.25 ? 0 : low;
    const step = niceStep(high - base, 5);
    return [Math.floor(base / step) * step, Math.ceil(high / step) * step];
  };
  const ticks = ([low, high], log, axis) => {
    if (log) {
      const found = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
        for (const lead of high / low > 200 ? [1] : [1, 2, 5]) found.push(lead * Math.pow(10, power));
      return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    }
    const step = axis === "time" ? timeStep(high - low, 6) : niceStep(high - low, axis === "y" ? 5 : 6);
    const found = [];
    for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) found.push(value);
    return found.map((value) => (Math.abs(value) < step / 1e6 ? 0 : value));
  };

  class Plot {
    constructor(box, axes) {
      this.svg = draw("svg", { role: "img" });
      this.grid = draw("g", { class: "tb-grid" });
      this.marks = draw("g");
      this.cross = draw("g", { class: "tb-cross", visibility: "hidden" });
      this.svg.append(this.grid, this.marks, this.cross);
      this.box = box;
      this.pad = axes ? PAD : { left: 1, right: 1, top: 3, bottom: 2 };
      this.axes = axes;
      box.append(this.svg);
      this.held = {};
    }

    // Keeps the widest range of one run, panel and scale, so that axes only ever grow.
    hold(key, [low, high]) {
      const before = this.held[key];
      return (this.held[key] = before ? [Math.min(low, before[0]), Math.max(high, before[1])] : [low, high]);
    }

    show(picture, panel, wish) {
      const width = this.box.clientWidth, height = this.box.clientHeight;
      if (!width || !height) return;
      const axis = wish.axis === "tokens" && !picture.tokens ? "step" : wish.axis, log = wish.log && this.axes, pad = this.pad;
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.svg.setAttribute("aria-label", this.describe(panel));
      this.lines = panel.series.map((series) => ({
        series, raw: series.raw,
        smooth: series.eval || !panel.noisy ? null : wish.smoothing > 0 ? smooth(series, wish.smoothing) : series.mean || null,
      }));
      const tails = this.lines.flatMap((line) => line.raw[axis].slice(-1));
      const end = axis === "step" && picture.total ? Math.max(picture.total, ...tails) : roundUp(Math.max(...tails), axis);
      const x = this.hold(`${picture.run} ${axis}`, [0, end]);
      const y = this.hold(`${picture.run} ${panel.key} ${log}`, range(this.lines.flatMap((line) => line.raw.y), log, panel.unit));
      const put = log ? Math.log : (value) => value;
      this.x = (value) => pad.left + ((value - x[0]) / (x[1] - x[0])) * (width - pad.left - pad.right);
      this.y = (value) => height - pad.bottom - ((put(value) - put(y[0])) / (put(y[1]) - put(y[0]))) * (height - pad.top - pad.bottom);
      this.drawable = (value) => value !== null && !(log && value <= 0);
      this.size = { width, height };
      this.axis = axis;
      this.grid.replaceChildren();
      if (this.axes) this.drawAxes(x, y, log, panel.unit);
      this.marks.replaceChildren(...this.lines.flatMap((line) => this.trace(line)));
    }

    describe(panel) {
      return panel.title + ": " + panel.series.map((series) => `${series.name} ${worth(series.raw.y.at(-1), panel.unit)}`).join(", ");
    }

    drawAxes(x, y, log, unit) {
      const { width, height } = this.size, pad = this.pad;
      for (const value of ticks(y, log, "y")) {
        const at = this.y(value);
        const label = draw("text", { x: pad.left - 8, y: at + 4, "text-anchor": "end" });
        label.textContent = tick(value, unit);
        this.grid.append(draw("line", { x1: pad.left, x2: width - pad.right, y1: at, y2: at }), label);
      }
      for (const value of ticks(x, false, this.axis)) {
        const at = this.x(value), edge = at > width - 40 ? "end" : at < pad.left + 10 ? "start" : "middle";
        const label = draw("text", { x: edge === "end" ? Math.min(at + 10, width) : at, y: height - 6, "text-anchor": edge });
        label.textContent = along[this.axis](value);
        this.grid.append(label);
      }
    }

    trace(line) {
      const kind = line.series.eval ? "tb-eval" : "tb-train";
      if (line.series.eval) {
        const dots = line.raw.y.flatMap((y, i) => this.drawable(y) && this.axes && line.raw.y.length <= 40
          ? [draw("circle", { class: "tb-eval-dot", cx: this.x(line.raw[this.axis][i]), cy: this.y(y), r: 3 })] : []);
        return [this.path(line.raw, `${kind} tb-line`), ...dots];
      }
      if (!line.smooth) return [this.path(line.raw, `${kind} tb-line`)];
      return [this.path(line.raw, `${kind} tb-faint`), this.path(line.smooth, `${kind} tb-line`)];
    }

    path(points, kind) {
      let d = "", pen = "M";
      points.y.forEach((y, i) => {
        if (!this.drawable(y)) { pen = "M"; return; }
        d += `${pen}${this.x(points[this.axis][i]).toFixed(1)} ${this.y(y).toFixed(1)}`;
        pen = "L";
      });
      if (/^M[^L]*$/.test(d) && d) d += "h.01"; // a single point shows as a dot
      return draw("path", { class: kind, d });
    }

    // The drawn points nearest to a place on the x axis, one for each line.
    nearest(value) {
      return this.lines.map(({ series, raw, smooth }) => {
        const find = (points) => {
          const xs = points[this.axis];
          let low = 0, high = xs.length - 1;
          while (low < high) {
            const middle = (low + high) >> 1;
            if (xs[middle] < value) low = middle + 1; else high = middle;
          }
          return low > 0 && value - xs[low - 1] < xs[low] - value ? low - 1 : low;
        };
        const i = find(raw), j = smooth ? find(smooth) : -1;
        return { series, points: raw, i, y: raw.y[i], smooth: smooth ? smooth.y[j] : null };
      });
    }

    point(found) {
      if (!found) return this.cross.setAttribute("visibility", "hidden");
      const lead = found.find((one) => !one.series.eval) || found[0];
      const at = this.x(lead.points[this.axis][lead.i]);
      const line = draw("line", { x1: at, x2: at, y1: this.pad.top, y2: this.size.height - this.pad.bottom });
      const dots = found.filter((one) => this.drawable(one.smooth ?? one.y)).map((one) => draw("circle", {
        class: one.series.eval ? "tb-eval" : "tb-train", r: 3.5,
        cx: this.x(one.points[this.axis][one.i]), cy: this.y(one.series.eval ? one.y : one.smooth ?? one.y),
      }));
      this.cross.replaceChildren(line, ...dots);
      this.cross.setAttribute("visibility", "visible");
    }
  }

  const stored = (key) => {
    try { return JSON.parse(localStorage.getItem(key)) || {}; } catch { return {}; }
  };

  function chart(element, props, watch) {
    const host = element.querySelector(".tb-chart");
    const memory = "tuneboard.chart";
    const wish = { axis: "step", log: false, smoothing: 0.6, ...stored(memory) };
    let picture = null, large = "", pointed = null;

    const legend = make("div", { class: "tb-legend", "aria-live": "off" });
    const axes = Object.entries(AXES).map(([axis, title]) => {
      const button = make("button", { type: "button", "data-axis": axis }, title);
      button.onclick = () => change({ axis });
      return button;
    });
    const log = make("button", { type: "button", class: "tb-toggle" }, "Log scale");
    log.onclick = () => change({ log: !wish.log });
    const slider = make("input", { type: "range", min: 0, max: 0.99, step: 0.01, "aria-label": "Smoothing" });
    const amount = make("output");
    slider.oninput = () => change({ smoothing: Number(slider.value) });
    const box = make("div", { class: "tb-plot", tabindex: 0 });
    const spot = make("span", { class: "tb-place" });
    const small = make("div", { class: "tb-smalls" });
    host.replaceChildren(
      make("div", { class: "tb-chart-bar" },
        make("div", { class: "tb-segment", role: "group", "aria-label": "Horizontal axis" }, ...axes), log,
        make("label", { class: "tb-smoothing" }, "Smoothing", slider, amount)),
      legend, box, small);
    const plot = new Plot(box, true);
    box.append(spot);
    const minis = new Map();

    const change = (part) => {
      Object.assign(wish, part);
      localStorage.setItem(memory, JSON.stringify(wish));
      // The other charts of this page follow, and so do other tabs (by the storage event).
      window.dispatchEvent(new CustomEvent("tuneboard-wish", { detail: wish }));
    };
    const follow = (next) => { Object.assign(wish, next); render(); };
    const panels = () => picture?.panels || [];
    const main = () => panels().find((panel) => panel.key === large) || panels()[0];

    const entry = (kind, name, value) =>
      make("span", { class: `tb-key ${kind}` }, make("i", {}), `${name} `, make("b", {}, value));
    const tell = () => {
      const panel = main();
      if (!panel) return legend.replaceChildren();
      const found = pointed === null ? null : plot.nearest(pointed);
      plot.point(found);
      const lead = found && (found.find((one) => !one.series.eval) || found[0]);
      const rows = panel.series.map((series, i) => {
        const last = plot.lines[i], one = found?.[i];
        const value = one ? one.y : series.raw.y.at(-1);
        const even = one ? one.smooth : last.smooth?.y.at(-1);
        const name = series.eval ? "evaluation" : series.name.startsWith("train/") ? "train" : panel.title.toLowerCase();
        return entry(series.eval ? "tb-eval" : "tb-train", name,
          worth(value, panel.unit) + behind(panel.unit)
            + (even === null || even === undefined ? "" : ` (smooth ${worth(even, panel.unit)})`));
      });
      const where = lead ? lead.points : null;
      const place = where
        ? [`step ${where.step[lead.i].toLocaleString("en-GB")}`, duration(where.time[lead.i]),
           ...(picture.tokens ? [`${short(where.tokens[lead.i])} tokens`] : [])].join(" · ")
        : "";
      legend.replaceChildren(make("strong", {}, panel.title), ...rows);
      spot.textContent = place;
    };

    const render = () => {
      axes.forEach((button) => {
        button.setAttribute("aria-pressed", button.dataset.axis === wish.axis);
        button.disabled = button.dataset.axis === "tokens" && picture !== null && !picture.tokens;
      });
      log.setAttribute("aria-pressed", wish.log);
      slider.value = wish.smoothing;
      amount.value = wish.smoothing.toFixed(2);
      host.classList.toggle("tb-no-points", !main());
      if (!main()) return legend.replaceChildren(), plot.marks.replaceChildren(), small.replaceChildren(), minis.clear();
      plot.show(picture, main(), wish);
      if (plot.size) tell();
      renderSmall();
    };

    const renderSmall = () => {
      const keys = panels().map((panel) => panel.key);
      for (const [key, mini] of minis) if (!keys.includes(key)) { mini.tile.remove(); minis.delete(key); }
      for (const panel of panels()) {
        let mini = minis.get(panel.key);
        if (!mini) {
          const value = make("b"), area = make("div", { class: "tb-mini" });
          const tile = make("button", { type: "button", class: "tb-tile" }, make("span", { title: panel.title }, panel.title), value, area);
          tile.onclick = () => { large = panel.key; render(); };
          mini = { tile, value, plot: new Plot(area, false) };
          minis.set(panel.key, mini);
        }
        const last = panel.series[0].raw.y.at(-1) ?? NaN;
        mini.value.replaceChildren(panel.unit === "share" ? share(last) : short(last), make("small", {}, behind(panel.unit)));
        mini.tile.setAttribute("aria-pressed", panel === main());
      }
      // In the picture's order, whichever run was in sight before; moved only when it must, as moving takes the focus.
      const tiles = keys.map((key) => minis.get(key).tile);
      if (tiles.some((tile, i) => small.children[i] !== tile)) small.replaceChildren(...tiles);
      for (const panel of panels()) minis.get(panel.key).plot.show(picture, panel, wish);
    };

    const receive = () => {
      const next = props.value ? JSON.parse(props.value) : null;
      element.style.display = props.value === "null" ? "none" : "";
      if (next?.run !== picture?.run) { large = ""; pointed = null; small.scrollTop = 0; }
      picture = next;
      render();
    };

    box.onpointermove = (event) => {
      if (!plot.size || !main()) return;
      const at = event.clientX - box.getBoundingClientRect().left;
      const zero = plot.x(0), unit = plot.x(1) - zero;
      pointed = (at - zero) / unit;
      tell();
    };
    box.onpointerleave = () => { pointed = null; if (main() && plot.size) tell(); };
    box.onblur = box.onpointerleave;
    box.onkeydown = (event) => {
      const stride = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
      if (!stride || !plot.lines) return;
      event.preventDefault();
      const points = plot.lines[0].raw[plot.axis];
      const here = pointed === null ? points.length - 1 : plot.nearest(pointed)[0].i + stride;
      pointed = points[Math.max(0, Math.min(points.length - 1, here))];
      tell();
    };

    window.addEventListener("tuneboard-wish", (event) => host.isConnected && follow(event.detail));
    window.addEventListener("storage", (event) => event.key === memory && host.isConnected && follow(stored(memory)));
    const fit = new ResizeObserver(() => render());
    fit.observe(box);
    fit.observe(small);
    watch("value", receive);
    receive();
  }

  window.tuneboard = { ...window.tuneboard, chart };
})();
