// The fact explorer: what does each model answer, there and back? Precomputed answers, drawn in the page without a kernel or a network.

// ---- reading the data -------------------------------------------------------------------------------

/** How an arm did on one question: the answer, "right" | "partner" | "other", and the rank of the right entity. */
export function outcome(data, question, arm) {
  const [rank, top] = question.answers[arm], said = top[0];
  const partner = (data.partners[question.s] ?? []).includes(said);
  return { said, rank, kind: rank === 1 ? "right" : partner ? "partner" : "other" };
}

/** Entities that can be picked, with the indices of their facts and whether something about them is a test. */
export function subjects(data) {
  const found = new Map();
  data.pairs.forEach(([there, back], i) => {
    const entry = found.get(there.s) ?? { id: there.s, facts: [], tested: false };
    entry.facts.push(i);
    entry.tested ||= !(there.taught && back.taught);
    found.set(there.s, entry);
  });
  return [...found.values()];
}

/** How often each arm is right on the questions of this page that were never taught, as [arm, right, of]. */
export function tally(data) {
  const tests = data.pairs.flat().filter((q) => !q.taught);
  return data.arms.map((arm) => [arm, tests.filter((q) => q.answers[arm][0] === 1).length, tests.length]);
}

// ---- the page ---------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const SIGN = { right: "✓", partner: "◐", other: "✗" };
const SAID = { right: "right", partner: "another partner: right people, wrong relation", other: "wrong" };
let instances = 0;

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function picker(id, label, changed) {
  const input = element("select", { id });
  input.addEventListener("change", () => changed(input.value));
  return { node: element("div", { class: "jl-f-pick" }, element("label", { for: id }, label), input), input };
}

const share = (p) => (p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);
const name = (data, id) => data.labels[id] ?? `#${id}`;

/** A table of rows, the first cell of each a heading. */
function table(caption, heads, rows) {
  const body = rows.map(([first, ...cells]) => element("tr", {}, element("th", { scope: "row" }, first), ...cells.map((c) => element("td", {}, c))));
  const top = element("tr", {}, ...heads.map((h) => element("th", { scope: "col" }, h)));
  const whole = element("table", {}, element("caption", {}, caption), element("thead", {}, top), element("tbody", {}, ...body));
  return element("div", { class: "jl-f-table", tabindex: "0", role: "group", "aria-label": caption }, whole);
}

/** One question: what every arm says to it, and the top answers of the chosen arm. */
function card(data, question, arm) {
  const asked = `${name(data, question.s)} ${data.relations[question.r]} …?`, goal = name(data, question.o);
  const badge = element("span", { class: question.taught ? "jl-f-badge" : "jl-f-badge jl-f-test" }, question.taught ? "taught" : "never taught: the test");
  const rows = data.arms.map((a) => {
    const { said, rank, kind } = outcome(data, question, a);
    const mark = element("span", { class: `jl-f-mark jl-f-${kind}`, role: "img", "aria-label": SAID[kind], title: SAID[kind] }, SIGN[kind]);
    return [a, element("span", {}, mark, ` ${name(data, said)}`), `${rank}`];
  });
  const [, top, shares] = question.answers[arm];
  const bars = top.map((id, i) => {
    const kind = id === question.o ? "right" : (data.partners[question.s] ?? []).includes(id) ? "partner" : "other";
    const fill = element("span", { class: `jl-f-fill jl-f-${kind}`, style: `width:${Math.max(1, 100 * shares[i])}%` });
    return element("li", {}, element("span", { class: "jl-f-who" }, name(data, id)), element("span", { class: "jl-f-bar" }, fill), element("span", { class: "jl-f-share" }, share(shares[i])));
  });
  return element("section", { class: "jl-f-card" },
    element("h4", {}, asked), element("p", {}, "Right: ", element("b", {}, goal), " ", badge),
    table(`Answers to “${asked}”`, ["Model", "Answer", "Rank of the right one"], rows),
    element("p", { class: "jl-f-top" }, `${arm}: its first five answers, share among all ${data.count} entities`), element("ol", {}, ...bars));
}

/** The map of one arm's concepts: everybody in grey, the people of this fact marked and lettered. */
function map(data, arm, there) {
  const plane = data.maps[arm], size = 320, at = new Map(data.drawn.map((id, i) => [id, plane[i]]));
  const bound = (k) => { const v = plane.map((p) => p[k]); return [Math.min(...v), Math.max(...v)]; };
  const [x0, x1] = bound(0), [y0, y1] = bound(1);
  const px = ([x]) => 14 + ((size - 28) * (x - x0)) / (x1 - x0 || 1), py = ([, y]) => size - 14 - ((size - 28) * (y - y0)) / (y1 - y0 || 1);
  const people = new Map();
  for (const id of data.partners[there.s] ?? []) if (id >= 0) people.set(id, ["p", "partner", "another partner of it"]);
  for (const [id] of data.near[there.s] ?? []) people.set(id, ["n", "near", "shares a name token with it"]);
  people.set(there.o, ["o", "right", "the other end of the fact"]);
  people.set(there.s, ["s", "subject", "the entity you picked"]);
  const said = [...people].map(([id, [, , what]]) => `${name(data, id)}: ${what}`).join("; ");
  const svg = shape("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": `Map of the concepts of ${arm}. ${said}` });
  for (const p of plane) svg.append(shape("circle", { class: "jl-f-dot", cx: px(p).toFixed(1), cy: py(p).toFixed(1), r: 2 }));
  for (const [id, [letter, kind]] of people) {
    const p = at.get(id);
    svg.append(shape("circle", { class: `jl-f-person jl-f-${kind}`, cx: px(p).toFixed(1), cy: py(p).toFixed(1), r: 8 }), shape("text", { class: "jl-f-letter", x: px(p).toFixed(1), y: (py(p) + 4).toFixed(1), "text-anchor": "middle" }, letter));
  }
  const legend = element("ul", { class: "jl-f-legend" }, ...[...people].reverse().map(([id, [letter, kind, what]]) => element("li", {}, element("span", { class: `jl-f-chip jl-f-${kind}` }, letter), ` ${name(data, id)}, ${what}`)));
  return [svg, legend];
}

