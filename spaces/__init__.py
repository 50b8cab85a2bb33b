"""What may vary: one search space per architecture family, as data.

The directory is the registry: every module here but `domains` and `shared` is a family and defines `SPACE`. Nothing in
this package imports Torch, Ray or Optuna, so a space can be read, printed and tested anywhere.
"""

import importlib
import pkgutil

from spaces.domains import Space

_NOT_FAMILIES = {"domains", "shared"}


def names() -> tuple[str, ...]:
    """The families there are, in alphabetical order."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if name not in _NOT_FAMILIES and not name.startswith("_")))


def load(name: str) -> Space:
    """The space of one family; raises KeyError where there is none of that name."""
    if name not in names():
        raise KeyError(name)
    space: Space = importlib.import_module(f"spaces.{name}").SPACE
    return space
