// The fact explorer: what does each model answer, forward and backward? Draws answers that were computed before.

import { chip, element, extent, linear, percent, picker, shape, table, uniqueId, widget } from "../../widgets/kit.js";

// ---- reading the data -------------------------------------------------------------------------------

/** What an answer is: "right", "partner" (another partner of the subject) or "other". */
function kindOf(data, question, answer) {
  if (answer === question.o) return "right";
  return (data.partners[question.s] ?? []).includes(answer) ? "partner" : "other";
}

/** How a model did on one question: its answer, the answer's kind and the rank of the right entity. */
export function outcome(data, question, arm) {
  const [rank, [answer]] = question.answers[arm];
  return { answer, rank, kind: rank === 1 ? "right" : kindOf(data, question, answer) };
}

/** Entities that can be picked, with the indices of their facts and whether something about them is a test. */
export function subjects(data) {
  const found = new Map();
  data.pairs.forEach(([forward, backward], i) => {
    const entry = found.get(forward.s) ?? { id: forward.s, facts: [], tested: false };
    entry.facts.push(i);
    entry.tested ||= !(forward.taught && backward.taught);
    found.set(forward.s, entry);
  });
  return [...found.values()];
}

/** How often each model is right on the questions of this page that were never taught, as [model, right, of]. */
export function tally(data) {
  const tests = data.pairs.flat().filter((question) => !question.taught);
  const right = (arm) => tests.filter((question) => question.answers[arm][0] === 1).length;
  return data.arms.map((arm) => [arm, right(arm), tests.length]);
}

// ---- the answers to one question --------------------------------------------------------------------

const SIGNS = { right: "✓", partner: "◐", other: "✗" };
const MEANINGS = { right: "right", partner: "another partner: right people, wrong relation", other: "wrong" };

const name = (data, id) => data.labels[id] ?? `#${id}`;
const section = (title, ...parts) => element("section", { class: "jl-f-card" }, element("h3", {}, title), ...parts);
const tableWithCaption = (caption, heads, rows) => table(caption, heads, rows, caption);

/** A row of the table of answers: model, sign and answer, rank of the right entity. */
function answerRow(data, question, arm) {
  const { answer, rank, kind } = outcome(data, question, arm);
  const meaning = { role: "img", "aria-label": MEANINGS[kind], title: MEANINGS[kind] };
  const sign = chip(`jl-f-${kind}`, SIGNS[kind], meaning);
  return [arm, element("span", {}, sign, ` ${name(data, answer)}`), `${rank}`];
}

/** One of the first five answers as a bar: entity, bar, share. */
function answerBar(data, question, id, share) {
  const width = `width:${Math.max(1, 100 * share)}%`;
  const fill = element("span", { class: `jl-f-fill jl-f-${kindOf(data, question, id)}`, style: width });
  return element(
    "li",
    {},
    element("span", { class: "jl-f-who" }, name(data, id)),
    element("span", { class: "jl-f-bar" }, fill),
    element("span", { class: "jl-f-share" }, share < 0.001 ? "< 0.1 %" : percent(share, 1)),
  );
}

/** One question: the answer of every model, and the first five answers of the chosen one. */
function questionCard(data, question, arm) {
  const asked = `${name(data, question.s)} ${data.relations[question.r]} …?`;
  const badge = question.taught
    ? element("span", { class: "jl-f-badge" }, "taught")
    : element("span", { class: "jl-f-badge jl-f-test" }, "never taught: the test");
  const heads = ["Model", "Answer", "Rank of the right one"];
  const rows = data.arms.map((each) => answerRow(data, question, each));
  const [, top, shares] = question.answers[arm];
  return section(
    asked,
    element("p", {}, "Right: ", element("b", {}, name(data, question.o)), " ", badge),
    tableWithCaption(`Answers to “${asked}”`, heads, rows),
    element("p", { class: "jl-x-note" }, `${arm}: its first five answers, share among all ${data.count} entities`),
    element("ol", {}, ...top.map((id, i) => answerBar(data, question, id, shares[i]))),
  );
}

// ---- the map of concepts ----------------------------------------------------------------------------

/** The entities to mark on the map, by id: {letter, kind, what}. Later entries replace earlier ones. */
function marked(data, question) {
  const people = new Map();
  const partners = (data.partners[question.s] ?? []).filter((id) => id >= 0);
  for (const id of partners) people.set(id, { letter: "p", kind: "partner", what: "another partner of it" });
  for (const [id] of data.near[question.s] ?? []) {
    people.set(id, { letter: "n", kind: "near", what: "shares a name token with it" });
  }
  people.set(question.o, { letter: "o", kind: "right", what: "the other end of the fact" });
  people.set(question.s, { letter: "s", kind: "subject", what: "the entity you picked" });
  return people;
}

