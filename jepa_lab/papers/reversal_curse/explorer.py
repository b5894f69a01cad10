"""The figures of chapter 11: what knowing partners is worth, learning beside its ceilings, and the fact explorer.

The explorer works in the page without a kernel; with one, `live_fact_explorer` trains on facts that a reader types.
plotly and ipywidgets are imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import torch

from jepa_lab import figures, widgets
from jepa_lab.data.facts import generated, real
from jepa_lab.data.facts.generated import FactWorld
from jepa_lab.papers.reversal_curse import scores
from jepa_lab.papers.reversal_curse.arms import Trained, ceiling, train_variant
from jepa_lab.papers.reversal_curse.config import Config
from jepa_lab.papers.reversal_curse.entanglement import Entanglement
from jepa_lab.papers.reversal_curse.explorer_data import explorer_data

SCRIPT = Path(__file__).with_suffix(".js")
LEVEL = "#7A7A7A"
DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")
SCORES = ("accuracy", "mean reciprocal rank", "relation-specific accuracy")
OTHERS = ": cosine of other names, "
SHARING = ": cosine of sharing names, "
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


# ---- figures ---------------------------------------------------------------------------------------


def _readers_figure(knows: Mapping[str, Sequence[float | None]]):
    """Bars of three scores for each reader; a score that has no value is left out."""
    import plotly.graph_objects as go

    bars = [
        go.Bar(
            name=reader,
            x=list(SCORES),
            y=[None if v is None else round(v, 3) for v in row],
            marker=dict(color=figures.PALETTE[place]),
            text=["" if v is None else f"{v:.2f}" for v in row],
            textposition="outside",
        )
        for (reader, row), place in zip(knows.items(), (7, 1, 0))
    ]
    height = dict(range=[0, 1.12], title=dict(text="score on reversed facts"))
    return figures.apply_theme(go.Figure(bars, dict(height=420, yaxis=height, legend=dict(orientation="v", y=1.02))))


def blind_figure(most: int = 6):
    """Three readers of facts with R = 1 .. `most` relation pairs, R on a slider: what each scores on reversed facts.

    The second reader knows everybody's partners and ignores the relation: `scores.blind` on generated facts.
    """
    frames, words = [], []
    for pairs in range(1, most + 1):
        facts = generated.generate(40, 24, pairs, None, torch.Generator().manual_seed(0))
        blind = scores.blind(facts.partners(), facts.reversed)
        knows = {
            "knows nothing": (1 / facts.num_entities, None, 0.5),
            "knows the partners, ignores the relation": (blind.accuracy, blind.mrr, 0.5),
            "knows the fact": (1.0, 1.0, 1.0),
        }
        frames.append((str(pairs), _readers_figure(knows)))
        words.append(f"R = {pairs}: accuracy {blind.accuracy:.2f}, mean reciprocal rank {blind.mrr:.2f}")
    description = (
        f"Bars for three readers. A reader who knows the partners alone scores: {'; '.join(words)}. "
        "The relation-specific accuracy of that reader is always 0.5. With R = 1 there is no other partner."
    )
    figure = figures.with_slider(frames, "relation pairs R", description=description)
    for frame in figure.frames:
        frame.layout = {}
    return figure.update_layout(margin=dict(t=110))


def beside(fig, axis: str = "y", **levels: float):
    """The figure with reference lines across its values' axis, named in the legend: `beside(fig, chance=0.01, ...)`;
    _ reads as a space.
    """
    import plotly.graph_objects as go

    if axis == "y":
        known = [trace.x for trace in fig.data if trace.x]
        ends = [min(map(min, known)), max(map(max, known))]
    else:
        ends = sorted(fig.layout.yaxis.range)
    labels = []
    for (name, level), dash in zip(levels.items(), DASHES):
        labels.append(f"{name.replace('_', ' ')} {level:.3g}")
        along, across = ("x", "y") if axis == "y" else ("y", "x")
        look = dict(mode="lines", line=dict(color=LEVEL, dash=dash, width=2), hoverinfo="skip")
        fig.add_trace(go.Scatter({along: ends, across: [level, level]}, name=labels[-1], **look))
    fig.layout.meta = dict(description=f"{figures.description_of(fig)} Marked: {', '.join(labels)}.")
    return fig


def by_arm(records: Sequence[dict], field: str) -> dict[str, list[float]]:
    """Values of records named '<arm>: <field>', as {arm: one per record}."""
    arms: dict[str, list[float]] = {}
    for record in records:
        for name, value in record["values"].items():
            if name.endswith(f": {field}"):
                arms.setdefault(name.removesuffix(f": {field}"), []).append(value)
    return arms


def stored_figure(
    records: Sequence[dict],
    name: str,
    field: str = "test accuracy",
    title: str = "reversed facts answered",
    **levels: float,
):
    """Stored long runs of one experiment by arm; a line of Markdown that says what is missing where there are none.

    The title says where there are fewer than three seeds: no verdict follows from them.
    """
    from IPython.display import Markdown

    held = by_arm(records, field)
    if not held:
        return Markdown(f"*No run of “{name}” is stored yet: there is nothing to draw and nothing is concluded.*")
    seeds = len({record["seed"] for record in records})
    few = "" if seeds > 2 else f" (only {seeds} seed{'s' * (seeds > 1)}: too few to conclude)"
    return beside(figures.claim_figure(held, {}, title, title=f"Stored runs: {name}{few}"), "x", **levels)


def layer_table(records: Sequence[dict]):
    """Mean cosine of hidden activations by arm and layer, over stored records: names that share a token, and others."""
    keys = dict.fromkeys(key for record in records for key in record["values"] if OTHERS in key)
    rows = []
    for key in keys:
        arm, layer = key.split(OTHERS)
        rows.append([arm, layer, _mean_of(records, f"{arm}{SHARING}{layer}"), _mean_of(records, key)])
    head = ["model", "layer", "names that share a token", "other names"]
    return figures.table("Mean cosine of hidden activations", head, rows)


def _mean_of(records: Sequence[dict], key: str) -> str:
    """The mean of a value over the records that hold it, as text."""
    values = [record["values"][key] for record in records if key in record["values"]]
    return f"{mean(values):.3f}" if values else "–"


def overlap_figure(measured: Entanglement, most: int = 1500):
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
    titles = {"xaxis": "α·β / α·α: predicted by the argument", "yaxis": "contamination: measured"}
    fig = go.Figure(dots, dict(height=420, **{axis: dict(title=dict(text=text)) for axis, text in titles.items()}))
    overlap, moved = measured.mean()
    words = (
        f"A cloud of {len(across)} pairs. Mean size of the overlap {overlap:.3f}, of the contamination {moved:.3f}; "
        f"correlation {measured.correlation():.3f}."
    )
    return figures.apply_theme(fig, words, "Does the overlap of activations predict which entities move?")


# ---- the explorer ----------------------------------------------------------------------------------


def fact_explorer(trained: Mapping[str, Trained], per_group: tuple[int, int] = (8, 16)):
    """The explorer as a widget that needs no kernel: an entity and a relation, every model's answers,
    map and binding.
    """
    return widgets.show(SCRIPT, explorer_data(trained, per_group))


def train_on(facts: FactWorld, steps: int, seed: int = 0, progress: bool = True) -> dict[str, Trained]:
    """The autoregressive model and JEPA, trained on any facts with equal steps; a batch is at most the training set."""
    cfg = Config(num_steps=steps, batch_size=min(256, len(facts.train)), log_every=max(1, steps // 5))
    return {name: train_variant(cfg, name, facts, seed, progress=progress) for name in ("AR", "JEPA")}


def summary(trained: Mapping[str, Trained]) -> str:
    """Scores of every model beside the relation-blind ceiling, in lines."""
    lines = [
        f"{name}: facts as taught {arm.atomic.accuracy:.2f}, reversed facts {arm.reversed.accuracy:.2f}, "
        f"relation-specific accuracy {arm.reversed.over_partner:.2f}"
        for name, arm in trained.items()
    ]
    facts = next(iter(trained.values())).facts
    levels = f"relation-blind ceiling {ceiling(facts).accuracy:.2f}, chance {1 / facts.num_entities:.4f}"
    return "\n".join([*lines, levels])


def live_fact_explorer(steps: int = 1000):
    """With a running kernel: trains both models on facts the reader types, or on countries, and opens the explorer on
    them.

    In a page without a kernel its button does nothing: show `fact_explorer` there.
    """
    import ipywidgets
    from IPython.display import display

    wide = dict(style={"description_width": "9rem"}, layout={"width": "34rem"})
    source = ipywidgets.Dropdown(options=["typed below", "countries"], description="Facts", **wide)
    typed = ipywidgets.Textarea(TYPED, description="One fact a line", rows=12, **wide)
    relations = ipywidgets.Textarea(TYPED_RELATIONS, description="Relation pairs", rows=2, **wide)
    count = ipywidgets.IntSlider(steps, 1, 5000, description="Training steps", **wide)
    button, out = ipywidgets.Button(description="Train"), ipywidgets.Output()

    def facts_now() -> FactWorld:
        if source.value == "countries":
            return real.countries(torch.Generator().manual_seed(0))
        return real.typed(typed.value, relations.value)

    def train(_) -> None:
        out.clear_output()
        with out:
            since = time.perf_counter()
            try:
                trained = train_on(facts_now(), count.value)
            except ValueError as reason:
                print(reason)
                return
            print(f"{time.perf_counter() - since:.0f} s\n{summary(trained)}")
            display(fact_explorer(trained, per_group=(4, 8)))

    button.on_click(train)
    note = ipywidgets.HTML(
        "A line is taught both ways; one that begins with ? is taught as it stands and asked backwards."
    )
    return ipywidgets.VBox([note, source, typed, relations, count, button, out])
