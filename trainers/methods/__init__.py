"""The methods: one file each, whose name is its registration.

``load("mat")`` finds ``mat.py`` here; ``load("my/folder/fifth.py")`` takes a file from anywhere. A file defines exactly one
public subclass of :class:`Method`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path

from sparring.trainers import user
from sparring.trainers.config import Attack, AugmentConfig
from sparring.trainers.methods.base import Method

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
        module = user.module(name)
    elif name in names():
        module = importlib.import_module(f"sparring.trainers.methods.{name}")
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


def name_of(method: Method) -> str:
    """The name, or that of a user's file, from which :func:`load` makes the class of ``method`` again."""
    module = type(method).__module__
    own = module.removeprefix(f"{__name__}.")
    return user.file_of(module) or own


def check(method: Method, attacks: Mapping[str, Attack], transforms: AugmentConfig) -> None:
    """Refuse attacks that do not suit the method, and mixup and cutmix where its loss knows one label per image or mixes by itself.

    Raises:
        ValueError: what the method says of the attacks; which methods take mixed images.
    """
    method.check(attacks)
    if transforms.mixing is None or method.MIXED:
        return
    taken = ", ".join(name for name in names() if load(name).MIXED)
    setting = transforms.mixing.partition(" ")[0]
    raise ValueError(
        f"data.transforms.{transforms.mixing} is not allowed: {Path(name_of(method)).stem} takes no images that are mixed already; "
        f"methods that do: {taken}. Set --data.transforms.{setting} 0"
    )
