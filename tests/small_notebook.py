"""A small notebook as the chapters are, for tests of what runs them."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = 'preset = "laptop"\nseed = 0\ndevice = "auto"\nout = ""\noverrides = {}'


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A small notebook as the chapters are: title, parameters cell, then the given code cells."""
    notebook = new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.cells = [new_markdown_cell("# Title"), tagged, *map(new_code_cell, cells)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path
