"""What the notebook of chapter 02 records and shows: scores, tables, and the numbers behind each claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jepa_lab import diagnostics, figures, image_world
from jepa_lab.checkpoints import TrainState
from jepa_lab.image_world import FeatureFn, ImageData
from jepa_lab.papers.predictors.paper import Config
from jepa_lab.papers.predictors.phase import Cell
from jepa_lab.probes.scores import Score
from jepa_lab.records import Record

STORED_METRICS = ("loss", "rankme", "feature_std", "cosine_to_mean")
AGAINST_LIMIT = {  # claim: the arm whose rank is compared with the alarm's limit
    "no-predictor-collapses": "no predictor",
    "no-stop-gradient-collapses": "no stop-gradient",
    "no-ema-collapses": "no EMA",
    "no-ema-survives": "no EMA",
    "sigreg-holds": "SIGReg",
    "vicreg-holds": "VICReg",
}
AGAINST_ARM = {  # claim: the two arms whose few-label accuracies are compared
    "deeper-predictor": ("predictor depth 4", "I-JEPA"),
    "narrow-predictor": ("predictor width 16", "I-JEPA"),
    "slower-ema": ("I-JEPA", "EMA 0.9"),
    "faster-ema": ("I-JEPA", "EMA 0.999"),
    "sigreg-matches": ("SIGReg", "I-JEPA"),
    "beats-random": ("I-JEPA", "random initialisation"),
}
States = Mapping[str, TrainState]
Scores = Mapping[str, Score]  # accuracy with 10 labels per class, by name


def put_phase(record: Record, histories: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Write the phase diagram into the record, by the names of its cells."""
    for name, history in histories.items():
        record.value(f"phase rank: {name}", history["rankme"][-1])
        record.series(f"phase rankme: {name}", history["step"], history["rankme"])
        record.series(f"phase loss: {name}", history["step"], history["loss"])


def points(scores: Scores) -> dict[str, float]:
    """Accuracy in percent, by name."""
    return {name: 100 * score.value for name, score in scores.items()}


def ranks_of(states: States, untrained: FeatureFn, data: ImageData) -> dict[str, float]:
    """RankMe of the mean latents of 1,000 images that no arm trained on, at the end of each run."""
    at_start = {"random initialisation": float(diagnostics.rankme(untrained(data.probe[:1000])))}
    return at_start | {name: state.history["rankme"][-1] for name, state in states.items()}


def put_arms(
    record: Record,
    states: States,
    scores: Scores,
    ema_scores: Scores,
    ranks: Mapping[str, float],
    seconds: Mapping[str, float],
) -> None:
    """Write the arms into the record: scores of encoders as "few_label: NAME, encoder", of EMA copies and controls as
    "few_label: NAME".
    """
    for name, value in points(scores).items():
        record.value(f"few_label: {name}, encoder" if name in ema_scores else f"few_label: {name}", value)
    for name, value in points(ema_scores).items():
        record.value(f"few_label: {name}", value)
    for name, rank in ranks.items():
        record.value(f"rankme: {name}", rank)
    for name, state in states.items():
        record.value(f"core-seconds per 100 steps: {name}", seconds[name])
        for metric in STORED_METRICS:
            record.series(f"{metric}: {name}", state.history["step"], state.history[metric])


def arm_table(states: States, scores: Scores, ema_scores: Scores, ranks: Mapping[str, float], caption: str):
    """Accuracy of encoder and EMA copy, rank, loss and the first alarm of every arm and control."""
    rows = []
    for name, score in scores.items():
        accuracy = f"{100 * score.value:.1f} ± {50 * (score.high - score.low):.1f}"
        if name in states:
            history = states[name].history
            alarm = diagnostics.first_alarm(history)
            rung = f"step {alarm[0]}" if alarm else "never"
            copy = f"{100 * ema_scores[name].value:.1f}"
            rows.append((name, accuracy, copy, f"{ranks[name]:.1f}", f"{history['loss'][-1]:.4f}", rung))
        else:
            rows.append((name, accuracy, "", f"{ranks[name]:.1f}" if name in ranks else "", "", ""))
    return figures.table(caption, ("arm", "10 labels, %", "EMA copy, %", "rank", "loss", "alarm"), rows)


def cost_table(mflop: Mapping[str, float], seconds: Mapping[str, float], caption: str):
    """Operations and core-seconds of every arm, also relative to I-JEPA."""
    rows = [
        (
            name,
            f"{mflop[name]:.1f}",
            f"{mflop[name] / mflop['I-JEPA']:.2f}",
            f"{seconds[name]:.2f}",
            f"{seconds[name] / seconds['I-JEPA']:.2f}",
        )
        for name in mflop
    ]
    return figures.table(caption, ("arm", "MFLOP", "relative", "core-seconds", "relative"), rows)


def breaks_table(states: States, few: Mapping[str, float], ranks: Mapping[str, float], caption: str):
    """Directions lost and points lost against I-JEPA, arms with the lowest rank first."""
    rows = []
    for name in sorted(states, key=ranks.get):
        lost, cost = ranks["I-JEPA"] - ranks[name], few["I-JEPA"] - few[name]
        rang = "rang" if diagnostics.first_alarm(states[name].history) else ""
        rows.append((name, f"{lost:.1f}", f"{cost:.1f}", rang))
    return figures.table(caption, ("change", "directions lost", "cost, points", "alarm"), rows)


def result_figure(study: Sequence[dict], kind: str, values: Mapping[str, float], unit: str, title: str):
    """The study's values and this run's, by arm."""
    return figures.claim_figure(image_world.past(study, kind, values), values, unit, title=title)


def pixel_lead_text(study: Sequence[dict], few: Mapping[str, float], arms: Sequence[str]) -> str:
    """By how much raw pixels beat the best arm, in this run and over the study's seeds."""
    best = max(arms, key=few.get)
    text = f"this run: raw pixels {few['raw pixels']:.1f} %, the best arm, {best}, {few[best]:.1f} %"
    past = {
        name: values for name, values in image_world.past(study, "few_label", ["raw pixels", *arms]).items() if values
    }
    pixels = past.pop("raw pixels", [])
    if not pixels or not past:
        return text
    gaps = [pixel - max(seed) for pixel, *seed in zip(pixels, *past.values())]
    return f"{text}\nstudy: raw pixels beat the best arm of each seed by {min(gaps):.1f} to {max(gaps):.1f} points"


def claim_pairs(
    cfg: Config,
    states: States,
    few: Mapping[str, float],
    ranks: Mapping[str, float],
    cells: Mapping[Cell, Mapping[str, Sequence[float]]],
) -> dict[str, tuple[float, float]]:
    """Value and baseline of every claim; accuracies are those of the trained encoders."""
    limit = diagnostics.rank_limit(cfg.width)
    pairs = {claim: (ranks[arm], limit) for claim, arm in AGAINST_LIMIT.items()}
    pairs |= {claim: (few[arm], few[control]) for claim, (arm, control) in AGAINST_ARM.items()}
    losses = [states[name].history["loss"][-1] for name in ("no stop-gradient", "I-JEPA")]
    pairs["loss-misleads"] = losses[0], losses[1]
    pairs["fast-predictor"] = cells[0.0, 10.0]["rankme"][-1], cells[0.0, 1.0]["rankme"][-1]
    return pairs
