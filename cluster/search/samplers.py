"""Which settings trial i gets: drawn beforehand from the seed (random, grid), or asked of Optuna as results come (tpe)."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparring.cluster.errors import UsageError
from sparring.cluster.search.settings import Search
from sparring.trainers.rng import seed_of
from sparring.trainers.search import Choice, Integers, Space

Params = dict[str, float | str]


def draw(search: Search, folder: Path) -> list[Params] | None:
    """Settings of every trial, in order; None where they depend on results (tpe).

    Raises:
        UsageError: a grid over ranges, or Optuna is not installed.
    """
    if search.sampler == "tpe":
        try:
            import optuna  # noqa: F401
        except ImportError:
            raise UsageError("--sampler tpe needs Optuna: pip install optuna") from None
        return None
    spaces = dict(sorted(search.spaces.items()))
    if search.sampler == "grid":
        refuse_ranges(spaces)
        return [
            dict(zip(spaces, v, strict=True))
            for v in itertools.product(*(s.values for s in spaces.values() if isinstance(s, Choice)))
        ]
    return [{k: _one(s, search.config.seed, i, k) for k, s in spaces.items()} for i in range(search.trials)]


def refuse_ranges(spaces: Mapping[str, Space]) -> None:
    """Refuse a grid over what is not a list of values.

    Raises:
        UsageError: names the first.
    """
    ranges = [k for k, s in spaces.items() if not isinstance(s, Choice)]
    if ranges:
        raise UsageError(f"a grid needs values: --search.{ranges[0]} 'grid(1, 2, 5)' instead of {spaces[ranges[0]]}")


def ends(space: Space) -> list[float | str]:
    """Values of a space that stand for all: if these are allowed, the rest is."""
    if isinstance(space, Choice):
        return list(space.values)
    return [space.low, space.high]


def _one(space: Space, seed: int, index: int, path: str) -> float | str:
    """The value of one setting of trial ``index``: it depends on nothing else, so a longer search begins with a shorter one."""
    u = seed_of("search", seed, index, path) / 2**63
    u -= math.floor(u)
    if isinstance(space, Choice):
        return space.values[int(u * len(space.values))]
    if isinstance(space, Integers):
        return int(space.low + u * (space.high + 1 - space.low))
    if space.log:
        return float(math.exp(math.log(space.low) + u * (math.log(space.high) - math.log(space.low))))
    return space.low + u * (space.high - space.low)


def domains(spaces: Mapping[str, Space]) -> dict[str, Any]:
    """The spaces as Ray Tune's."""
    from ray import tune

    def domain(space: Space) -> Any:
        if isinstance(space, Choice):
            return tune.choice(list(space.values))
        if isinstance(space, Integers):
            return tune.randint(space.low, space.high + 1)
        return (tune.loguniform if space.log else tune.uniform)(space.low, space.high)

    return {k: domain(s) for k, s in sorted(spaces.items())}


def known(folder: Path, index: int) -> Params | None:
    """The settings that trial ``index`` already has in an earlier part of the search."""
    file = folder / "trials" / f"{index:03d}" / "params.json"
    return dict(json.loads(file.read_text())) if file.exists() else None
