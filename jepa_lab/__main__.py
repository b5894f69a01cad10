"""The command line: ``python -m jepa_lab VERB``, also installed as ``jepa-lab``. Each verb has --help with an example."""

import argparse
import importlib
import json
import pkgutil
import sys
from pathlib import Path

from jepa_lab import __version__

PRESETS = "smoke, laptop, gpu or paper"


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0 done, 1 something failed, 2 wrong use, 130 interrupted."""
    options = parser().parse_args(arguments)
    try:
        return options.do(options)
    except KeyboardInterrupt:
        print("interrupted: everything that ran was ended, nothing half-written is left", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        print(f"jepa-lab: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="jepa-lab", description="Run, check and build the JEPA Lab book.")
    top.add_argument("--version", action="version", version=f"jepa_lab {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _notebook_verbs(verbs)
    _data_verbs(verbs)
    _model_verbs(verbs)
    return top


def _verb(under, name: str, does, about: str, example: str) -> argparse.ArgumentParser:
    one = under.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.set_defaults(do=does)
    return one


def _notebook_verbs(verbs) -> None:
    one = _verb(
        verbs,
        "run",
        do_run,
        "Execute chapters' notebooks.",
        "python -m jepa_lab run 01_masking --preset smoke -p num_steps=200",
    )
    one.add_argument("chapter", nargs="+", help="01_masking, masking, 1, or all")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a notebook parameter or a field of the paper's config",
    )
    one.add_argument("--out", type=Path, help="folder for the run records (default: _build/records)")
    _run_options(one)

    one = _verb(
        verbs,
        "batch",
        do_batch,
        "Run chapters over seeds and settings; finished runs are skipped.",
        "python -m jepa_lab batch 01_masking --seeds 0:5 --grid num_targets=1,2,4 --out results",
    )
    one.add_argument("chapter", nargs="+", help="01_masking, masking, 1, or all")
    one.add_argument("--seeds", default="0:5", help="0:5 or 0,1,4 (default 0:5)")
    one.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=A,B,C",
        help="values of a config field; may be given several times",
    )
    one.add_argument(
        "--out", type=Path, help="folder for the run records (default: _build/records; the committed study: results)"
    )
    one.add_argument("--engine", choices=["local"], default="local", help="where the runs happen")
    one.add_argument("--dry-run", action="store_true", help="print the plan only")
    _run_options(one)

    one = _verb(
        verbs, "book", do_book, "Run what changed, then build _build/html.", "python -m jepa_lab book --preset smoke"
    )
    one.add_argument("--seed", type=int, default=0)
    _run_options(one)

    one = _verb(
        verbs,
        "claims",
        do_claims,
        "The papers' claims beside what the records say.",
        "python -m jepa_lab claims --chapter 01_masking --json",
    )
    one.add_argument("--json", action="store_true", help="print the rows as JSON")
    one.add_argument("--chapter", help="only this chapter")
    one.add_argument("--records", type=Path, help="folder with run records (default: results, the committed study)")
    one.add_argument("--preset", default="laptop", help=f"{PRESETS} (default laptop)")


def _data_verbs(verbs) -> None:
    data = verbs.add_parser(
        "data",
        help="What data is needed; get and check it.",
        description="What data is needed; get and check it.",
        epilog="example: python -m jepa_lab data fetch",
    )
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    _verb(
        actions,
        "list",
        do_data_list,
        "Every data set: size, licence, sources, whether it is here.",
        "python -m jepa_lab data list",
    )
    one = _verb(
        actions,
        "fetch",
        do_data_fetch,
        "Download data sets into the cache.",
        "python -m jepa_lab data fetch fashion-mnist",
    )
    one.add_argument("name", nargs="*", help="data sets (default: all under 500 MB)")
    one = _verb(
        actions,
        "verify",
        do_data_verify,
        "Check the cached files against their sha256.",
        "python -m jepa_lab data verify",
    )
    one.add_argument("name", nargs="*", help="data sets (default: all under 500 MB)")


def _model_verbs(verbs) -> None:
    one = _verb(
        verbs,
        "train",
        do_train,
        "Train a paper's model headless, with checkpoints.",
        "python -m jepa_lab train masking --preset gpu --resume   (2 GPUs: torchrun --nproc-per-node 2 -m jepa_lab train …)",
    )
    one.add_argument("paper", help="a module of jepa_lab/papers, e.g. masking")
    one.add_argument("--preset", default="laptop", help=f"{PRESETS} (default laptop)")
    one.add_argument("--out", type=Path, help="folder for checkpoints (default: runs/PAPER-PRESET)")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument(
        "-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help="a field of the paper's config"
    )
    one.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    one.add_argument(
        "--micro-batches",
        type=_positive,
        default=1,
        metavar="N",
        help="parts a batch is cut into to save memory (default 1)",
    )

    one = _verb(
        verbs,
        "bench",
        do_bench,
        "Speed and peak memory of a training step, ours and the installed peers' (benchmarks/peers.txt), in one run.",
        "IJEPA_REPO=../ijepa python -m jepa_lab bench --rounds 5 --json",
    )
    one.add_argument("--size", choices=["192", "96"], default="192", help="width of the encoder (default 192)")
    one.add_argument("--rounds", type=_positive, default=5, help="measured steps of each contender (default 5)")
    one.add_argument("--threads", type=_positive, default=1, help="CPU threads of each contender (default 1)")
    one.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="ceiling, ours, lightly, simulusion, pyjepa, official (default: all)",
    )
    one.add_argument("--json", action="store_true", help="print one JSON object")
    one.add_argument(
        "--race",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="time to quality instead; what follows goes to it (--race --help)",
    )


def _run_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("--preset", default="laptop", help=f"{PRESETS} (default laptop)")
    one.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    one.add_argument("--jobs", type=_positive, default=2, help="notebooks side by side (default 2)")
    one.add_argument("--threads", type=_positive, default=1, help="CPU threads of each (default 1)")
    one.add_argument(
        "--cell-timeout", type=_positive, metavar="S", help="seconds one cell may take (default by preset)"
    )
    one.add_argument("--force", action="store_true", help="run also what is finished and unchanged")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _pool(options) -> dict:
    return dict(
        side_by_side=options.jobs, threads=options.threads, cell_timeout=options.cell_timeout, force=options.force
    )


def _given(pairs: list[str]) -> dict[str, str]:
    given = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise ValueError(f"-p takes name=value, not {pair!r}")
        given[name] = value
    return given


def do_run(options) -> int:
    from jepa_lab.publish import chapters, runner

    given = _given(options.parameters)
    chosen = chapters.in_sync(chapters.pick(options.chapter, chapters.root()))
    jobs = [runner.plan(c, options.preset, options.seed, given, device=options.device, out=options.out) for c in chosen]
    return _report(runner.run(jobs, **_pool(options)))


def _report(outcomes) -> int:
    """Says where things are; the exit code is 1 if any failed."""
    for outcome in outcomes:
        if outcome.ok and outcome.job.keep:
            print(f"{outcome.job.output}{' (unchanged)' if outcome.status == 'cached' else ''}")
    failed = [outcome.job for outcome in outcomes if not outcome.ok]
    if failed:
        print(
            f"jepa-lab: {len(failed)} of {len(outcomes)} failed: {', '.join(job.name for job in failed)}",
            file=sys.stderr,
        )
    return 1 if failed else 0


def do_batch(options) -> int:
    from jepa_lab.publish import batch, chapters

    root = chapters.root()
    out = (options.out or root / "_build" / "records").resolve()
    jobs = batch.plan(
        chapters.in_sync(chapters.pick(options.chapter, root)),
        options.preset,
        batch.seeds(options.seeds),
        batch.settings(options.grid),
        device=options.device,
        out=out,
    )
    todo, there = batch.split(jobs, options.force)
    print(batch.describe(todo, there), flush=True)
    if options.dry_run:
        print("\n".join(job.command for job in todo))
        return 0
    code = _report(batch.run(todo, **_pool(options)))
    print(f"records: {out}")
    return code


def do_book(options) -> int:
    from jepa_lab.publish import chapters, runner, stage

    root = chapters.root()
    jobs = [
        runner.plan(c, options.preset, options.seed, {}, device=options.device)
        for c in chapters.in_sync(chapters.find(root))
    ]
    code = _report([outcome for outcome in runner.run(jobs, **_pool(options)) if not outcome.ok])
    index, built = stage.build(root, options.preset, options.force)
    print(f"{index}{'' if built else ' (unchanged)'}")
    return code


def do_claims(options) -> int:
    from jepa_lab.publish import chapters, ledger

    root = chapters.root()
    if options.records and not options.records.is_dir():
        raise ValueError(f"there is no folder {options.records}")
    rows = ledger.rows(chapters.pick([options.chapter or "all"], root), options.preset, options.records)
    print(json.dumps(rows, indent=1, ensure_ascii=False) if options.json else ledger.text(rows))
    return 0


def do_data_list(options) -> int:
    from jepa_lab.data.sources import fetch

    for row in fetch.describe():
        print(f"{row['name']}: {row['title']}")
        print(
            f"    {row['kind']}, licence {row['licence']}, download {row['download']}, here: {row['cached']} ({row['path']})"
        )
        print(f"    from: {row['sources']}")
    return 0


def do_data_fetch(options) -> int:
    from jepa_lab.data.sources import fetch

    for name in options.name or fetch.everyday():
        print(f"{name}: {fetch.fetch(name)}")
    return 0


def do_data_verify(options) -> int:
    from jepa_lab.data.sources import fetch

    for name in options.name or fetch.everyday():
        print(f"{name}: {fetch.verify(name)} is complete and right")
    return 0


def do_train(options) -> int:
    from jepa_lab import distributed, papers
    from jepa_lab.publish import chapters, parameters

    module = chapters.paper(options.paper) if options.paper.isidentifier() else None
    if not hasattr(module, "headless"):
        able = [
            name
            for _, name, _ in pkgutil.iter_modules(papers.__path__)
            if hasattr(importlib.import_module(f"jepa_lab.papers.{name}.paper"), "headless")
        ]
        raise ValueError(
            f"no headless training for {options.paper!r}; papers that have one: {', '.join(able) or 'none yet'}"
        )
    config, _ = parameters.configure(module, options.paper, options.preset, _given(options.parameters))
    out = options.out or Path("runs") / f"{options.paper}-{options.preset}"
    scores = module.headless(
        config, out=out, seed=options.seed, resume=options.resume, micro_batches=options.micro_batches
    )
    if distributed.rank() == 0:
        print(
            "\n".join(
                f"{name}: {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" for name, score in scores.items()
            )
        )
        print(out)
    distributed.stop()
    return 0


def do_bench(options) -> int:
    from jepa_lab.publish import chapters

    root = chapters.root()
    if not (root / "benchmarks" / "step.py").is_file():
        raise ValueError(
            f"bench needs a checkout: there is no benchmarks/ in {root}, and the installed package has none"
        )
    sys.path.insert(0, str(root))
    if options.race is not None:
        return importlib.import_module("benchmarks.race").main(options.race)
    return importlib.import_module("benchmarks.step").main(options)


if __name__ == "__main__":
    sys.exit(main())
