"""How a verb is added, and the options that several verbs share."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from jepa_lab.records import MAX_SEED

PRESETS = "smoke, laptop, gpu, paper, or another preset of the paper"
FOLDER_VARIABLES = ("JEPA_LAB_ROOT", "JEPA_LAB_DATA", "XDG_CACHE_HOME", "IJEPA_REPO")
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


def add_seed(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--seed", type=seed, default=0)


def add_preset(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--preset", default="laptop", help=f"{PRESETS} (default laptop)")


def add_parameters(verb: argparse.ArgumentParser, about: str) -> None:
    verb.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help=about)


def add_running(verb: argparse.ArgumentParser) -> None:
    """The options of verbs that execute notebooks."""
    add_preset(verb)
    about = "cpu, cuda, mps (Apple), or auto: a GPU if there is one"
    verb.add_argument("--device", type=device, default="auto", help=about)
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
        if name in found:
            raise ValueError(f"{name} is given twice with -p")
        found[name] = value
    return found


def positive(text: str) -> int:
    """The type of an option that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seed(text: str) -> int:
    """The type of --seed."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {MAX_SEED}")
    return int(text)


def folder(text: str) -> Path:
    """The type of an option that names a folder: a full path, seen from the current folder, ~ expanded."""
    return Path(text).expanduser().absolute()


def device(text: str) -> str:
    """The type of --device: one that this machine has."""
    if text in ("auto", "cpu"):
        return text
    import torch

    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    kind, _, number = text.partition(":")
    if kind not in counts or (number and not number.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:0, mps")
    if int(number or 0) >= counts[kind]:
        raise argparse.ArgumentTypeError(f"there is no {text} on this machine")
    return text


def absolute_environment() -> None:
    """Folders that the environment names mean the same in every process: relative ones lie in the current folder."""
    for name in FOLDER_VARIABLES:
        if os.environ.get(name):
            os.environ[name] = str(folder(os.environ[name]))
