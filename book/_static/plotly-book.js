/* Draws the page's plotly figures: when they come near the viewport, in the page's theme, with native controls.
   Sliders, menus and buttons of a figure become <input type=range>, <select> and <button> above or below it, so they
   work by keyboard, touch and screen reader and take the page's colours. */
(() => {
  "use strict";
  const DARK_INK = 235, DARK_PAPER = 18;
  const plots = [];
  const isDark = () => document.documentElement.dataset.theme === "dark";

  // ---- colours -------------------------------------------------------------------------------------------------
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();

  /* A neutral colour (black, white, greys) mirrored for the dark page; any other colour as it is. */
  function mirrored(colour) {
    if (!known.has(colour)) known.set(colour, mirror(colour));
    return known.get(colour);
  }
  function mirror(colour) {
    if (!CSS.supports("color", colour)) return colour;
    if (/^#2a3f5f$/i.test(colour)) colour = "#444444"; // the ink of plotly's own templates is a dark blue
    probe.fillStyle = "#000";
    probe.fillStyle = colour;
    const text = probe.fillStyle;
    const parts = text[0] === "#"
      ? [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16)).concat(1)
      : text.match(/[\d.]+/g).map(Number);
    const [r, g, b, a] = parts;
    if (a === 0 || Math.max(r, g, b) - Math.min(r, g, b) > 24) return colour;
    const v = Math.round(DARK_PAPER + ((255 - (r + g + b) / 3) * (DARK_INK - DARK_PAPER)) / 255);
    return `rgba(${v},${v},${v},${a})`;
  }
  /* Mirrors every neutral colour below `value`, in place; colour scales of the data are left alone. */
  function recolour(value, key = "") {
    if (typeof value === "string") return /color$/i.test(key) ? mirrored(value) : value;
    if (Array.isArray(value)) {
      if (key === "colorscale" || key === "z") return value;
      for (let i = 0; i < value.length; i++) if (typeof value[i] !== "number") value[i] = recolour(value[i], key);
    } else if (value && typeof value === "object") {
      for (const name of Object.keys(value)) {
        if (name === "colorscale" || name === "colorway") continue;
        value[name] = recolour(value[name], name.split(".").pop());
      }
    }
    return value;
  }
  /* Fills in what a bare figure leaves to plotly's white defaults. */
  function withDefaults(layout) {
    const template = (layout.template ||= {});
    const base = (template.layout ||= {});
    base.margin = { l: 10, r: 10, t: 40, b: 10, ...base.margin };
    base.font = { color: "#333333", ...base.font };
    for (const name of ["xaxis", "yaxis"]) base[name] = { gridcolor: "#d8d8d8", zerolinecolor: "#c8c8c8", linecolor: "#999999", automargin: true, ...base[name] };
    const wall = { backgroundcolor: "#f4f4f4", gridcolor: "#cccccc", showbackground: true, zerolinecolor: "#bbbbbb" };
    base.scene ||= {};
    for (const name of ["xaxis", "yaxis", "zaxis"]) base.scene[name] = { ...wall, ...base.scene[name] };
    layout.paper_bgcolor ||= "rgba(0,0,0,0)";
    layout.plot_bgcolor ||= base.plot_bgcolor && base.plot_bgcolor !== "#E5ECF6" ? base.plot_bgcolor : "rgba(0,0,0,0)";
    if (layout.plot_bgcolor === "rgba(0,0,0,0)") for (const name of ["xaxis", "yaxis"])
      if (base[name].gridcolor === "white") Object.assign(base[name], { gridcolor: "#d8d8d8", zerolinecolor: "#c8c8c8", linecolor: "#999999" });
    return layout;
  }

  // ---- one figure ----------------------------------------------------------------------------------------------
  class Plot {
    constructor(host, index) {
      this.host = host;
      this.source = host.querySelector("script").textContent;
      this.used = []; // controls in the order of their last use, to be replayed after a theme switch
      this.drawn = false;
      const alt = host.querySelector(".jl-plot-alt");
      alt.id = `jl-plot-alt-${index}`;
      host.setAttribute("aria-describedby", alt.id);
      this.name = host.getAttribute("aria-label");
    }
    /* The figure in today's theme and width; its sliders and menus are taken out. */
    figure() {
      const spec = JSON.parse(this.source);
      const layout = withDefaults(spec.layout || {});
      const { sliders = [], updatemenus = [] } = layout;
      delete layout.sliders;
      delete layout.updatemenus;
      delete layout.width;
      if (plain((layout.title || {}).text)) { // the title stands above the plot as text that wraps and can be selected
        this.title = plain(layout.title.text);
        delete layout.title;
        layout.margin = { ...layout.margin, t: Math.max(30, ((layout.margin || {}).t ?? ((layout.template.layout.margin || {}).t ?? 90)) - 40) };
      }
      layout.autosize = true;
      layout.uirevision = "keep"; // zoom and camera outlive a theme switch
      const figure = { data: spec.data, layout, frames: spec.frames || [], config: { ...spec.config, responsive: true, displaylogo: false } };
      if (this.host.clientWidth < 520) this.narrow(layout);
      if (isDark()) recolour(figure);
      return { figure, sliders: sliders.filter(shown), menus: updatemenus.filter(shown) };
    }
    /* Phone: smaller type, small multiples below one another. */
    narrow(layout) {
      const margin = { ...layout.template.layout.margin, ...layout.margin };
      layout.margin = { ...margin, l: Math.min(margin.l ?? 40, 40), r: Math.min(margin.r ?? 10, 10) }; // axes make their own room
      layout.font = { ...layout.font, size: Math.min(12, (layout.font && layout.font.size) || 12) };
      stack(layout);
    }
    draw() {
      if (this.drawn) return;
      this.drawn = true;
      const { figure, sliders, menus } = this.figure();
      const canvas = (this.canvas = document.createElement("div"));
      canvas.className = "jl-canvas";
      if (this.title) this.host.append(make("p", { class: "jl-plot-title" }, this.title));
      this.host.append(canvas);
      this.controls = [...menus.map((menu) => menuControl(this, menu)), ...sliders.map((slider) => sliderControl(this, slider))];
      if (menus.length) this.host.insertBefore(row(this.controls.slice(0, menus.length)), canvas);
      if (sliders.length) this.host.append(row(this.controls.slice(menus.length)));
      canvas.style.height = `${figure.layout.height || 450}px`;
      this.host.classList.add("jl-drawn");
      this.ready = Plotly.newPlot(canvas, figure).then(() => {
        this.label();
        canvas.on("plotly_afterplot", () => this.label());
        canvas.on("plotly_animatingframe", (frame) => this.controls.forEach((control) => control.follow && control.follow(frame.name)));
        canvas.on("plotly_click", ({ points }) => this.pick((points[0] || {}).customdata));
        this.host.dataset.drawn = "1";
        this.host.style.minHeight = "";
      });
    }
    /* A click on a mark whose customdata names a frame goes to that frame; the slider follows. */
    pick(name) {
      const known = JSON.parse(this.source).frames || [];
      if (!known.some((frame) => frame.name === name)) return;
      Plotly.animate(this.canvas, [name], { mode: "immediate", frame: { duration: 0, redraw: true }, transition: { duration: 0 } });
    }
    /* The drawing is one image to a screen reader; its layers are not. */
    label() {
      this.canvas.querySelectorAll(".main-svg").forEach((svg, i) => {
        if (i === 0) { svg.setAttribute("role", "img"); svg.setAttribute("aria-label", this.name); }
        else svg.setAttribute("aria-hidden", "true");
      });
    }
    async repaint() {
      if (!this.drawn) return;
      await this.ready;
      const { figure } = this.figure();
      await Plotly.react(this.canvas, figure);
      this.canvas.style.height = `${figure.layout.height || 450}px`;
      for (const control of this.used) await control.apply();
    }
    remember(control) {
      this.used = this.used.filter((other) => other !== control).concat(control);
    }
    /* Runs one step of a plotly control: its method and its arguments. */
    async run(control, method, args) {
      this.remember(control);
      await this.ready;
      const own = JSON.parse(JSON.stringify(args || []));
      if (isDark()) recolour(own);
      if (method && method !== "skip") await Plotly[method](this.canvas, ...own);
    }
  }
  const shown = (control) => control.visible !== false;
  const plain = (text) => String(text ?? "").replace(/<[^>]*>/g, " ").trim();

  /* Grid of subplots -> one column, in reading order; each keeps its title above it. */
  function stack(layout) {
    const axes = Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key) && layout[key].domain && layout[key].anchor);
    const cells = axes.map((key) => ({ x: layout[key], y: layout["yaxis" + layout[key].anchor.slice(1)] })).filter((cell) => cell.y && cell.y.domain);
    if (cells.length < 2 || new Set(cells.map((cell) => cell.x.domain[0])).size < 2) return;
    if ((layout.shapes || []).some((shape) => shape.xref === "paper") || cells.some((cell) => cell.x.overlaying || cell.y.overlaying)) return;
    cells.sort((a, b) => b.y.domain[1] - a.y.domain[1] || a.x.domain[0] - b.x.domain[0]);
    const slot = 1 / cells.length, titles = layout.annotations || [];
    const rows = new Set(cells.map((cell) => cell.y.domain[1])).size;
    const moves = cells.map((cell, i) => {
      const [left, right] = cell.x.domain, top = cell.y.domain[1], high = 1 - i * slot;
      return { left, right, top, high, cell, domain: [high - slot * 0.66, high] };
    });
    for (const title of titles) {
      if (title.xref !== "paper" || title.yref !== "paper") continue;
      const home = moves.find((move) => title.x >= move.left - 0.01 && title.x <= move.right + 0.01 && Math.abs(title.y - move.top) < 0.02);
      if (home) Object.assign(title, { x: 0.5, y: home.high });
    }
    for (const move of moves) { move.cell.x.domain = [0, 1]; move.cell.y.domain = move.domain; }
    layout.height = Math.round(((layout.height || 450) * cells.length) / rows);
  }

  // ---- native controls -----------------------------------------------------------------------------------------
  let serial = 0;
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  function row(controls) {
    return make("div", { class: "jl-controls" }, ...controls.map((control) => control.element));
  }
  function sliderControl(plot, slider) {
    const id = `jl-control-${serial++}`, steps = slider.steps || [];
    const prefix = plain((slider.currentvalue || {}).prefix).replace(/[:=]\s*$/, "") || slider.name || "step";
    const input = make("input", { id, type: "range", min: 0, max: Math.max(0, steps.length - 1), step: 1, value: slider.active || 0 });
    const value = make("output", { for: id });
    const show = () => {
      const step = steps[input.value] || {};
      value.textContent = plain(step.label);
      input.setAttribute("aria-valuetext", value.textContent);
    };
    const control = {
      element: make("div", { class: "jl-slider" }, make("label", { for: id }, prefix), input, value),
      apply: () => { const step = steps[input.value] || {}; return plot.run(control, step.method, step.args); },
      follow: (frame) => {
        const at = steps.findIndex((step) => ((step.args || [])[0] || [])[0] === frame);
        if (at >= 0) { input.value = at; show(); plot.remember(control); }
      },
    };
    input.addEventListener("input", () => { show(); control.apply(); });
    show();
    return control;
  }
  function menuControl(plot, menu) {
    const choices = (menu.buttons || []).filter(shown), named = menu.name || "";
    let active = menu.active ?? 0;
    const lasting = choices.some((choice) => choice.method !== "animate"); // Play and Pause leave no state to replay
    const run = () => plot.run(control, choices[active].method, choices[active].args);
    const control = { apply: () => (lasting ? run() : undefined) };
    if (menu.type !== "buttons") {
      const id = `jl-control-${serial++}`;
      const select = make("select", { id }, ...choices.map((choice, i) => make("option", { value: i }, plain(choice.label))));
      select.value = Math.max(0, active);
      select.addEventListener("change", () => { active = Number(select.value); run(); });
      control.element = make("div", { class: "jl-select" }, make("label", { for: id }, named || "Show"), select);
      return control;
    }
    const buttons = choices.map((choice, i) => {
      const button = make("button", { type: "button" }, plain(choice.label));
      button.addEventListener("click", () => { active = i; mark(); run(); });
      return button;
    });
    const mark = () => lasting && buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === active)));
    mark();
    control.element = make("div", { class: "jl-buttons", role: "group", "aria-label": named || plot.name }, ...buttons);
    return control;
  }

  // ---- the page ------------------------------------------------------------------------------------------------
  function start() {
    document.querySelectorAll(".jl-plot").forEach((host, i) => plots.push(new Plot(host, i)));
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const plot = plots.find((other) => other.host === entry.target);
        if (!entry.isIntersecting) continue;
        if (!plot.drawn) plot.draw();
        else plot.ready.then(() => Plotly.Plots.resize(plot.canvas)); // it may have been drawn while hidden
      }
    }, { rootMargin: "600px 0px" });
    plots.forEach((plot) => near.observe(plot.host));
    new MutationObserver(() => plots.forEach((plot) => plot.repaint())).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    let narrow = window.innerWidth < 560;
    window.addEventListener("resize", () => {
      if (narrow !== window.innerWidth < 560) { narrow = !narrow; plots.forEach((plot) => plot.repaint()); }
    });
    // paper is white: draw everything, in the light theme
    let screenTheme = null;
    window.addEventListener("beforeprint", () => {
      screenTheme = document.documentElement.dataset.theme;
      document.documentElement.dataset.theme = "light";
      plots.forEach((plot) => plot.draw());
    });
    window.addEventListener("afterprint", () => { if (screenTheme) document.documentElement.dataset.theme = screenTheme; });
  }
  start(); // deferred: the document is parsed
})();
