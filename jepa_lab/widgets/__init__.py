"""Interactive figures that work in a page without a kernel or a network: their loader and, in kit.js and kit.css, what
all of them share.

An explorer is a script that exports `mount(host, data)` and, as its default, `widget(mount)` of kit.js. Its style sheet
lies beside it under the same name. anywidget is imported inside the functions: importing this file costs nothing.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

KIT = Path(__file__).parent
_IMPORT = re.compile(r'^import \{[^}]*\} from "(\.[^"]+)";\n', re.MULTILINE)


def module(script: Path) -> str:
    """The script as one ES module without imports: the first import of a file is replaced by the text of that file.

    All files share one scope, so their top-level names must differ.
    """
    included = {script.resolve()}

    def text_of(path: Path) -> str:
        def text_of_import(found: re.Match) -> str:
            other = (path.parent / found[1]).resolve()
            if other in included:
                return ""
            included.add(other)
            return text_of(other)

        return _IMPORT.sub(text_of_import, path.read_text(encoding="utf-8"))

    return text_of(script)


def style(script: Path) -> str:
    """The shared style sheet, then the one beside the script."""
    sheets = (KIT / "kit.css", script.with_suffix(".css"))
    return "\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets)


@cache
def _widget_class(script: Path):
    """The widget class of one script; anywidget keeps one style sheet per class name, so the names differ."""
    import anywidget
    import traitlets

    name = f"{script.parent.name}_{script.stem}"
    parts = {
        "__module__": __name__,
        "_esm": module(script),
        "_css": style(script),
        "data": traitlets.Dict().tag(sync=True),
    }
    return type(name, (anywidget.AnyWidget,), parts)


def show(script: Path, data: dict):
    """The explorer as a widget; `data` holds plain JSON values, which the script's `mount` gets."""
    return _widget_class(script)(data=data)
