"""run, batch, book, claims: the verbs that execute notebooks and show what the records say."""

import argparse
import json
import sys

from jepa_lab.cli import options as shared


def add_verbs(verbs) -> None:
    _add_run(verbs)
    _add_batch(verbs)
    example = "python -m jepa_lab book --preset smoke"
    verb = shared.add_verb(verbs, "book", book, "Execute changed notebooks, then build _build/html.", example)
    shared.add_seed(verb)
    shared.add_running(verb)
    example = "python -m jepa_lab claims --chapter 01_masking --json"
    verb = shared.add_verb(verbs, "claims", claims, "Show the papers' claims and our measurements.", example)
    verb.add_argument("--json", action="store_true", help="print the rows as JSON")
    verb.add_argument("--chapter", help="only this chapter")
    verb.add_argument(
        "--records", type=shared.folder, help="folder with run records (default: results, the committed study)"
    )
    shared.add_preset(verb)


def _add_run(verbs) -> None:
    example = "python -m jepa_lab run 01_masking --preset smoke -p num_steps=200"
    verb = shared.add_verb(verbs, "run", run, "Execute the notebooks of chapters.", example)
    verb.add_argument("chapter", nargs="+", help=shared.CHAPTERS)
    shared.add_seed(verb)
    shared.add_parameters(verb, "a parameter of the notebook or a field of the paper's config")
    verb.add_argument("--out", type=shared.folder, help="folder for the run records (default: _build/records)")
    shared.add_running(verb)


def _add_batch(verbs) -> None:
    about = "Run chapters over seeds and settings; skip finished runs."
    example = "python -m jepa_lab batch 01_masking --seeds 0:5 --grid num_targets=1,2,4 --out results"
    verb = shared.add_verb(verbs, "batch", batch, about, example)
    verb.add_argument("chapter", nargs="+", help=shared.CHAPTERS)
    verb.add_argument("--seeds", default="0:5", help="0:5 or 0,1,4 (default 0:5)")
    about = "values of a config field; may be given several times"
    verb.add_argument("--grid", action="append", default=[], metavar="NAME=A,B,C", help=about)
    about = "folder for the run records (default: _build/records; the committed study: results)"
    verb.add_argument("--out", type=shared.folder, help=about)
    verb.add_argument("--engine", choices=["local"], default="local", help="where the runs are executed")
    verb.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    shared.add_running(verb)


def run(options: argparse.Namespace) -> int:
    from jepa_lab.publish import chapters, jobs, runner

    given = shared.parameters(options)
    chosen = chapters.in_sync(chapters.pick(options.chapter, chapters.root()))
    how = {"device": options.device, "out": options.out}
    planned = [jobs.plan(chapter, options.preset, options.seed, given, **how) for chapter in chosen]
    return _report(runner.run(planned, **shared.running(options)))


def batch(options: argparse.Namespace) -> int:
    from jepa_lab.publish import batch, chapters

    root = chapters.root()
    out = options.out or root / "_build" / "records"
    chosen = chapters.in_sync(chapters.pick(options.chapter, root))
    seeds, settings = batch.seeds(options.seeds), batch.settings(options.grid)
    planned = batch.plan(chosen, options.preset, seeds, settings, device=options.device, out=out)
    todo, existing = batch.split(planned, options.force)
    print(batch.describe(todo, existing), flush=True)
    if options.dry_run:
        print("\n".join(job.command for job in todo))
        return 0
    code = _report(batch.run(todo, **shared.running(options)))
    print(f"records: {out}")
    return code


def book(options: argparse.Namespace) -> int:
    from jepa_lab.publish import chapters, jobs, runner, stage

    root = chapters.root()
    found = chapters.in_sync(chapters.find(root))
    planned = [jobs.plan(chapter, options.preset, options.seed, {}, device=options.device) for chapter in found]
    outcomes = runner.run(planned, **shared.running(options))
    code = _report([outcome for outcome in outcomes if not outcome.ok])
    index, built = stage.build(root, options.preset, options.force)
    print(index if built else f"{index} (unchanged)")
    return code


def claims(options: argparse.Namespace) -> int:
    from jepa_lab.publish import chapters, ledger

    root = chapters.root()
    if options.records and not options.records.is_dir():
        raise ValueError(f"there is no folder {options.records}")
    rows = ledger.rows(chapters.pick([options.chapter or "all"], root), options.preset, options.records)
    print(json.dumps(rows, indent=1, ensure_ascii=False) if options.json else ledger.text(rows))
    return 0


def _report(outcomes) -> int:
    """Prints where the notebooks are; returns 1 if any failed, else 0."""
    for outcome in outcomes:
        if outcome.ok and outcome.job.keep:
            unchanged = " (unchanged)" if outcome.status == "cached" else ""
            print(f"{outcome.job.output}{unchanged}")
    failed = [outcome.job.name for outcome in outcomes if not outcome.ok]
    if failed:
        print(f"jepa-lab: {len(failed)} of {len(outcomes)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
