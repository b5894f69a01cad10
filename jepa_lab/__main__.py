"""The command line: `python -m jepa_lab VERB`, also installed as `jepa-lab`. Each verb has --help with an example."""

import argparse
import sys

from jepa_lab import __version__
from jepa_lab.cli import data, models, notebooks
from jepa_lab.cli.options import absolute_environment


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0 done, 1 something failed, 2 wrong use, 130 interrupted."""
    absolute_environment()
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("interrupted: all runs were stopped; no partial files remain", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        print(f"jepa-lab: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    top = argparse.ArgumentParser(prog="jepa-lab", description="Run, check and build the JEPA Lab book.")
    top.add_argument("--version", action="version", version=f"jepa_lab {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for group in (notebooks, data, models):
        group.add_verbs(verbs)
    return top


if __name__ == "__main__":
    sys.exit(main())
