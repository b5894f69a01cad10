"""Figures and tables of chapter 11: learning curves and final scores of trained models, beside stored records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jepa_lab import figures
from jepa_lab.papers.reversal_curse.arms import Trained
from jepa_lab.papers.reversal_curse.chains import FRONTIER, ORDER_BLIND
from jepa_lab.papers.reversal_curse.config import Config
from jepa_lab.papers.reversal_curse.experiments import CHAINED

# Read from the paper's figures, second hand; the paper's MRR with one token per entity is from its Table 1.
PAPER = {"AR": 0.0, "JEPA": 0.72, "JEPA + memory": 0.8}
PAPER_MRR = PAPER | {"AR, concepts": 0.823}
PANEL = ("loss", "feature_std", "rankme", "cosine_to_mean")


# Models that were trained on this page


def with_history(trained: Mapping[str, Trained]) -> dict[str, Trained]:
    """The trained models without the random starts."""
    return {name: model for name, model in trained.items() if model.history}


def learning_curves(trained: Mapping[str, Trained], field: str, y_title: str, title: str):
    """One field of the history of every trained model, over the steps."""
    lines = {name: (model.history["step"], model.history[field]) for name, model in with_history(trained).items()}
    return figures.curves(lines, "step", y_title, title)


def collapse_panel(trained: Mapping[str, Trained], title: str):
    """Loss and collapse panel of every JEPA's concepts along training."""
    histories = {name: model.history for name, model in trained.items() if "rankme" in model.history}
    panel = {name: {metric: (row["step"], row[metric]) for metric in PANEL} for name, row in histories.items()}
    return figures.collapse_panel(panel, title)


def closed_choice(trained: Mapping[str, Trained], blind_mrr: float):
    """Table of every trained model's choice among the names of all entities, with the number of its weights."""
    rows = []
    for name, model in with_history(trained).items():
        weights = sum(p.numel() for p in model.model.parameters())
        scores = model.reversed
        rows.append([name, f"{weights:,}", f"{scores.closed:.3f}", f"{scores.mrr:.3f}", f"{blind_mrr:.3f}"])
    head = ["model", "weights", "right of all entities", "MRR", "relation-blind MRR"]
    return figures.table("Scores on reversed facts", head, rows)


def consistencies(values: Mapping[str, float]):
    """Table of the cosine of an entity's vectors as subject and as answer."""
    ending = ": consistency"
    rows = [[name.removesuffix(ending), f"{value:.3f}"] for name, value in values.items() if name.endswith(ending)]
    caption = "An entity as subject and as answer; 1 by construction where both are one embedding"
    return figures.table(caption, ["model", "cosine"], rows)


def frontier() -> dict[str, tuple]:
    """Shares of right answers of two frontier language models by branching factor, as lines for `figures.curves`."""
    return {name: (list(right), [count / 20 for count in right.values()]) for name, right in FRONTIER.items()}


def chain_table(values: Mapping[str, float], branching: int):
    """Table of the shares of right values by model and kind of question; the order-blind reader is taught no values."""
    rows = []
    for kind, label in (("answers", "targets"), ("inner", "entities between"), ("taught", "taught values")):
        shares = [values.get(f"branching {branching}, {name}: {kind}") for name in (*CHAINED, ORDER_BLIND)]
        rows.append([label, *("–" if share is None else f"{share:.2f}" for share in shares)])
    return figures.table("Sums over a chain of names", ["right values", *CHAINED, ORDER_BLIND], rows)


# Beside the records of the study


def score_figure(
    study: Sequence[dict],
    trained: Mapping[str, Trained],
    field: str,
    x_title: str,
    title: str,
    paper: Mapping[str, float] | None = None,
):
    """A score on reversed facts: the study's seeds, this page's models, the paper's numbers."""
    stored = {name: study_values(study, f"{name}: test {field}") for name in trained}
    scores = {name: getattr(model.reversed, field) for name, model in trained.items()}
    known = {name: score for name, score in scores.items() if score == score}
    return figures.claim_figure(stored, known, x_title, paper, title)


def chain_figure(study: Sequence[dict], values: Mapping[str, float], cfg: Config, x_title: str, title: str):
    """Right values for targets and for the entities between: the study's seeds and this page's models."""
    keys = {}
    for kind, label in (("answers", "targets"), ("inner", "between")):
        for name in (*CHAINED, ORDER_BLIND):
            keys[f"{name}, {label}"] = f"branching {cfg.branching}, {name}: {kind}"
    stored = {label: study_values(study, key) for label, key in keys.items()}
    return figures.claim_figure(stored, {label: values[key] for label, key in keys.items()}, x_title, title=title)


def study_values(study: Sequence[dict], key: str) -> list[float]:
    """One stored value from every record that has it."""
    return [record["values"][key] for record in study if key in record["values"]]
