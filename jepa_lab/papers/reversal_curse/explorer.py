"""The figures of chapter 11: what knowing partners is worth, learning beside its ceilings, and the fact explorer.

The explorer works in the page without a kernel; with one, `live_fact_explorer` trains on facts that a reader types.
plotly, ipywidgets and anywidget are imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa_lab import figures
from jepa_lab.data.facts import generated as facts
from jepa_lab.data.facts import real as real_facts
from jepa_lab.papers.reversal_curse import arms as fact_arms
from jepa_lab.papers.reversal_curse import entanglement
from jepa_lab.papers.reversal_curse import scores as recall
from jepa_lab.papers.reversal_curse.models import ConceptJEPA

HERE = Path(__file__).parent
TYPED = """Ada Byron | teaches | Bela Kun
Bela Kun | employs | Cleo Byron
Cleo Byron | teaches | Dora Kun
Dora Kun | employs | Ada Byron
Emil Stone | teaches | Fay Rivers
Fay Rivers | employs | Gil Stone
Gil Stone | teaches | Hal Rivers
Hal Rivers | employs | Emil Stone
? Ida West | teaches | Jon East
? Ida West | employs | Kim East
? Lea West | is taught by | Kim East
? Lea West | works for | Jon East"""
TYPED_RELATIONS = "teaches | is taught by\nemploys | works for"


# Figures


def blind_figure(most: int = 6):
    """Three readers of a world with R = 1 .. `most` relation pairs, R on a slider: what each scores on reversed facts.

    The middle one knows everybody's partners and ignores the relation; its scores are `recall.blind` on a generated
    world.
    """
    import plotly.graph_objects as go

    frames, said, scores = [], [], ("accuracy", "MRR", "P")
    for pairs in range(1, most + 1):
        world = facts.generate(40, 24, pairs, None, torch.Generator().manual_seed(0))
        blind = recall.blind(world.partners(), world.reversed)
        knows = {
            "knows nothing": (1 / world.num_entities, None, 0.5),
            "knows the partners, ignores the relation": (blind.accuracy, blind.mrr, 0.5),
            "knows the fact": (1.0, 1.0, 1.0),
        }
        bars = [
            go.Bar(
                name=who,
                x=list(scores),
                y=[None if v is None else round(v, 3) for v in row],
                marker=dict(color=figures.PALETTE[colour]),
                text=["" if v is None else f"{v:.2f}" for v in row],
                textposition="outside",
            )
            for (who, row), colour in zip(knows.items(), (7, 1, 0))
        ]
        fig = go.Figure(
            bars,
            dict(
                height=420,
                yaxis=dict(range=[0, 1.12], title=dict(text="score on reversed facts")),
                legend=dict(orientation="v", y=1.02),
            ),
        )
        frames.append((str(pairs), figures.house(fig)))
        said.append(f"R = {pairs}: accuracy {blind.accuracy:.2f}, MRR {blind.mrr:.2f}")
    text = f"Bars for three readers. The one who knows the partners alone scores, with P always 0.5: {'; '.join(said)}. With R = 1 there is no other partner to beat."
    figure = figures.with_slider(frames, "relation pairs R", description=text)
    for frame in figure.frames:
        frame.layout = {}
    return figure.update_layout(margin=dict(t=110))


def beside(fig, axis: str = "y", **levels: float):
    """The figure with reference lines across its values' axis, named in the legend: `beside(fig, chance=0.01, ...)`; _
    reads as a space.
    """
    import plotly.graph_objects as go

    if axis == "y":
        ends = [min(min(t.x) for t in fig.data if t.x), max(max(t.x) for t in fig.data if t.x)]
    else:
        ends = sorted(fig.layout.yaxis.range)
    said = []
    for (name, level), line in zip(levels.items(), ("dash", "dot", "dashdot", "longdash", "longdashdot")):
        label, at = f"{name.replace('_', ' ')} {level:.3g}", [level, level]
        x, y = (ends, at) if axis == "y" else (at, ends)
        fig.add_trace(
            go.Scatter(
                x=x, y=y, mode="lines", name=label, line=dict(color="#7A7A7A", dash=line, width=2), hoverinfo="skip"
            )
        )
        said.append(label)
    fig.layout.meta = dict(description=f"{fig.layout.meta['description']} Marked: {', '.join(said)}.")
    return fig


def by_arm(records: Sequence[dict], field: str) -> dict[str, list[float]]:
    """Values of records named '<arm>: <field>', as {arm: one per record}."""
    names = dict.fromkeys(name for record in records for name in record["values"] if name.endswith(f": {field}"))
    return {
        name.removesuffix(f": {field}"): [r["values"][name] for r in records if name in r["values"]] for name in names
    }


def stored_figure(
    records: Sequence[dict],
    name: str,
    field: str = "test accuracy",
    title: str = "reversed facts answered",
    **levels: float,
):
    """Stored long runs of one experiment by arm; a line of Markdown that says what is missing where there are none.

    Fewer than three seeds are said in the title, for no verdict follows from them.
    """
    from IPython.display import Markdown

    held = by_arm(records, field)
    if not held:
        return Markdown(f"*No run of “{name}” is stored yet, so there is nothing to draw and nothing is concluded.*")
    seeds = len({record["seed"] for record in records})
    few = "" if seeds > 2 else f" (only {seeds} seed{'s' * (seeds > 1)}: too few to conclude)"
    return beside(figures.claim_figure(held, {}, title, title=f"Stored runs: {name}{few}"), "x", **levels)


def layer_lines(records: Sequence[dict]) -> str:
    """Mean cosine of hidden activations by arm and layer, over stored records: names that share a token, and others."""
    lines = []
    for name in dict.fromkeys(
        name for record in records for name in record["values"] if ": cosine of other names, " in name
    ):
        arm, layer = name.split(": cosine of other names, ")
        held = [
            [r["values"][key] for r in records if key in r["values"]]
            for key in (f"{arm}: cosine of sharing names, {layer}", name)
        ]
        means = [f"{sum(values) / len(values):.3f}" if values else "  –  " for values in held]
        lines.append(f"{arm:38s} {layer:14s} share a token {means[0]}   others {means[1]}")
    return "\n".join(lines)


def overlap_figure(measured: entanglement.Entanglement, most: int = 1500):
    """alpha . beta against measured contamination, a dot per pair of entities (every k-th of them)."""
    import plotly.graph_objects as go

    known = ~measured.overlap.isnan()
    across, up = measured.overlap[known], measured.contamination[known]
    kept = slice(None, None, max(1, len(across) // most))
    dots = go.Scatter(
        x=[round(v, 3) for v in across[kept].tolist()],
        y=[round(v, 3) for v in up[kept].tolist()],
        mode="markers",
        marker=dict(color=figures.PALETTE[0], size=5, opacity=0.5),
        hoverinfo="skip",
    )
    fig = go.Figure(
        dots,
        dict(
            height=420,
            xaxis=dict(title=dict(text="α·β / α·α: what the argument predicts")),
            yaxis=dict(title=dict(text="contamination: what really moved")),
        ),
    )
    overlap, moved = measured.mean()
    text = f"A cloud of {len(across)} pairs. Mean size of the overlap {overlap:.3f}, of the contamination {moved:.3f}; correlation {measured.correlation():.3f}."
    return figures.house(fig, text, "Does the overlap of activations predict who is moved?")


# The explorer in the page


def scores(model: recall.Model, facts_Q3: Int64[Tensor, "Q 3"]) -> Float[Tensor, "Q E"]:
    """Every entity's score as the answer to each fact's question: log-likelihood of whole names where names are
    spelled.
    """
    training, facts_Q3 = model.training, facts_Q3.to(model.names.device)
    model.eval()
    spelled = recall.spells(model)
    scores_QE = (
        torch.stack([recall.ask(model, s, r) for s, r, _ in facts_Q3.tolist()])
        if spelled
        else recall.entity_scores(model, facts_Q3)
    )
    model.train(training)
    return scores_QE.cpu()


def asked(world: facts.World, subjects: Sequence[int]) -> list[list[dict]]:
    """For every subject and its partners, the fact and the same fact backwards, each as {s, r, o, taught}."""
    taught = {tuple(row) for row in world.train.tolist()}
    said = taught | {tuple(row) for row in world.reversed.tolist()}
    partners, pairs = world.partners().tolist(), []
    for s in subjects:
        for pair, o in enumerate(partners[s]):
            r = next((r for r in (2 * pair, 2 * pair + 1) if (s, r, o) in said), None)
            if r is not None:
                pairs.append(
                    [{"s": a, "r": q, "o": b, "taught": (a, q, b) in taught} for a, q, b in ((s, r, o), (o, r ^ 1, s))]
                )
    return pairs


def choose(world: facts.World, per_group: tuple[int, int]) -> list[int]:
    """A few entities of group A (taught both ways) and of group B (one way), evenly drawn over each group."""
    groups = [world.taught[:, 0].unique(), world.reversed[:, 0].unique()]
    return [
        int(g[i])
        for g, count in zip(groups, per_group)
        for i in torch.linspace(0, len(g) - 1, min(count, len(g))).long()
    ]


def explorer_data(
    trained: Mapping[str, fact_arms.Trained], per_group: tuple[int, int] = (8, 16), mapped: int = 640
) -> dict:
    """What the page's explorer shows, as plain lists with few digits; under 300 kB for six arms and three relation
    pairs.

    trained: arms by name on one seed's world; where their names differ (concept level), those of the first arm are
    read.
    """
    if not trained:
        raise ValueError("give the explorer at least one trained arm")
    world = next(iter(trained.values())).facts.to("cpu")
    world = world if world.labels else real_facts.persons(world)
    pairs = asked(world, choose(world, per_group))
    questions = [q for both in pairs for q in both]
    facts_Q3 = torch.tensor([[q["s"], q["r"], q["o"]] for q in questions])
    for name, one in trained.items():
        scores_QE = scores(one.model, facts_Q3)
        for q, rank, row in zip(questions, recall.rank(scores_QE, facts_Q3[:, 2]).tolist(), scores_QE.softmax(1)):
            top = row.topk(min(5, len(row)))
            q.setdefault("answers", {})[name] = [rank, top.indices.tolist(), [round(v, 3) for v in top.values.tolist()]]
    jepas = {name: one.model for name, one in trained.items() if isinstance(one.model, ConceptJEPA)}
    shown = {e for q in questions for e in (q["s"], *(i for _, top, _ in q["answers"].values() for i in top))}
    near, partners = _near(jepas, {there["s"] for there, _ in pairs}, world.names), world.partners().tolist()
    shown |= {e for rows in near.values() for e, _ in rows} | {
        p for there, _ in pairs for p in partners[there["s"]] if p >= 0
    }
    drawn = sorted(shown | set(range(min(mapped, world.num_entities))))
    planes = {name: recall.embedding_map(model)[drawn].tolist() for name, model in jepas.items()}
    tests_T3 = torch.tensor([[q["s"], q["r"], q["o"]] for q in questions if not q["taught"]])
    alike = {
        name: round(entanglement.consistency(one.model), 3)
        for name, one in trained.items()
        if _one_vector(one.model)
    }
    return {
        "arms": list(trained),
        "source": world.source,
        "relations": list(world.relations),
        "count": world.num_entities,
        "blind": round(recall.blind(world.partners(), tests_T3).accuracy, 3),
        "labels": {str(e): world.labels[e] for e in sorted(shown)},
        "pairs": pairs,
        "partners": {str(s): partners[s] for s in sorted({q["s"] for q in questions})},
        "drawn": drawn,
        "maps": {name: [[round(v, 2) for v in xy] for xy in plane] for name, plane in planes.items()},
        "near": {str(s): row for s, row in near.items()},
        "layers": {
            name: [[layer, *map(_digits, row)] for layer, row in entanglement.by_layer(one.model).items()]
            for name, one in trained.items()
        },
        "consistency": alike,
    }


def _one_vector(model: recall.Model) -> bool:
    return isinstance(model, ConceptJEPA) or model.names.shape[1] == 1


def _digits(value: float) -> float | None:
    return round(value, 3) if value == value else None


def _near(jepas: Mapping[str, ConceptJEPA], subjects: set[int], names: Tensor) -> dict[int, list]:
    """Per subject the entities whose names share a token: [entity, cosine of last hidden activations in the first
    JEPA], at most 4.
    """
    if not jepas:
        return {}
    model = next(iter(jepas.values()))
    everyone = torch.arange(len(names), device=model.names.device)
    alpha_EH = torch.nn.functional.normalize(entanglement.hidden_activations(model, everyone), dim=1).cpu()
    rows = {}
    for s in sorted(subjects):
        others = entanglement.sharing(names[s : s + 1], names)[0].nonzero()[:, 0]
        rows[s] = [[int(e), _digits(float(alpha_EH[s] @ alpha_EH[e]))] for e in others if int(e) != s][:4]
    return rows


@lru_cache
def _widget_class():
    import anywidget
    import traitlets

    class FactExplorer(anywidget.AnyWidget):
        """Shows precomputed answers in the browser; `data` as from `explorer_data`."""

        _esm = HERE / "explorer.js"
        _css = HERE / "explorer.css"
        data = traitlets.Dict().tag(sync=True)

    return FactExplorer


def fact_explorer(trained: Mapping[str, fact_arms.Trained], per_group: tuple[int, int] = (8, 16)):
    """The explorer as a widget that needs no kernel: an entity and a relation, every arm's answers there and back, map
    and binding.
    """
    return _widget_class()(data=explorer_data(trained, per_group))


# The explorer on facts of the reader's own


def train_on(world: facts.World, steps: int, seed: int = 0, progress: bool = True) -> dict[str, fact_arms.Trained]:
    """The autoregressive model and JEPA, trained on any world with equal steps; a batch is at most the training set."""
    cfg = fact_arms.Config(num_steps=steps, batch_size=min(256, len(world.train)), log_every=max(1, steps // 5))
    return {name: fact_arms.train_variant(cfg, name, world, seed, progress=progress) for name in ("AR", "JEPA")}


def summary(trained: Mapping[str, fact_arms.Trained]) -> str:
    """Scores of every arm beside the relation-blind ceiling, in lines."""
    lines = [f"{'':6s} taught  reversed   (P: over another partner)"]
    for name, one in trained.items():
        lines.append(
            f"{name:6s} {one.atomic.accuracy:6.2f} {one.reversed.accuracy:9.2f}   {one.reversed.over_partner:.2f}"
        )
    one = next(iter(trained.values()))
    return "\n".join(
        [
            *lines,
            f"relation-blind ceiling {fact_arms.ceiling(one.facts).accuracy:.2f}, chance {1 / one.facts.num_entities:.4f}",
        ]
    )


def live_fact_explorer(steps: int = 1000):
    """With a running kernel: trains both models on facts the reader types, or on countries, and opens the explorer on
    them.

    In a page without a kernel its button does nothing: show `fact_explorer` there.
    """
    import ipywidgets as widgets
    from IPython.display import display

    wide = dict(style={"description_width": "9rem"}, layout={"width": "34rem"})
    source = widgets.Dropdown(options=["typed below", "countries"], description="Facts", **wide)
    typed = widgets.Textarea(TYPED, description="One fact a line", rows=12, **wide)
    relations = widgets.Textarea(TYPED_RELATIONS, description="Relation pairs", rows=2, **wide)
    count = widgets.IntSlider(steps, 1, 5000, description="Training steps", **wide)
    button, out = widgets.Button(description="Train"), widgets.Output()

    def train(_) -> None:
        out.clear_output()
        with out:
            try:
                countries = source.value == "countries"
                world = (
                    real_facts.countries(torch.Generator().manual_seed(0))
                    if countries
                    else real_facts.typed(typed.value, relations.value)
                )
                since = time.perf_counter()
                trained = train_on(world, count.value)
                print(f"{time.perf_counter() - since:.0f} s\n{summary(trained)}")
                display(fact_explorer(trained, per_group=(4, 8)))
            except ValueError as reason:
                print(reason)

    button.on_click(train)
    note = widgets.HTML(
        "A line is taught both ways; one that begins with ? is taught as it stands and asked backwards."
    )
    return widgets.VBox([note, source, typed, relations, count, button, out])
