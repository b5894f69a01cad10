"""The report of `python -m jepa_lab bench` for people."""

from __future__ import annotations


def text(found: dict) -> str:
    """The report for people."""
    return "\n".join([*_conditions(found), "", *_rows(found), "", *_comparisons(found)])


def _conditions(found: dict) -> list[str]:
    """Machine, load, the work of one step, the ceilings."""
    ours, theirs = (sum(found[whose].values()) for whose in ("mflop_per_sample", "mflop_per_sample_of_peers"))
    parts = ", ".join(f"{part} {count:.0f}" for part, count in found["mflop_per_sample"].items())
    before, after = found["load"]["before"][0], found["load"]["after"][0]
    ceilings = [
        f"ceiling {precision}: {top['gflop_per_cpu_s']:.0f} GFLOP per CPU second ({top['found_at']})"
        for precision, top in found["ceilings"].items()
    ]
    return [
        f"{found['device']}, {found['threads']} thread(s), load {before:.1f} before and {after:.1f} after",
        f"one step: batch {found['work']['batch_size']}, {ours:.0f} MFLOP a sample ({parts}), "
        f"a peer's {theirs:.0f}; {found['rounds']} rounds",
        *ceilings,
    ]


def _rows(found: dict) -> list[str]:
    """The table, and which peers were not run."""
    lines = [
        f"{'contender':<12}{'precision':<20}{'samples/CPU-s':>14}{'median':>9}"
        f"{'of ceiling':>12}{'peak MB':>9}{'step MB':>9}"
    ]
    for row in found["rows"]:
        share = "" if row["share_of_ceiling"] is None else f"{row['share_of_ceiling']:.0%}"
        precision = row["precision"] + ("" if row["as_shipped"] else ", added here")
        rates = f"{row['samples_per_cpu_s']:>14.1f}{row['samples_per_cpu_s_median']:>9.1f}{share:>12}"
        memory = f"{row['peak_rss_mb']:>9.0f}{row['step_rss_mb']:>9.0f}"
        lines.append(f"{row['contender']:<12}{precision:<20}{rates}{memory}")
    return lines + [f"{name} was not run: {reason}" for name, reason in found["skipped"].items()]


def _comparisons(found: dict) -> list[str]:
    """Our lead, whether the work is the same, what preparation and import cost."""
    lines = []
    for which, words in (("as_shipped", "best peer as it ships"), ("bf16", "best peer with bf16 autocast added")):
        lead = found["leads"][which]
        ratio = (
            f"{lead['best']:.2f}x ({lead['peer']}), median of rounds {lead['median']:.2f}x" if lead else "no such peer"
        )
        lines.append(f"ours against the {words}: {ratio}")
    difference, share = found["largest_loss_difference"], found["preparation_share"]
    if difference is not None:
        lines.append(f"same work: the first losses of every float32 contender agree within {difference:.0e} of ours")
    if share is not None:
        lines.append(f"masks and batch preparation: {share:.2%} of our fastest step")
    return [*lines, f"import of the engine on top of torch: {found['import_s']:.2f} CPU seconds"]
