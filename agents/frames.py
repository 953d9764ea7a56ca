"""A packed message as its layout and its arrays, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparring.agents.exchange import BFloat16, map_leaves


@dataclass(frozen=True, slots=True)
class Leaf:
    """The place of an array in a message."""

    index: int
    dtype: str
    shape: tuple[int, ...]
    bits: bool = False  # the integers of a bfloat16

    @property
    def nbytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """A message without its numbers."""

    frame: Any  # the message with a Leaf at the place of every array
    leaves: tuple[Leaf, ...]

    @property
    def nbytes(self) -> int:
        """Of all arrays together."""
        return sum(leaf.nbytes for leaf in self.leaves)


def taken_apart(message: Any) -> tuple[Layout, list[np.ndarray[Any, Any]]]:
    """A packed message's layout and its arrays, contiguous."""
    leaves: list[Leaf] = []
    arrays: list[np.ndarray[Any, Any]] = []

    def take(a: Any) -> Leaf:
        array = np.ascontiguousarray(a.bits if isinstance(a, BFloat16) else a)
        leaf = Leaf(len(leaves), array.dtype.str, array.shape, isinstance(a, BFloat16))
        leaves.append(leaf)
        arrays.append(array)
        return leaf

    return Layout(map_leaves(take, message), tuple(leaves)), arrays


def put_together(layout: Layout, arrays: Sequence[np.ndarray[Any, Any]]) -> Any:
    """The message again."""

    def give(leaf: Leaf) -> Any:
        return BFloat16(arrays[leaf.index]) if leaf.bits else arrays[leaf.index]

    return map_leaves(give, layout.frame)
