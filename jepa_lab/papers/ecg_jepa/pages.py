"""What the notebook of chapter 07 shows: its slider, its tables, its lines, and the numbers behind each claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from jepa_lab import diagnostics, figures, records
from jepa_lab.experiment import Arm
from jepa_lab.papers.ecg_jepa import hand_features, paper, scores
from jepa_lab.papers.ecg_jepa.config import Config
from jepa_lab.papers.ecg_jepa.scores import Result
from jepa_lab.papers.ecg_jepa.world import ECGData, base_name

SHOWN_METRICS = ("loss", "feature_std", "rankme", "lidar", "cosine_to_mean")
Probed = Mapping[str, Mapping[float, Result]]  # name of the features -> share of the labels -> scores
Tuned = Mapping[tuple[str, float], Result]  # name of the start, share of the labels -> scores


def put_data(record: records.Record, data: ECGData) -> None:
    """Write into the record which records were used, and how many were left out for which reason."""
    part = data.train
    record.data(base_name(part), part.source, part.sha256, part.kind)
    for reason, count in part.refused.items():
        record.value(f"left out: {reason}", count)


def study_records(cfg: Config) -> list[dict]:
    """The stored records of preset laptop on the same data."""
    return records.load(paper.CHAPTER, preset="laptop", config=paper.preset("laptop", data=cfg.data))


def past(study: Sequence[dict], kind: str, names: Iterable[str]) -> dict[str, list[float]]:
    """The study's values "kind: name", one for each record that has it, by name."""
    return {name: [r["values"][f"{kind}: {name}"] for r in study if f"{kind}: {name}" in r["values"]] for name in names}


# Figures and tables


def hidden_tokens(arms: Mapping[str, Arm], seed: int = 1) -> dict[str, list[int]]:
    """The tokens of one record that the masks of each arm hide."""
    found = {}
    for name, arm in arms.items():
        masks = arm.task.draw(torch.arange(1), torch.Generator(arm.task.device).manual_seed(seed))
        found[name] = masks.target_idx[0, 0].tolist()
    return found


def mask_slider(pictures: Sequence[tuple[str, object]], title: str):
    """One figure with a slider over pictures of a record whose shading alone differs; empty shapes are added.

    A step of the slider replaces shapes one by one, so that every picture must have the same number of them.
    """
    most = max(len(picture.layout.shapes) for _, picture in pictures)
    for _, picture in pictures:
        for _ in range(most - len(picture.layout.shapes)):
            picture.add_vrect(0, 0, line_width=0)
    figure = figures.with_slider(pictures, "mask", title)
    for frame in figure.frames:
        frame.data, frame.layout = (), {"shapes": frame.layout.shapes}
    return figure


def share_table(probed: Probed, shares: Iterable[float]):
    """Macro-AUC of every set of features for every share of the labels."""
    head = ["features", *(f"{share:.0%} of the labels" for share in shares)]
    rows = [[name, *row.values(), *[""] * (len(head) - 1 - len(row))] for name, row in probed.items()]
    return figures.table("Macro-AUC of a logistic probe, points", head, rows)


def cost_table(breaks: Mapping[str, Result], logs: Mapping[str, Mapping[str, float]], reference: str):
    """What each change costs in points of macro-AUC, and the rank and the alarm of the last log where there is one."""
    rows = []
    for name, result in breaks.items():
        log = logs.get(name)
        rank = f"{log['rankme']:.1f}" if log else ""
        alarm = (diagnostics.collapsed(log) or "none") if log else ""
        rows.append([name, f"{breaks[reference].points - result.points:.1f}", rank, alarm])
    return figures.table("Cost of each change", ["run", "cost, points", "RankMe", "alarm"], rows)


def panel_lines(curve: Mapping[int, Result], history: Mapping[str, list[float]]) -> dict[str, tuple[list, list]]:
    """Steps and values of the probe at the snapshots, of the loss and of the collapse panel."""
    probe = list(curve), [result.points for result in curve.values()]
    logged = {metric: (history["step"], history[metric]) for metric in SHOWN_METRICS}
    return {"macro-AUC with 10 % of the labels": probe} | logged


# Claims


def compared_with(cfg: Config, probed: Probed, breaks: Mapping[str, Result]) -> dict[str, str]:
    """The control of every claim about frozen features or masks; of several, the best on validation records."""
    hand_made = scores.best({name: probed[name][0.1] for name in hand_features.SETS})
    shares = [paper.hidden(1 - keep) for keep in cfg.sweep_keep]
    counts = [paper.stretches(count) for count in cfg.sweep_blocks]
    return {
        "beats-random": "random initialisation",
        "beats-statistics": "lead statistics",
        "beats-hand-made": hand_made,
        "beats-simclr": "SimCLR",
        "beats-auto-encoder": "masked auto-encoder",
        "hide-80": scores.best({name: breaks[name] for name in shares}),
        "stretches": scores.best({name: breaks[name] for name in counts}),
        "blocks-beat-scattered": "scattered tokens",
    }


def few_label_claims(tuned: Tuned) -> dict[str, tuple[float, float]]:
    """Value and baseline of the claims about labelled training, by claim."""
    scratch = {share: result.points for (name, share), result in tuned.items() if name == "from scratch"}
    pretrained = {share: result.points for (name, share), result in tuned.items() if name != "from scratch"}
    found = {f"few-labels-{round(100 * s)}": (pretrained[s], scratch[s]) for s in scratch if s < 1}
    gain = {share: pretrained[share] - scratch[share] for share in scratch}
    return found | {"gain-shrinks": (gain[min(gain)], gain[max(gain)])}


def probe_claims(
    controls: Mapping[str, str], probed: Probed, breaks: Mapping[str, Result]
) -> dict[str, tuple[float, float]]:
    """Value and baseline of the claims of `compared_with`, by claim."""
    value = probed[paper.REFERENCE][0.1].points
    baselines = {name: row[0.1].points for name, row in probed.items()}
    baselines |= {name: result.points for name, result in breaks.items()}
    return {claim: (value, baselines[control]) for claim, control in controls.items()}


def peak_claims(
    curve: Mapping[int, Result], history: Mapping[str, list[float]], snapshots: Iterable[int]
) -> dict[str, tuple[float, float]]:
    """Value and baseline of the claims about the steps of the reference run, by claim."""
    last = max(curve)
    early = scores.best({step: curve[step] for step in snapshots})
    share = {"best": 100 * scores.best(curve) / last, "lowest": 100 * paper.lowest(history) / last}
    return {
        "peaks-early": (curve[early].points, curve[last].points),
        "peaks-before-loss": (share["best"], share["lowest"]),
    }
