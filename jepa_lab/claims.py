"""A paper's claim, its control, and the verdict that follows from our seeds.

One rule for every claim of the book. For each seed s the gain is

    gain_s = (value_s - baseline_s) * (+1 if the direction is 'higher' else -1),

so a positive gain always means "as the paper says". Over at least 3 seeds we compute the 95 % Student-t interval
[ci_low, ci_high] of the mean gain and compare it with the margin, which was stated before the study ran:

    ci_low  > margin  ->  'supported'
    ci_high < margin  ->  'not supported'
    otherwise, or with fewer than 3 seeds  ->  'inconclusive'
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import SupportsFloat

MIN_SEEDS = 3
CONFIDENCE = 0.95
SIGNS = {"supported": "✓", "not supported": "✗", "inconclusive": "?"}  # not by colour alone


@dataclass(frozen=True)
class Claim:
    """One statement of a paper and the measurement that decides it.

    `metric` names the quantity that value and baseline measure, `baseline` what the value is compared with, `margin`
    (in the metric's unit) how large the gain must be. `paper_value` quotes the paper; `paper_source` says where.
    """

    id: str
    chapter: str
    paper: str
    statement: str
    metric: str
    direction: str
    margin: float
    paper_value: str | None = None
    paper_source: str | None = None
    baseline: str = ""

    def __post_init__(self):
        if self.direction not in ("higher", "lower"):
            raise ValueError(f"claim {self.id!r}: direction must be 'higher' or 'lower', not {self.direction!r}")
        if not math.isfinite(self.margin):
            raise ValueError(f"claim {self.id!r}: margin must be a finite number, not {self.margin}")


@dataclass(frozen=True)
class Verdict:
    """Mean gain over seeds, its 95 % interval, and the verdict. The interval is None below two seeds."""

    mean: float | None
    ci_low: float | None
    ci_high: float | None
    n_seeds: int
    verdict: str


def judge(
    values: Sequence[SupportsFloat], baselines: Sequence[SupportsFloat], direction: str, margin: float
) -> Verdict:
    """The one verdict rule (see the module's docstring), on values and baselines paired by seed.

    Raises ValueError for unpaired or non-finite numbers.
    """
    if len(values) != len(baselines):
        raise ValueError(f"{len(values)} values but {len(baselines)} baselines: they are paired by seed")
    if direction not in ("higher", "lower"):
        raise ValueError(f"direction must be 'higher' or 'lower', not {direction!r}")
    sign = 1.0 if direction == "higher" else -1.0
    gains = [sign * (float(v) - float(b)) for v, b in zip(values, baselines)]
    if not all(map(math.isfinite, gains)):
        raise ValueError("values and baselines must be finite numbers")
    if not gains:
        return Verdict(None, None, None, 0, "inconclusive")
    mean, half = mean_and_half_width(gains)
    if half is None:
        return Verdict(mean, None, None, 1, "inconclusive")
    low, high = mean - half, mean + half
    return Verdict(mean, low, high, len(gains), _verdict_word(low, high, margin, len(gains)))


def _verdict_word(low: float, high: float, margin: float, n_seeds: int) -> str:
    if n_seeds >= MIN_SEEDS and low > margin:
        return "supported"
    if n_seeds >= MIN_SEEDS and high < margin:
        return "not supported"
    return "inconclusive"


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and half the width of its 95 % Student-t interval; the half width is None for one value."""
    from scipy.special import stdtrit  # the quantile alone: scipy.stats takes a second to import

    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return mean, None
    variance_of_mean = math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n
    return mean, float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(variance_of_mean)


def table(claims: Iterable[Claim], records: Iterable[dict], prefer: Mapping[str, str] | None = None) -> list[dict]:
    """One row per claim: the claim, our values per seed, the mean gain with its interval, the verdict.

    `records` are run records of one preset. Where a chapter has records of several configurations, the one named in
    `prefer` (chapter -> config_hash) counts if it has any, else the configuration with most seeds. ValueError for two
    records of one seed.
    `mean`, `ci_low` and `ci_high` are those of the gain, the quantity that the margin is about.
    """
    by_chapter = defaultdict(list)
    for record in records:
        by_chapter[record["chapter"]].append(record)
    rows = []
    for claim in claims:
        chosen = _one_config(by_chapter[claim.chapter], (prefer or {}).get(claim.chapter))
        rows.append(_row(claim, [r for r in chosen if claim.id in r["claims"]]))
    return rows


def _one_config(records: list[dict], preferred: str | None) -> list[dict]:
    groups = defaultdict(list)
    for record in records:
        groups[record["preset"], record["config_hash"]].append(record)
    if not groups:
        return []

    def rank(key):
        return key[1] == preferred, len(groups[key]), max(r["started"] for r in groups[key])

    chosen = sorted(groups[max(groups, key=rank)], key=lambda r: r["seed"])
    doubles = {a["seed"] for a, b in pairwise(chosen) if a["seed"] == b["seed"]}
    if doubles:
        raise ValueError(f"{chosen[0]['chapter']}: two records of seed {min(doubles)} are one seed; give each run once")
    return chosen


def _row(claim: Claim, records: list[dict]) -> dict:
    values = [r["claims"][claim.id]["value"] for r in records]
    baselines = [r["claims"][claim.id]["baseline"] for r in records]
    verdict = judge(values, baselines, claim.direction, claim.margin)
    return {
        "chapter": claim.chapter,
        "claim_id": claim.id,
        "paper": claim.paper,
        "statement": claim.statement,
        "paper_value": claim.paper_value,
        "paper_source": claim.paper_source,
        "metric": claim.metric,
        "values": values,
        "baseline_values": baselines,
        "mean": verdict.mean,
        "ci_low": verdict.ci_low,
        "ci_high": verdict.ci_high,
        "direction": claim.direction,
        "margin": claim.margin,
        "verdict": verdict.verdict,
        "preset": records[0]["preset"] if records else None,
        "device": ", ".join(sorted({r["device"] for r in records})) or None,
        "n_seeds": verdict.n_seeds,
    }


def badge(verdict: str) -> str:
    """A verdict as HTML: a sign and the word."""
    if verdict not in SIGNS:
        raise ValueError(f"verdict {verdict!r} is none of {', '.join(SIGNS)}")
    return f'<span class="jl-verdict jl-{verdict.replace(" ", "-")}">{SIGNS[verdict]} {verdict}</span>'
