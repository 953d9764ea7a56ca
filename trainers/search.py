"""What a search may vary: spaces of single settings, written as ``uniform(1, 10)``, ``loguniform(1e-3, 1)``, ``choice(a, b)``, ``randint(1, 9)``."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias

from sparring.trainers.config import fraction, require


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
class Integers:
    """Every whole number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        require(self.low < self.high, f"{self}: low must be below high")

    def __str__(self) -> str:
        return f"randint({self.low}, {self.high})"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    values: tuple[float | str, ...]

    def __post_init__(self) -> None:
        require(bool(self.values), "choice() and grid() need at least one value")

    def __str__(self) -> str:
        return f"choice({', '.join(map(str, self.values))})"


Space: TypeAlias = Uniform | Integers | Choice
FORMS = ("uniform", "loguniform", "randint", "choice", "grid")


def parse(text: str) -> Space:
    """The space that a text describes.

    Raises:
        ValueError: not one of the five forms, or its numbers are not allowed.

    Example:
        >>> parse("loguniform(0.1, 10)")
        Uniform(low=0.1, high=10.0, log=True)
    """
    match = re.fullmatch(r"\s*(\w+)\((.*)\)\s*", text)
    if match is None or match[1] not in FORMS:
        near = difflib.get_close_matches(match[1], FORMS, n=1) if match else []
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"{text!r} is not a space.{hint} Write uniform(1, 10), loguniform(0.001, 1), randint(5, 20), choice(a, b) or grid(a, b)"
        )
    items = [item.strip() for item in match[2].split(",") if item.strip()]
    if match[1] in ("choice", "grid"):
        return Choice(tuple(_number_or_text(item) for item in items))
    require(len(items) == 2, f"{text!r}: {match[1]} takes two numbers")
    if match[1] == "randint":
        require(all(re.fullmatch(r"-?\d+", item) for item in items), f"{text!r}: randint takes two whole numbers")
        return Integers(int(items[0]), int(items[1]))
    return Uniform(fraction(items[0]), fraction(items[1]), log=match[1] == "loguniform")


def _number_or_text(item: str) -> float | str:
    try:
        value = fraction(item)
        return int(value) if re.fullmatch(r"-?\d+", item) else value
    except ValueError:
        return item
