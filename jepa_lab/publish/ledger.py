"""The claims of every chapter beside what the run records say: for the terminal, as JSON rows, and as book pages."""

from jepa_lab import claims, records
from jepa_lab.publish.chapters import Chapter

VERDICTS = ("supported", "not supported", "inconclusive")
SIGNS = {"supported": "✓", "not supported": "✗", "inconclusive": "?"}  # not by colour alone


def rows(chapters: list[Chapter], preset: str = "laptop", root=None) -> list[dict]:
    """One row per claim (keys: see claims.table), from the records under ``root`` (default: the committed study).

    A paper's claims that no chapter's five minutes can judge come last: from the stored runs of its preset "long".
    """
    found, found_claims, prefer, long = [], [], {}, []
    for chapter in chapters:
        paper = chapter.paper()
        if paper is None:
            continue
        found_claims += paper.CLAIMS
        prefer[chapter.name] = records.config_hash(paper.preset(preset))
        results = root or chapter.root / "results"
        found += records.load(chapter.name, preset, results)
        for name, stated in getattr(paper, "LONG_CLAIMS", {}).items():
            long += claims.table(stated, records.load(chapter.name, "long", results, config=paper.long_config(name)))
    return claims.table(found_claims, found, prefer) + long


def rows_for_book(chapters: list[Chapter], preset: str) -> list[dict]:
    """As ``rows``: each chapter from the committed study where it has one, else from the runs of this build."""
    result = []
    for chapter in chapters:
        study = rows([chapter])
        result += (
            study
            if any(row["n_seeds"] for row in study)
            else rows([chapter], preset, chapter.root / "_build" / "records")
        )
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
    interval = f" [{row['ci_low']:.3g}, {row['ci_high']:.3g}]" if row["ci_low"] is not None else ""
    seeds = f"{row['n_seeds']} seed{'s' * (row['n_seeds'] > 1)}"
    return f"gain {row['mean']:.3g}{interval} over {seeds} on {row['device']} ({row['preset']})"


def baselines(chapters: list[Chapter]) -> dict[tuple[str, str], str]:
    """What each claim is compared with: {(chapter, claim id): words}."""
    papers = [paper for chapter in chapters if (paper := chapter.paper())]
    stated = (
        claim
        for paper in papers
        for group in (paper.CLAIMS, *getattr(paper, "LONG_CLAIMS", {}).values())
        for claim in group
    )
    return {(claim.chapter, claim.id): claim.baseline for claim in stated}


def claims_table(rows: list[dict], baselines: dict[tuple[str, str], str]) -> str:
    """The claims page's table, in Markdown for a page in book/."""
    if not rows:
        return "No chapter states a claim yet.\n"
    lines = [
        # phones show two
        "| Claim | Verdict | Gain: mean [95 % interval] | Margin | Ours per seed | Baseline per seed | Paper | Chapter |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        paper = f"{row['paper_value']} ({row['paper_source']})" if row["paper_value"] else "no number"
        against = baselines.get((row["chapter"], row["claim_id"]))
        interval = f" [{row['ci_low']:.3g}, {row['ci_high']:.3g}]" if row["ci_low"] is not None else ""
        gain = f"{row['mean']:.3g}{interval}" if row["n_seeds"] else "not measured"
        cells = [
            f"{row['statement']} ({row['metric']}, {row['direction']} is better)",
            f"{_mark(row['verdict'])} {row['preset'] or 'no run'}, {row['n_seeds']} seed{'s' * (row['n_seeds'] != 1)}",
            gain,
            f"{row['margin']:g}",
            _numbers(row["values"]),
            ": ".join(filter(None, [against, _numbers(row["baseline_values"])])),
            paper,
            _link(row["chapter"]),
        ]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def status_table(chapters: list[Chapter], executed: dict[str, dict], rows: list[dict]) -> str:
    """Every notebook's last execution. ``executed`` maps chapter names to what the runner noted (cache.metadata)."""
    if not chapters:
        return "No chapter yet.\n"
    lines = [
        "| Notebook | Preset | Seed | Executed (UTC) | Duration | Claims | Result |",
        "|---|---|---|---|---|---|---|",
    ]
    for chapter in chapters:
        noted, own = executed.get(chapter.name, {}), [r["verdict"] for r in rows if r["chapter"] == chapter.name]
        counts = ", ".join(f"{own.count(v)} {v}" for v in VERDICTS if v in own) or "none stated"
        if noted:
            when = noted["executed"][:16].replace("T", " ")
            cells = [
                _link(chapter.name),
                noted["preset"],
                str(noted["seed"]),
                when,
                f"{noted['seconds']:.0f} s",
                counts,
                "ran to its end",
            ]
        else:
            cells = [f"`{chapter.name}`", "", "", "", "", counts, "not run"]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _link(chapter: str) -> str:
    return f"[{chapter}](../notebooks/{chapter}.ipynb)"


def _mark(verdict: str) -> str:
    return f'<span class="jl-verdict jl-{verdict.replace(" ", "-")}">{SIGNS[verdict]} {verdict}</span>'


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{v:.3g}" for v in values) or "none"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
