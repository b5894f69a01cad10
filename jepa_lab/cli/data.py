"""data list, data fetch, data verify."""

import argparse

from jepa_lab.cli import options as shared


def add_verbs(verbs) -> None:
    about = "List, download and check the data sets."
    data = verbs.add_parser(
        "data", help=about, description=about, epilog="example: python -m jepa_lab data fetch fashion-mnist"
    )
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    about = "List every data set: size, licence, sources, whether it is on this machine."
    shared.add_verb(actions, "list", show, about, "python -m jepa_lab data list")
    about, example = "Download data sets into the cache.", "python -m jepa_lab data fetch fashion-mnist"
    verb = shared.add_verb(actions, "fetch", fetch, about, example)
    verb.add_argument("name", nargs="*", help="data sets (default: all under 500 MB)")
    about, example = "Check the cached files against their sha256.", "python -m jepa_lab data verify"
    verb = shared.add_verb(actions, "verify", verify, about, example)
    verb.add_argument("name", nargs="*", help="data sets (default: all under 500 MB)")


def show(options: argparse.Namespace) -> int:
    from jepa_lab.data.sources import fetch

    for row in fetch.describe():
        print(f"{row['name']}: {row['title']}")
        print(f"    {row['kind']}, licence {row['licence']}, download {row['download']}")
        print(f"    on this machine: {row['cached']} ({row['path']})")
        print(f"    from: {row['sources']}")
    return 0


def fetch(options: argparse.Namespace) -> int:
    from jepa_lab.data.sources import fetch

    for name in options.name or fetch.everyday():
        print(f"{name}: {fetch.fetch(name)}")
    return 0


def verify(options: argparse.Namespace) -> int:
    from jepa_lab.data.sources import fetch

    for name in options.name or fetch.everyday():
        print(f"{name}: {fetch.verify(name)} is complete and correct")
    return 0
