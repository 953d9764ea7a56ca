"""The methods: one file each, whose name is its registration.

``load("mat")`` finds ``mat.py`` here; ``load("my/folder/fifth.py")`` takes a file from anywhere. A file defines exactly one
public subclass of :class:`Method`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from trainers.methods.base import Method
from trainers.rng import seed_of

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of all methods in this folder."""
    return sorted(f.stem for f in FOLDER.glob("*.py") if f.stem not in {"__init__", "base"})


def load(name: str) -> type[Method]:
    """The method class of a name or of a path that ends in ``.py``.

    Raises:
        ValueError: no such method (with the nearest names), or the file does not define exactly one.
    """
    if name.endswith(".py"):
        module = _from_path(Path(name).resolve())
    elif name in names():
        module = importlib.import_module(f"trainers.methods.{name}")
    else:
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"method {name!r} is unknown. {hint}Allowed: {', '.join(names())}, or the path of a .py file")
    found = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Method) and c.__module__ == module.__name__ and c.__name__[0] != "_"
    ]
    if len(found) != 1:
        raise ValueError(f"{module.__file__} must define exactly one subclass of Method; it defines {len(found)}")
    return found[0]


def _from_path(path: Path) -> ModuleType:
    """Import a file under a name made from its path, so that messages it defines unpickle at every agent that loaded it."""
    if not path.is_file():
        raise ValueError(f"method file {path} does not exist")
    name = f"sparring_method_{path.stem}_{seed_of(str(path)):x}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
