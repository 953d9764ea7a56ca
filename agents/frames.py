"""A message as its layout and its tensors; memory in which messages of one layout lie, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.agents.exchange import map_leaves

ALIGNED = 64  # bytes: where a tensor may begin


@dataclass(frozen=True, slots=True)
class Leaf:
    """The place of a tensor in a message, and of its bytes in memory."""

    index: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Its size."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """A message without its numbers."""

    frame: Any  # the message with a Leaf at the place of every tensor
    leaves: tuple[Leaf, ...]

    @property
    def nbytes(self) -> int:
        """Memory that a message takes."""
        return self.leaves[-1].start + self.leaves[-1].nbytes if self.leaves else 0


def taken_apart(message: Any) -> tuple[Layout, list[Tensor]]:
    """A message's layout and its tensors."""
    leaves: list[Leaf] = []
    tensors: list[Tensor] = []

    def take(tensor: Tensor) -> Leaf:
        start = leaves[-1].start + leaves[-1].nbytes if leaves else 0
        leaves.append(Leaf(len(leaves), tensor.dtype, tuple(tensor.shape), -(-start // ALIGNED) * ALIGNED))
        tensors.append(tensor.detach())
        return leaves[-1]

    return Layout(map_leaves(take, message), tuple(leaves)), tensors


def put_together(layout: Layout, tensors: Sequence[Tensor]) -> Any:
    """The message again."""
    return map_leaves(lambda leaf: tensors[leaf.index], layout.frame)


def views(layout: Layout, memory: Tensor) -> list[Tensor]:
    """The tensors of a message that lies in memory, a tensor of bytes."""
    return [memory[x.start : x.start + x.nbytes].view(x.dtype).view(x.shape) for x in layout.leaves]


class Doubled:
    """Two places for messages of one value, in turn: each is its holder's alone until the next but one comes.

    Places are used again, since the system gives new memory page by page, which takes longer than to copy a message into it.
    """

    def __init__(self, layout: Layout, device: torch.device | str = "cpu") -> None:
        self._places = [views(layout, torch.empty(layout.nbytes, dtype=torch.uint8, device=device)) for _ in range(2)]

    def next(self) -> list[Tensor]:
        """The tensors of the next one, to be written."""
        self._places.reverse()
        return self._places[0]

    def take(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The next one, with these numbers."""
        place = self.next()
        for mine, tensor in zip(place, tensors, strict=True):
            mine.copy_(tensor)
        return place
