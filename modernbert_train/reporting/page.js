"use strict";
// Adds to the static pictures: values under the pointer, zoom into a stretch of tokens, curves that hide, dark or light.
(() => {
  const SIZE = 1000, SUFFIXES = [["T", 1e12], ["B", 1e9], ["M", 1e6], ["K", 1e3]];
  const root = document.documentElement, tip = document.getElementById("tip");
  root.classList.add("scripted");
  const SVG = "http://www.w3.org/2000/svg";
  const make = (tag, attributes, content) => {
    const element = document.createElementNS(SVG, tag);
    for (const name in attributes) element.setAttribute(name, attributes[name]);
    if (content !== undefined) element.textContent = content;
    return element;
  };

  const significant = (value, digits) => String(+value.toPrecision(digits));
  const tokens = value => {
    const [suffix, factor] = SUFFIXES.find(([, factor]) => value >= factor) || ["", 1];
    return significant(value / factor, 3) + suffix;
  };
  const format = (form, value) => {
    if (form === "tokens") return tokens(value);
    if (form.endsWith("%")) return (100 * value).toFixed(+form.slice(1, -1)) + "%";
    if (form.endsWith("g")) return significant(value, +form.slice(1, -1) || 6);
    return value.toFixed(+form.slice(1, -1));
  };
  const ticks = (low, high, most) => {
    if (!(high > low)) return [low];
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map(factor => factor * power).find(step => step >= rough * (1 - 1e-9));
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n <= high / step + 1e-9; n++) found.push(n * step);
    return found;
  };
  const logTicks = (low, high) => {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high)), found = [];
    for (let power = first; power <= last; power++)
      for (const factor of high <= 1000 * low ? [1, 2, 5] : [1]) found.push(factor * 10 ** power);
    return found.filter(value => value >= low && value <= high);
  };

  // The values of a curve between two places, and at both of them.
  const within = (points, from, to) => points.flatMap(([x, y], place) => {
    const [before, last] = points[place - 1] || [x, y];
    const at = [from, to].filter(edge => before < edge && edge < x).map(edge => last + (edge - before) / (x - before) * (y - last));
    return x >= from && x <= to ? [...at, y] : at;
  });

  class Chart {
    constructor(svg) {
      this.svg = svg;
      this.plot = svg.querySelector("svg.plot");
      const data = svg.dataset;
      this.form = data.form;
      [this.mostX, this.mostY] = data.ticks.split(" ").map(Number);
      this.log = data.log === "1";
      this.full = [+data.x0, +data.x1, +data.y0, +data.y1];
      this.box = ["x", "y", "width", "height"].map(name => +this.plot.getAttribute(name));
      this.view = this.full;
      this.series = [...this.plot.querySelectorAll("path[data-name]")].map(path => ({
        path, name: path.dataset.name, isRaw: path.classList.contains("raw"),
        points: [...path.getAttribute("d").matchAll(/[ML](\S+) ([^MLh]+)/g)].map(([, x, y]) => this.value(+x, +y)),
      }));
      // The browser would show the title of a picture over the values.
      const [title, description] = ["title", "desc"].map(name => svg.querySelector(name));
      svg.setAttribute("aria-label", `${title.textContent}. ${description.textContent}`);
      svg.removeAttribute("aria-labelledby");
      title.remove();
      this.cursor = svg.querySelector(".cursor");
      this.brush = svg.querySelector(".brush");
      this.listen();
    }
    scale(y) { return this.log ? Math.log10(y) : y; }
    unscale(y) { return this.log ? 10 ** y : y; }
    // From the inner picture, which shows the full range, to values.
    value(x, y) {
      const [x0, x1, low, high] = this.full;
      const y0 = this.scale(low), y1 = this.scale(high);
      return [x0 + x / SIZE * (x1 - x0), this.unscale(y1 - y / SIZE * (y1 - y0))];
    }
    across(x) { const [x0, x1] = this.view; return this.box[0] + (x - x0) / (x1 - x0) * this.box[2]; }
    down(y) {
      const y0 = this.scale(this.view[2]), y1 = this.scale(this.view[3]);
      return this.box[1] + (y1 - this.scale(y)) / (y1 - y0) * this.box[3];
    }
    visible() { return this.series.filter(series => !series.path.classList.contains("off")); }

    zoom(range) {
      const [x0, x1, y0, y1] = this.full;
      if (!range || range[1] <= x0 || range[0] >= x1) this.view = this.full;
      else {
        const from = Math.max(x0, range[0]), to = Math.min(x1, range[1]);
        const inside = this.visible().filter(series => !series.path.classList.contains("reference"))
          .flatMap(series => within(series.points, from, to)).map(y => this.scale(y));
        let low = Math.min(...inside), high = Math.max(...inside);
        if (!inside.length || !(high > low)) [low, high] = [this.scale(y0), this.scale(y1)];
        else [low, high] = [low - .06 * (high - low), high + .06 * (high - low)];
        this.view = [from, to, this.unscale(low), this.unscale(high)];
      }
      this.redraw();
    }
    redraw() {
      const [x0, x1, y0, y1] = this.view, [X0, X1, Y0, Y1] = this.full;
      const s0 = this.scale(y0), s1 = this.scale(y1), S0 = this.scale(Y0), S1 = this.scale(Y1);
      const numbers = [(x0 - X0) / (X1 - X0), (S1 - s1) / (S1 - S0), (x1 - x0) / (X1 - X0), (s1 - s0) / (S1 - S0)];
      this.plot.setAttribute("viewBox", numbers.map(number => number * SIZE).join(" "));
      const [left, top, width, height] = this.box;
      const steps = this.log ? logTicks(y0, y1) : ticks(y0, y1, this.mostY);
      const digits = steps.length > 1 ? Math.max(0, -Math.floor(Math.log10(Math.abs(steps[1] - steps[0]) * 1.001))) : 3;
      const label = y => this.form === "tokens" || y >= 1e4 ? tokens(y)
        : this.form.endsWith("%") ? (100 * y).toFixed(Math.max(0, digits - 2)) + "%" : significant(y, 6);
      this.svg.querySelector(".yticks").replaceChildren(...steps.flatMap(y => [
        make("line", {x1: left, x2: left + width, y1: this.down(y), y2: this.down(y)}),
        make("text", {x: left - 6, y: this.down(y) + 4, "text-anchor": "end"}, label(y))]));
      this.svg.querySelector(".xticks").replaceChildren(...ticks(x0, x1, this.mostX)
        .filter(x => this.across(x) < left + width + 2)
        .map(x => make("text", {x: this.across(x), y: top + height + 18, "text-anchor": x <= x0 ? "start" : "middle"}, tokens(x))));
      for (const rect of this.svg.querySelectorAll(".bands rect")) {
        const start = Math.max(left, this.across(+rect.dataset.start)), end = Math.min(left + width, this.across(+rect.dataset.end));
        rect.setAttribute("x", start);
        rect.setAttribute("width", Math.max(0, end - start));
        const name = rect.nextElementSibling;
        if (name && name.tagName === "text") {
          name.setAttribute("x", (start + end) / 2);
          name.style.display = end - start > 6.5 * name.textContent.length ? "" : "none";
        }
      }
    }

    // The values next to a place on the x axis.
    show(x, pointer) {
      const [left, top, width, height] = this.box, at = this.across(x);
      if (at < left || at > left + width) return this.hide();
      for (const [name, value] of Object.entries({x1: at, x2: at, y1: top, y2: top + height})) this.cursor.setAttribute(name, value);
      this.cursor.style.visibility = "visible";
      if (!pointer) return;
      const near = (this.view[1] - this.view[0]) / 50;
      const found = this.visible().filter(series => !series.isRaw && series.points.length).map(series => {
        const best = series.points.reduce((a, b) => Math.abs(a[0] - x) <= Math.abs(b[0] - x) ? a : b);
        return {series, value: best[1], is: x >= series.points[0][0] - near && x <= series.points[series.points.length - 1][0] + near};
      }).filter(item => item.is).sort((a, b) => b.value - a.value);
      const heading = document.createElement("b");
      heading.textContent = tokens(x) + " tokens";
      tip.replaceChildren(heading, ...found.slice(0, 24).map(({series, value}) => {
        const row = document.createElement("div"), mark = document.createElement("i"), number = document.createElement("em");
        mark.className = [...series.path.classList].find(name => /^(c\d|grey)$/.test(name));
        number.textContent = format(this.form, value);
        row.append(mark, series.name, number);
        return row;
      }));
      tip.style.visibility = "visible";
      const room = tip.getBoundingClientRect(), isLeft = pointer.pageX + room.width + 24 > scrollX + innerWidth;
      tip.style.left = (isLeft ? pointer.pageX - room.width - 14 : pointer.pageX + 14) + "px";
      tip.style.top = pointer.pageY + 12 + "px";
    }
    hide() { this.cursor.style.visibility = "hidden"; }

    listen() {
      const place = event => {
        const screen = this.svg.getScreenCTM(), at = (event.clientX - screen.e) / screen.a;
        const inside = Math.min(Math.max(at, this.box[0]), this.box[0] + this.box[2]);
        return [inside, this.view[0] + (inside - this.box[0]) / this.box[2] * (this.view[1] - this.view[0])];
      };
      let start = null;
      this.svg.addEventListener("pointermove", event => {
        const [at, x] = place(event);
        charts.forEach(chart => chart.show(x, chart === this ? event : null));
        if (!start) return;
        const attributes = {x: Math.min(at, start[0]), width: Math.abs(at - start[0]), y: this.box[1], height: this.box[3]};
        for (const name in attributes) this.brush.setAttribute(name, attributes[name]);
        this.brush.style.visibility = "visible";
      });
      this.svg.addEventListener("pointerleave", () => { charts.forEach(chart => chart.hide()); tip.style.visibility = "hidden"; });
      this.svg.addEventListener("pointerdown", event => {
        if (event.button || event.pointerType === "touch") return;
        start = place(event);
        this.svg.setPointerCapture(event.pointerId);
        event.preventDefault();
      });
      this.svg.addEventListener("pointerup", event => {
        const end = start && place(event);
        if (end && Math.abs(end[0] - start[0]) > 6) zoomAll([start[1], end[1]].sort((a, b) => a - b));
        start = null;
        this.brush.style.visibility = "hidden";
      });
      this.svg.addEventListener("dblclick", () => zoomAll(null));
      let focus = null;
      this.svg.addEventListener("keydown", event => {
        const direction = {ArrowLeft: -1, ArrowRight: 1}[event.key];
        if (event.key === "Escape") zoomAll(null);
        if (!direction) return;
        const [x0, x1] = this.view, box = this.svg.getBoundingClientRect();
        focus = Math.min(x1, Math.max(x0, (focus ?? x0) + direction * (x1 - x0) / 50));
        const screen = this.svg.getScreenCTM();
        charts.forEach(chart => chart.show(focus, chart === this ? {
          pageX: scrollX + screen.e + screen.a * this.across(focus), pageY: scrollY + box.top + box.height / 3} : null));
        event.preventDefault();
      });
    }
  }

  const charts = [...document.querySelectorAll("svg.chart[data-x1]")].filter(svg => +svg.dataset.x1 > 0).map(svg => new Chart(svg));
  let range = null;
  const zoomAll = wanted => {
    range = wanted;
    root.classList.toggle("zoomed", Boolean(range));
    charts.forEach(chart => chart.zoom(range));
  };
  for (const figure of charts.map(chart => chart.svg.closest("figure:not(.panel)")).filter(Boolean)) {
    const button = document.createElement("button");
    Object.assign(button, {type: "button", className: "zoom", textContent: "Reset zoom"});
    button.addEventListener("click", () => zoomAll(null));
    figure.append(button);
  }
  for (const button of document.querySelectorAll("button[data-key]"))
    button.addEventListener("click", () => {
      const isShown = button.getAttribute("aria-pressed") === "false";
      for (const same of document.querySelectorAll(`[data-key="${CSS.escape(button.dataset.key)}"]`))
        same === button || same.tagName === "BUTTON" ? same.setAttribute("aria-pressed", isShown) : same.classList.toggle("off", !isShown);
      if (range) zoomAll(range);
    });
  document.querySelector(".theme").addEventListener("click", () => {
    const isDark = (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    root.dataset.theme = isDark ? "light" : "dark";
  });
})();
