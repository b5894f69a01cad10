"""How a verb is added, and the options that several verbs share."""

import argparse
from collections.abc import Callable

PRESETS = "smoke, laptop, gpu, paper, or another preset of the paper"
CHAPTERS = "01_masking, masking, 1, or all"


def add_verb(verbs, name: str, run: Callable, about: str, example: str) -> argparse.ArgumentParser:
    """A parser for one verb, whose --help ends with an example. `run(options)` returns the exit code."""
    verb = verbs.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=run)
    return verb


def add_preset(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--preset", default="laptop", help=f"{PRESETS} (default laptop)")


def add_parameters(verb: argparse.ArgumentParser, about: str) -> None:
    verb.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help=about)


def add_running(verb: argparse.ArgumentParser) -> None:
    """The options of verbs that execute notebooks."""
    add_preset(verb)
    verb.add_argument("--device", default="auto", help="cpu, cuda, mps (Apple), or auto: a GPU if there is one")
    verb.add_argument("--jobs", type=positive, default=2, help="notebooks that run side by side (default 2)")
    verb.add_argument("--threads", type=positive, default=1, help="CPU threads of each notebook (default 1)")
    verb.add_argument(
        "--cell-timeout", type=positive, metavar="S", help="seconds one cell may take (default by preset)"
    )
    verb.add_argument("--force", action="store_true", help="also run what is finished and unchanged")


def running(options: argparse.Namespace) -> dict:
    """The options of `add_running` as arguments of runner.run."""
    return {
        "side_by_side": options.jobs,
        "threads": options.threads,
        "cell_timeout": options.cell_timeout,
        "force": options.force,
    }


def parameters(options: argparse.Namespace) -> dict[str, str]:
    """{'lr': '0.1'} from `-p lr=0.1`. ValueError for anything else."""
    found = {}
    for pair in options.parameters:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise ValueError(f"-p takes name=value, not {pair!r}")
        found[name] = value
    return found


def positive(text: str) -> int:
    """The type of an option that counts something."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
