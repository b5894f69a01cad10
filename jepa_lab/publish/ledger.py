"""The claims of every chapter with what the run records measured: for the terminal, as JSON rows, and as book pages."""

from collections.abc import Sequence
from types import ModuleType

from jepa_lab import claims, records
from jepa_lab.configs import config_hash
from jepa_lab.publish.chapters import Chapter

VERDICTS = ("supported", "not supported", "inconclusive")


def rows(chapters: list[Chapter], preset: str = "laptop", root=None) -> list[dict]:
    """One row per claim (keys: see claims.table), from the records under `root` (the committed study unless given).

    Claims that a chapter's five minutes cannot judge come last. They are judged by the stored runs of preset "long".
    """
    stated, found, prefer, long = [], [], {}, []
    for chapter in chapters:
        paper = chapter.paper()
        if paper is None:
            continue
        results = root or chapter.root / "results"
        stated += paper.CLAIMS
        prefer[chapter.name] = config_hash(paper.preset(preset))
        found += records.load(chapter.name, preset, results)
        for name, claims_of_long in _long_claims(paper).items():
            runs = records.load(chapter.name, "long", results, config=paper.long_config(name))
            long += claims.table(claims_of_long, runs)
    return claims.table(stated, found, prefer) + long


def _long_claims(paper: ModuleType) -> dict[str, Sequence[claims.Claim]]:
    """The claims that a paper's preset "long" judges, by the name of the long run; most papers have none."""
    return getattr(paper, "LONG_CLAIMS", {})


def rows_for_book(chapters: list[Chapter], preset: str) -> list[dict]:
    """As `rows`, but a chapter without a committed study shows the runs of this build."""
    result = []
    for chapter in chapters:
        study = rows([chapter])
        if any(row["n_seeds"] for row in study):
            result += study
        else:
            result += rows([chapter], preset, chapter.root / "_build" / "records")
    return result


def text(rows: list[dict]) -> str:
    """The table for a terminal."""
    if not rows:
        return "no chapter states a claim yet"
    lines = []
    for row in rows:
        lines.append(f"{row['chapter']}  {row['claim_id']}: {row['statement']}")
        paper = f"  paper {row['paper_value']} ({row['paper_source']})" if row["paper_value"] else ""
        lines.append(f"    {row['verdict']}: {measured(row)}, margin {row['margin']:g} [{row['metric']}]{paper}")
    counts = ", ".join(f"{sum(r['verdict'] == v for r in rows)} {v}" for v in VERDICTS)
    return "\n".join([*lines, f"{len(rows)} claims: {counts}"])


def measured(row: dict) -> str:
    """'gain 0.021 [0.012, 0.030] over 5 seeds on cpu', or that nothing was measured."""
    if not row["n_seeds"]:
        return "not measured yet"
    return f"gain {_gain(row)} over {_seeds(row)} on {row['device']} ({row['preset']})"


def baselines(chapters: list[Chapter]) -> dict[tuple[str, str], str]:
    """What each claim is compared with: {(chapter, claim id): words}."""
    papers = [paper for chapter in chapters if (paper := chapter.paper())]
    groups = [group for paper in papers for group in (paper.CLAIMS, *_long_claims(paper).values())]
    return {(claim.chapter, claim.id): claim.baseline for group in groups for claim in group}


CLAIMS_HEAD = (  # a phone shows two columns
    "Claim",
    "Verdict",
    "Gain: mean [95 % interval]",
    "Margin",
    "Ours per seed",
    "Baseline per seed",
    "Paper",
    "Chapter",
)


def claims_table(rows: list[dict], baselines: dict[tuple[str, str], str]) -> str:
    """The claims page's table, in Markdown for a page in book/."""
    if not rows:
        return "No chapter states a claim yet.\n"
    lines = []
    for row in rows:
        baseline = baselines.get((row["chapter"], row["claim_id"]))
        cells = [
            f"{row['statement']} ({row['metric']}, {row['direction']} is better)",
            f"{claims.badge(row['verdict'])} {row['preset'] or 'no run'}, {_seeds(row)}",
            _gain(row) if row["n_seeds"] else "not measured",
            f"{row['margin']:g}",
            _numbers(row["values"]),
            ": ".join(filter(None, [baseline, _numbers(row["baseline_values"])])),
            f"{row['paper_value']} ({row['paper_source']})" if row["paper_value"] else "no number",
            _link(row["chapter"]),
        ]
        lines.append(cells)
    return _table(CLAIMS_HEAD, lines)


def status_table(chapters: list[Chapter], executed: dict[str, dict], rows: list[dict]) -> str:
    """Every notebook's last execution. `executed` maps chapter names to the runner's entries (cache.metadata)."""
    if not chapters:
        return "No chapter yet.\n"
    lines = []
    for chapter in chapters:
        verdicts = [row["verdict"] for row in rows if row["chapter"] == chapter.name]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in VERDICTS if v in verdicts) or "none stated"
        lines.append(_status(chapter.name, executed.get(chapter.name, {}), counts))
    return _table(("Notebook", "Preset", "Seed", "Executed (UTC)", "Duration", "Claims", "Result"), lines)


def _status(name: str, run: dict, counts: str) -> list[str]:
    if not run:
        return [f"`{name}`", "", "", "", "", counts, "not run"]
    when = run["executed"][:16].replace("T", " ")
    seconds = f"{run['seconds']:.0f} s"
    return [_link(name), run["preset"], str(run["seed"]), when, seconds, counts, "ran to its end"]


def _gain(row: dict) -> str:
    interval = f" [{row['ci_low']:.3g}, {row['ci_high']:.3g}]" if row["ci_low"] is not None else ""
    return f"{row['mean']:.3g}{interval}"


def _seeds(row: dict) -> str:
    return f"{row['n_seeds']} seed{'' if row['n_seeds'] == 1 else 's'}"


def _link(chapter: str) -> str:
    return f"[{chapter}](../notebooks/{chapter}.ipynb)"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{v:.3g}" for v in values) or "none"


def _table(head: Sequence[str], lines: list[list[str]]) -> str:
    rule = ["---"] * len(head)
    return "".join(_row(cells) + "\n" for cells in (head, rule, *lines))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
