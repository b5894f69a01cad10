// What the explorers share: elements, controls, tables, numbers. Nothing here needs a kernel or a network.
// jepa_lab.widgets puts the text of this file in the place of an explorer's import.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** An HTML element with attributes and children (elements or text). */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element; numbers are rounded to a thousandth, which keeps the page small. */
export function shape(tag, attributes = {}, ...children) {
  const rounded = Object.entries(attributes).map(([name, value]) => [
    name,
    typeof value === "number" ? Math.round(1000 * value) / 1000 : value,
  ]);
  return fill(document.createElementNS(SVG, tag), Object.fromEntries(rounded), children);
}

/** An id that no other explorer of the page has. */
export const uniqueId = (prefix) => `${prefix}-${Math.random().toString(36).slice(2, 9)}`;

// ---- numbers ----------------------------------------------------------------------------------------

export const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

/** Smallest and largest of the values. */
export const extent = (values) => [
  values.reduce((a, b) => Math.min(a, b), Infinity),
  values.reduce((a, b) => Math.max(a, b), -Infinity),
];

/** The straight line that takes [a, b] to [from, to]; a range without length goes to `from`. */
export const linear =
  ([a, b], [from, to]) =>
  (x) =>
    from + ((to - from) * (x - a)) / (b - a || 1);

export const percent = (x, digits = 0) => `${(100 * x).toFixed(digits)} %`;

/** A number with three digits; very large and very small ones with a power of ten. */
export function short(x) {
  const size = Math.abs(x);
  if (x === 0 || (size >= 1e-3 && size < 1e4)) return `${+x.toPrecision(3)}`;
  return x.toExponential(1).replace(".0e", "e").replace("e+", "e");
}

// ---- controls ---------------------------------------------------------------------------------------

/** A button that calls `pressed`; `attributes` may hold aria-pressed, role and the like. */
export function button(label, pressed, attributes = {}) {
  const node = element("button", { type: "button", ...attributes }, label);
  node.addEventListener("click", pressed);
  return node;
}

/** A labelled choice: {node, input}. `options` are [value, text]; `changed` gets the value as text. */
export function picker(id, label, options, changed) {
  const input = element("select", { id }, ...options.map(([value, text]) => element("option", { value }, text)));
  input.addEventListener("change", () => changed(input.value));
  return { node: element("div", { class: "jl-x-picker" }, element("label", { for: id }, label), input), input };
}

/** A labelled slider whose value is written beside the label by `show`: {node, input, set}. */
export function slider(id, label, { min, max, step, value, show }, changed) {
  const input = element("input", { type: "range", id, min, max, step, value });
  const output = element("output", { for: id });
  const say = () => {
    output.textContent = show(+input.value);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  const set = (wanted) => {
    input.value = wanted;
    say();
  };
  input.addEventListener("input", () => {
    say();
    changed(+input.value);
  });
  say();
  const node = element("div", { class: "jl-x-slider" }, element("label", { for: id }, label), output, input);
  return { node, input, set };
}

// ---- what is shown ----------------------------------------------------------------------------------

/** A table that scrolls sideways on a narrow page; the first cell of a row is its heading. */
export function table(label, heads, rows, ...caption) {
  const head = heads.map((text) => (text ? element("th", { scope: "col" }, text) : element("td")));
  const lines = rows.map(([first, ...cells]) =>
    element("tr", {}, element("th", { scope: "row" }, first), ...cells.map((cell) => element("td", {}, cell))),
  );
  const whole = element(
    "table",
    {},
    ...caption.map((text) => element("caption", {}, text)),
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...lines),
  );
  return element("div", { class: "jl-x-table", tabindex: "0", role: "group", "aria-label": label }, whole);
}

/** A letter or sign on a coloured ground; `kind` is the class that sets the colour. */
export const chip = (kind, letter, attributes = {}) =>
  element("span", { ...attributes, class: `jl-x-chip ${kind}` }, letter);

/** One entry of a legend: a swatch, whose class is `kind`, and its meaning. */
export const swatch = (kind, text) => element("span", {}, element("i", { class: kind }), text);

/** An explorer as anywidget calls it. */
export const widget = (mount) => ({ render: ({ model, el }) => mount(el, model.get("data")) });
