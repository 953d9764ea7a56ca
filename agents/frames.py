"""A message as its layout and its tensors, and back from bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.agents.exchange import map_leaves


@dataclass(frozen=True, slots=True)
class Leaf:
    """The place of a tensor in a message."""

    index: int
    dtype: torch.dtype
    shape: tuple[int, ...]

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
        """Of all tensors together."""
        return sum(leaf.nbytes for leaf in self.leaves)


def taken_apart(message: Any) -> tuple[Layout, list[Tensor]]:
    """A message's layout and the bytes of its tensors, which must be contiguous: no copies, on the device of each."""
    leaves: list[Leaf] = []
    parts: list[Tensor] = []

    def take(tensor: Tensor) -> Leaf:
        leaf = Leaf(len(leaves), tensor.dtype, tuple(tensor.shape))
        leaves.append(leaf)
        parts.append(tensor.reshape(-1).view(torch.uint8))
        return leaf

    return Layout(map_leaves(take, message), tuple(leaves)), parts


def put_together(layout: Layout, parts: Sequence[Tensor], device: torch.device | str = "cpu") -> Any:
    """The message again, on a device; its tensors may share the memory of the parts."""

    def give(leaf: Leaf) -> Tensor:
        part = parts[leaf.index]
        aligned = part if part.storage_offset() % leaf.dtype.itemsize == 0 else part.clone()
        return aligned.view(leaf.dtype).reshape(leaf.shape).to(device)

    return map_leaves(give, layout.frame)
