"""What the notebook of chapter 01 records and shows: scores, their tables, and the numbers behind each claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jepa_lab import figures, image_world
from jepa_lab.checkpoints import TrainState
from jepa_lab.image_world import ImageData
from jepa_lab.papers.masking import paper
from jepa_lab.probes.scores import Score
from jepa_lab.records import Record

Scores = Mapping[str, Mapping[str, Score]]  # name of the features -> kind of score -> score
KINDS = {"few_label": "10 labels per class", "linear": "linear probe", "knn": "kNN"}
BASELINES = {  # claim: what I-JEPA is compared with, by accuracy with 10 labels per class
    "features-beat-pixels": "pixel targets",
    "blocks-beat-random": "random tokens",
    "blocks-beat-single": "one large block",
    "output-beats-input": "masked at the input",
    "beats-random": "random initialisation",
    "beats-pixels": "raw pixels",
}


def points(scores: Scores, kind: str) -> dict[str, float]:
    """Accuracy in percent of one kind, by name."""
    return {name: 100 * found[kind].value for name, found in scores.items()}


def put_scores(record: Record, scores: Scores, ema_scores: Mapping[str, Score], prefix: str = "") -> None:
    """Write scores into the record: of encoders as "kind: NAME, encoder", of EMA copies and controls as "kind: NAME".

    ema_scores: accuracy of the EMA copies, by the names of their arms, with 10 labels per class.
    """
    for name in scores:
        suffix = ", encoder" if name in ema_scores else ""
        for kind in KINDS:
            record.value(f"{prefix}{kind}: {name}{suffix}", points(scores, kind)[name])
    for name, score in ema_scores.items():
        record.value(f"{prefix}few_label: {name}", 100 * score.value)


def score_table(scores: Scores, ema_scores: Mapping[str, Score], caption: str):
    """Accuracy of encoders and controls by kind of score, and of the EMA copies with 10 labels per class."""
    rows = []
    for name, found in scores.items():
        cells = [_percent(found[kind]) for kind in KINDS]
        ema_copy = _percent(ema_scores[name]) if name in ema_scores else ""
        rows.append((name, *cells, ema_copy))
    return figures.table(caption, ("arm", *KINDS.values(), "EMA copy, 10 labels"), rows)


def _percent(score: Score) -> str:
    return f"{100 * score.value:.1f} ± {50 * (score.high - score.low):.1f}"


def cost_table(states: Mapping[str, TrainState], scores: Scores, caption: str):
    """What each change costs in points of few-label accuracy, and the rank of the features at the end."""
    few = points(scores, "few_label")
    rows = [
        (name, f"{few['I-JEPA'] - few[name]:.1f}", f"{state.history['rankme'][-1]:.1f}")
        for name, state in states.items()
    ]
    return figures.table(caption, ("change", "cost, points", "rank of the features"), rows)


def claim_pairs(scores: Scores, canvas_scores: Scores) -> dict[str, tuple[float, float]]:
    """Value and baseline of every claim, from the scores of trained encoders and controls."""
    few, canvas = points(scores, "few_label"), points(canvas_scores, "linear")
    pairs = {claim: (few["I-JEPA"], few[name]) for claim, name in BASELINES.items()}
    one_block, four_blocks = (few.get(paper.block_count(count), few["I-JEPA"]) for count in (1, 4))
    pairs["four-beat-one"] = four_blocks, one_block
    best_pixels = max(points(canvas_scores, kind)["raw pixels"] for kind in ("linear", "knn"))
    pairs["clutter-beats-random"] = canvas["I-JEPA"], canvas["random initialisation"]
    pairs["clutter-beats-pixels"] = canvas["I-JEPA"], best_pixels
    return pairs


def result_figure(study: Sequence[dict], kind: str, values: Mapping[str, float], title: str, prefix: str = ""):
    """The study's accuracies and this run's, by arm."""
    past = image_world.past(study, f"{prefix}{kind}", values)
    return figures.claim_figure(past, values, f"accuracy, {KINDS[kind]}, %", title=title)


def put_data(record: Record, data: ImageData, kind: str | None = None) -> None:
    """Note the images in the record. kind: "generated" where the images were composed here."""
    source = data.source
    record.data(source.name, source.source, source.sha256, kind or source.kind)
