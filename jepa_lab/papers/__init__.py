"""One folder a paper; `all` finds them, so nothing has to be registered."""

import importlib
import pkgutil
from types import ModuleType


def all() -> dict[str, ModuleType]:
    """The module `paper` of every paper's folder, by the folder's name."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]
    return {name: importlib.import_module(f"{__name__}.{name}.paper") for name in names}
