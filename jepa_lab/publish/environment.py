"""The environment of the processes that run chapters and build pages.

Inherited variables that steer Python, Jupyter, threads or a plotting library change what a chapter computes or shows,
or keep it from starting: a start-up file runs inside the kernel, a renderer moves plots into a browser, another
Jupyter's folder names another Python. They are left out; what only says where files are stays.
"""

import json
import os
import sys
from pathlib import Path

from jepa_lab.provenance import REPO

STEERING = ("PYTHON", "JUPYTER", "IPYTHON", "PLOTLY", "MPL", "OMP_", "GOMP_", "KMP_")
PLACES = {
    "PYTHONHOME",
    "PYTHONUSERBASE",
    "PYTHONNOUSERSITE",
    "PYTHONPYCACHEPREFIX",
    "PYTHONDONTWRITEBYTECODE",
}
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def inherited() -> dict[str, str]:
    """The inherited environment without steering variables, for a Python that imports what this one imports.

    Text is UTF-8 in any locale. A relative PYTHONPATH means the folder that it means here, whatever folder the process
    works in, and the package of a checkout comes before an installed one.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(STEERING) or name in PLACES}
    places = [os.path.abspath(place) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    if REPO.name not in ("site-packages", "dist-packages"):
        places.insert(0, str(REPO))
    return kept | {"PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(places)}


def for_notebook(folder: Path, threads: int) -> dict[str, str]:
    """The environment of one notebook: `threads` CPU threads, a kernel of this Python, Jupyter's files in `folder`."""
    jupyter = folder / "jupyter"
    kernel = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    spec = jupyter / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps(kernel), encoding="utf-8")
    places = {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_PATH": str(jupyter),
        "JUPYTER_RUNTIME_DIR": str(jupyter / "runtime"),
    }
    return inherited() | places | {"PYTHONUNBUFFERED": "1"} | dict.fromkeys(THREAD_VARIABLES, str(threads))