/** The map of one model's concepts: everybody in grey, the entities of this fact marked and lettered. */
function conceptMap(data, arm, question) {
  const size = 320;
  const plane = data.maps[arm];
  const places = new Map(data.drawn.map((id, i) => [id, plane[i]]));
  const px = linear(extent(plane.map(([x]) => x)), [14, size - 14]);
  const py = linear(extent(plane.map(([, y]) => y)), [size - 14, 14]);
  const people = marked(data, question);
  const words = [...people].map(([id, { what }]) => `${name(data, id)}: ${what}`).join("; ");
  const label = `Map of the concepts of ${arm}. ${words}`;
  const svg = shape("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label });
  for (const [x, y] of plane) svg.append(shape("circle", { class: "jl-f-dot", cx: px(x), cy: py(y), r: 2 }));
  for (const [id, { letter, kind }] of people) {
    const [x, y] = places.get(id);
    svg.append(shape("circle", { class: `jl-f-person jl-f-${kind}`, cx: px(x), cy: py(y), r: 8 }));
    svg.append(shape("text", { class: "jl-f-letter", x: px(x), y: py(y) + 4, "text-anchor": "middle" }, letter));
  }
  const entries = [...people].reverse().map(([id, { letter, kind, what }]) => {
    return element("li", {}, chip(`jl-f-${kind}`, letter), ` ${name(data, id)}, ${what}`);
  });
  return [svg, element("ul", { class: "jl-f-legend" }, ...entries)];
}

function mapCard(data, arm, question) {
  const title = "Where the concepts lie";
  if (data.maps[arm]) {
    const intro = element("p", {}, `${arm}: two largest principal components of all concepts`);
    return section(title, intro, ...conceptMap(data, arm, question));
  }
  const reason = "spells answers token by token and compares no concepts, so there is no map of it. Pick a JEPA.";
  return section(title, element("p", {}, `${arm} ${reason}`));
}

// ---- how names are bound ----------------------------------------------------------------------------

function bindingCard(data, arm, question) {
  const number = (v) => (v === null ? "–" : v.toFixed(2));
  const layers = data.layers[arm].map(([layer, sharing, others]) => [layer, number(sharing), number(others)]);
  const heads = ["Layer", "names that share a token", "names that do not"];
  const tables = [tableWithCaption(`${arm}: mean cosine of hidden activations`, heads, layers)];
  const near = (data.near[question.s] ?? []).map(([id, v]) => [name(data, id), number(v)]);
  if (near.length) {
    const caption = `${Object.keys(data.maps)[0]}: how like ${name(data, question.s)} are names that share a token?`;
    tables.push(tableWithCaption(caption, ["Name", "cosine, last recognition layer"], near));
  }
  const alike = Object.entries(data.consistency).map(([each, v]) => [each, number(v)]);
  if (alike.length) {
    const note = "1 by construction where both are one vector";
    const caption = `Consistency: cosine of an entity as subject and as answer (${note})`;
    tables.push(tableWithCaption(caption, ["Model", "mean cosine"], alike));
  }
  return section("Binding", ...tables);
}

// ---- the page ---------------------------------------------------------------------------------------

/** The chosen fact in words, forward and backward. */
function sentence(data, [forward, backward], arm) {
  const inWords = (question) => {
    const { kind, rank } = outcome(data, question, arm);
    return `${question.taught ? "taught" : "never taught"}; ${MEANINGS[kind]}, rank ${rank}`;
  };
  return `${arm}. Forward: ${inWords(forward)}. Backward: ${inWords(backward)}.`;
}

/** Right answers of every model to the tests of this page, beside what the partners alone give. */
function tallyText(data) {
  const counted = tally(data);
  const tests = counted[0]?.[2] ?? 0;
  const scores = counted.map(([arm, right]) => `${arm} ${right}`).join(", ");
  const blind = (data.blind * tests).toFixed(1);
  const first = `Right answers to the ${tests} questions on this page that were never taught: ${scores}.`;
  return `${first} A reader who knows the partners but not the relation gets ${blind} on average.`;
}

/** The options of the entity picker in two groups: something about them is a test, or everything was taught. */
function entityGroups(data, list) {
  const labels = [
    [true, "taught one way (group B)"],
    [false, "taught both ways (group A)"],
  ];
  const groups = labels.map(([tested, label]) => {
    const members = list.filter((entry) => entry.tested === tested);
    const options = members.map(({ id }) => element("option", { value: id }, name(data, id)));
    return element("optgroup", { label }, ...options);
  });
  return groups.filter((group) => group.children.length);
}

/** Builds the explorer inside `host`; `data` as from `explorer_data` in explorer_data.py. */
export function mount(host, data) {
  const id = uniqueId("jl-f");
  const list = subjects(data);
  const arm = data.arms.find((each) => data.maps[each]) ?? data.arms[0];
  const state = { subject: list.find((entry) => entry.tested) ?? list[0], fact: 0, arm };
  const cards = element("div", { class: "jl-f-cards" });
  const status = element("p", { class: "jl-f-said", "aria-live": "polite" });

  const draw = () => {
    const pair = data.pairs[state.subject.facts[state.fact]];
    status.textContent = sentence(data, pair, state.arm);
    const questions = pair.map((question) => questionCard(data, question, state.arm));
    cards.replaceChildren(...questions, mapCard(data, state.arm, pair[0]), bindingCard(data, state.arm, pair[0]));
  };
  const chooseEntity = (value) => {
    state.subject = list.find((entry) => `${entry.id}` === value);
    state.fact = 0;
    const relations = state.subject.facts.map((fact) => data.relations[data.pairs[fact][0].r]);
    what.input.replaceChildren(...relations.map((text, i) => element("option", { value: i }, text)));
    draw();
  };
  const change = (key) => (value) => {
    state[key] = value;
    draw();
  };
  const who = picker(`${id}-who`, "Entity", [], chooseEntity);
  const what = picker(`${id}-what`, "Relation", [], change("fact"));
  const models = data.arms.map((each) => [each, each]);
  const which = picker(`${id}-arm`, "Model in detail", models, change("arm"));
  who.input.append(...entityGroups(data, list));
  who.input.value = `${state.subject.id}`;
  which.input.value = state.arm;

  const picks = element("div", { class: "jl-f-picks" }, who.node, what.node, which.node);
  host.classList.add("jl-explorer", "jl-facts");
  host.replaceChildren(picks, status, cards, element("p", { class: "jl-f-tally" }, tallyText(data)));
  chooseEntity(who.input.value);
}

export default widget(mount);
