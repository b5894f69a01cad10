"""What tools leave in the folders of other people: no reader takes it for data."""

# In lower case. By the file managers of macOS and Windows, network storage, disks, Python; the rest begins with a dot.
FOREIGN = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "lost+found",
    "system volume information",
}


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is hidden (.ipynb_checkpoints, ._0.png) or a tool's (__MACOSX, @eaDir)."""
    return name.startswith(".") or name.lower() in FOREIGN