function place(data, arm, there) {
  const section = element("section", { class: "jl-f-card" }, element("h4", {}, "Where the concepts lie"));
  if (data.maps[arm]) section.append(element("p", {}, `${arm}: two largest principal components of all concepts`), ...map(data, arm, there));
  else section.append(element("p", {}, `${arm} spells answers token by token and compares no concepts, so there is no map of it. Pick a JEPA.`));
  return section;
}

function binding(data, arm, there) {
  const section = element("section", { class: "jl-f-card" }, element("h4", {}, "Binding"));
  const num = (v) => (v === null ? "–" : v.toFixed(2));
  section.append(table(`${arm}: mean cosine of hidden activations`, ["Layer", "names that share a token", "names that do not"], data.layers[arm].map(([layer, a, b]) => [layer, num(a), num(b)])));
  const first = Object.keys(data.maps)[0], near = data.near[there.s] ?? [];
  if (near.length) section.append(table(`${first}: how like ${name(data, there.s)} are names that share a token?`, ["Name", "cosine, last recognition layer"], near.map(([id, v]) => [name(data, id), num(v)])));
  const alike = Object.entries(data.consistency);
  if (alike.length) section.append(table("Consistency: cosine of an entity as subject and as answer (1 by construction where both are one vector)", ["Model", "mean cosine"], alike.map(([a, v]) => [a, num(v)])));
  return section;
}

/** Builds the explorer inside `host`; `data` as from `explorer_data` in facts.py. */
export function mount(host, data) {
  const id = `jl-f-${++instances}`, list = subjects(data);
  const state = { subject: list.find((s) => s.tested) ?? list[0], fact: 0, arm: data.arms.find((a) => data.maps[a]) ?? data.arms[0] };
  const cards = element("div", { class: "jl-f-cards" }), said = element("p", { class: "jl-f-said", "aria-live": "polite" });
  const who = picker(`${id}-who`, "Entity", (v) => { state.subject = list.find((s) => `${s.id}` === v); state.fact = 0; relations(); draw(); });
  const what = picker(`${id}-what`, "Relation", (v) => { state.fact = +v; draw(); });
  const which = picker(`${id}-arm`, "Model in detail", (v) => { state.arm = v; draw(); });

  for (const [tested, label] of [[true, "taught one way (group B)"], [false, "taught both ways (group A)"]]) {
    const group = list.filter((s) => s.tested === tested);
    if (group.length) who.input.append(element("optgroup", { label }, ...group.map((s) => element("option", { value: s.id }, name(data, s.id)))));
  }
  which.input.append(...data.arms.map((a) => element("option", { value: a }, a)));
  const relations = () => what.input.replaceChildren(...state.subject.facts.map((f, i) => element("option", { value: i }, data.relations[data.pairs[f][0].r])));
  const draw = () => {
    const [there, back] = data.pairs[state.subject.facts[state.fact]];
    const lines = [there, back].map((q) => `${q.taught ? "taught" : "never taught"}: ${SAID[outcome(data, q, state.arm).kind]}, rank ${outcome(data, q, state.arm).rank}`);
    said.textContent = `${state.arm}. There, ${lines[0]}. Back, ${lines[1]}.`;
    cards.replaceChildren(card(data, there, state.arm), card(data, back, state.arm), place(data, state.arm, there), binding(data, state.arm, there));
  };
  const counted = tally(data);
  const sums = element("p", { class: "jl-f-tally" }, `Of the ${counted[0]?.[2] ?? 0} questions on this page that were never taught, right are: ${counted.map(([a, right]) => `${a} ${right}`).join(", ")}. Who knows the partners but not the relation gets ${(data.blind * (counted[0]?.[2] ?? 0)).toFixed(1)} on average.`);
  host.classList.add("jl-facts");
  host.replaceChildren(element("div", { class: "jl-f-picks" }, who.node, what.node, which.node), said, cards, sums);
  who.input.value = `${state.subject.id}`;
  which.input.value = state.arm;
  relations();
  draw();
}

export default { render: ({ model, el }) => {
  const show = () => mount(el, model.get("data"));
  model.on("change:data", show);
  show();
} };
