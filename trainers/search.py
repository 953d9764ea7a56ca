"""What a search may vary: spaces of single settings, written as ``uniform(1, 10)``, ``loguniform(1e-3, 1)``, ``choice(a, b)``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias

from trainers.config import fraction, require


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every value between the two with equal density; ``log``: its logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        require(isfinite(self.low) and isfinite(self.high) and self.low < self.high, f"{self}: low must be below high")
        require(not self.log or self.low > 0, f"{self}: the ends of a logarithmic range must be > 0")

    def __str__(self) -> str:
        return f"{'log' * self.log}uniform({self.low:g}, {self.high:g})"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    values: tuple[float | str, ...]

    def __post_init__(self) -> None:
        require(bool(self.values), "choice() needs at least one value")

    def __str__(self) -> str:
        return f"choice({', '.join(map(str, self.values))})"


Space: TypeAlias = Uniform | Choice


def parse(text: str) -> Space:
    """The space that a text describes.

    Raises:
        ValueError: not one of the three forms, or its numbers are not allowed.

    Example:
        >>> parse("loguniform(0.1, 10)")
        Uniform(low=0.1, high=10.0, log=True)
    """
    match = re.fullmatch(r"\s*(uniform|loguniform|choice)\((.*)\)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is not a space; write uniform(1, 10), loguniform(0.001, 1) or choice(a, b)")
    items = [item.strip() for item in match[2].split(",") if item.strip()]
    if match[1] == "choice":
        return Choice(tuple(_number_or_text(item) for item in items))
    require(len(items) == 2, f"{text!r}: {match[1]} takes two numbers")
    return Uniform(fraction(items[0]), fraction(items[1]), log=match[1] == "loguniform")


def _number_or_text(item: str) -> float | str:
    try:
        return fraction(item)
    except ValueError:
        return item
