"""Python files of a user's, by path."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from sparring.trainers.rng import seed_of


def module(path: Path) -> ModuleType:
    """Import a file under a name made from its path, so that what it defines unpickles wherever it was imported too.

    Raises:
        ValueError: no such file.
    """
    path = path.resolve()
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    name = f"sparring_user_{path.stem}_{seed_of(str(path)):x}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def is_function(spec: str) -> bool:
    """Whether ``spec`` has the form ``file.py:function``."""
    return ".py:" in spec


def function(spec: str) -> Callable[..., Any]:
    """The function of ``file.py:function``.

    Raises:
        ValueError: no such file or function.
    """
    file, _, name = spec.rpartition(":")
    if is_function(file):
        raise ValueError(f"{spec} is not file.py:function, which takes no options; set them in the file")
    found = getattr(module(Path(file)), name, None)
    if not callable(found):
        raise ValueError(f"{file} has no function {name!r}")
    return found  # type: ignore[no-any-return]


def absolute(spec: str) -> str:
    """``file.py:function`` or ``file.py`` with an absolute path; anything else as it is."""
    if is_function(spec):
        file, _, name = spec.rpartition(":")
        return f"{Path(file).resolve()}:{name}"
    return str(Path(spec).resolve()) if spec.endswith(".py") else spec
