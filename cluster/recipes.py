"""Named runs: each recipe is a function that returns a complete configuration."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cluster.run_config import RunConfig
from cluster.settings import Checkpointing
from trainers import methods
from trainers.config import Attack, OptimConfig


def digits(method: str) -> RunConfig:
    """Any method on scikit-learn's digits, about half a minute on two CPU cores: linf eps 0.15, PGD-7, 40 epochs."""
    return RunConfig(
        recipe=f"{Path(method).stem}-digits",
        method=methods.load(method)(),
        network="small_cnn:width=24",
        attack=Attack(norm="linf", eps=0.15, steps=7, step_size=0.15 / 4),
        optim=OptimConfig(lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="linear"),
        epochs=40,
        batch_size=128,
        checkpoint=Checkpointing(every=100),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {f"{name}-digits": partial(digits, name) for name in methods.names()}


def recipe(name: str) -> RunConfig:
    """A recipe by name; a bare method, or the path of a method's file, means that method on digits.

    Raises:
        ValueError: unknown, with the nearest name.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if name in methods.names() or name.endswith(".py"):
        return digits(name)
    near = difflib.get_close_matches(name, [*RECIPES, *methods.names()], n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"recipe or method {name!r} is unknown. {hint}Allowed: {', '.join([*RECIPES, *methods.names()])}")
