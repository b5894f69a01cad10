"""train and bench: the verbs that train models without a notebook."""

import argparse
import importlib
import sys
from pathlib import Path

from jepa_lab.cli import options as shared

CONTENDERS = ("ceiling", "ours", "lightly", "simulusion", "pyjepa", "official")


def add_verbs(verbs) -> None:
    _add_train(verbs)
    _add_bench(verbs)


def _add_train(verbs) -> None:
    about = "Train a paper's reference model without a notebook, with checkpoints."
    example = (
        "python -m jepa_lab train masking --preset gpu --resume\n"
        "on 2 GPUs: torchrun --nproc-per-node 2 -m jepa_lab train masking --preset gpu"
    )
    verb = shared.add_verb(verbs, "train", train, about, example)
    verb.add_argument("paper", help="a folder of jepa_lab/papers, for example masking")
    shared.add_preset(verb)
    verb.add_argument("--out", type=shared.folder, help="folder for checkpoints (default: runs/PAPER-PRESET)")
    shared.add_seed(verb)
    shared.add_parameters(verb, "a field of the paper's config")
    verb.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --out")
    about = "split each batch into N parts to save memory (default 1)"
    verb.add_argument("--micro-batches", type=shared.positive, default=1, metavar="N", help=about)


def _add_bench(verbs) -> None:
    about = (
        "Time a training step and its peak memory, ours and the installed peers' (benchmarks/peers.txt), in one run."
    )
    example = "IJEPA_REPO=../ijepa python -m jepa_lab bench --rounds 5 --json"
    verb = shared.add_verb(verbs, "bench", bench, about, example)
    verb.add_argument("--size", choices=["192", "96"], default="192", help="width of the encoder (default 192)")
    about = "measured steps of each contender (default 5)"
    verb.add_argument("--rounds", type=shared.positive, default=5, help=about)
    about = "CPU threads of each contender (default 1)"
    verb.add_argument("--threads", type=shared.positive, default=1, help=about)
    about = f"{', '.join(CONTENDERS)} (default: all)"
    verb.add_argument("--only", nargs="+", choices=CONTENDERS, default=[], metavar="NAME", help=about)
    verb.add_argument("--json", action="store_true", help="print one JSON object")
    about = "time to quality instead of time per step; later arguments belong to it (see --race --help)"
    verb.add_argument("--race", nargs=argparse.REMAINDER, metavar="...", help=about)


def train(options: argparse.Namespace) -> int:
    from jepa_lab import distributed, files, papers
    from jepa_lab.publish import parameters

    able = {name: paper for name, paper in papers.all().items() if hasattr(paper, "train_reference")}
    if options.paper not in able:
        raise ValueError(f"{options.paper!r} cannot be trained; papers that can: {', '.join(able)}")
    paper = able[options.paper]
    config, _ = parameters.configure(paper, options.paper, options.preset, shared.parameters(options))
    out = options.out or Path("runs") / f"{options.paper}-{options.preset}"
    files.require_writable(out / "checkpoint.pt")
    how = {"seed": options.seed, "resume": options.resume, "micro_batches": options.micro_batches}
    scores = paper.train_reference(config, out, **how)
    if distributed.rank() == 0:
        for name, score in scores.items():
            print(f"{name}: {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")
        print(out)
    distributed.leave()
    return 0


def bench(options: argparse.Namespace) -> int:
    from jepa_lab.publish import chapters

    root = chapters.root()
    if not (root / "benchmarks" / "step.py").is_file():
        raise ValueError(f"bench needs a checkout of the project: there is no folder benchmarks in {root}")
    sys.path.insert(0, str(root))
    if options.race is not None:
        return importlib.import_module("benchmarks.race").main(options.race)
    return importlib.import_module("benchmarks.step").main(options)
