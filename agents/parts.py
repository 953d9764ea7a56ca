"""A batch in parts, where the whole does not fit in memory: cutting what an agent sees, joining what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparring.agents.exchange import map_leaves
from sparring.trainers.types import Loss, Message


def cut(n: int, size: int | None) -> list[slice]:
    """Rows 0 .. n in as few nearly equal parts as hold at most ``size``; None: one part.

    Example:
        >>> cut(10, 4)
        [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    count = -(-n // (size or n))
    return [slice(i * n // count, (i + 1) * n // count) for i in range(count)]


def rows(value: Any, part: slice, n: int) -> Any:
    """The same of some examples: tensors of ``n`` rows are cut, all others stay."""
    return map_leaves(lambda a: a[part] if a.dim() and len(a) == n else a, value)


def joined(messages: Sequence[Any]) -> Any:
    """One message of those about the parts, in order."""
    first = messages[0]
    if len(messages) == 1:
        return first
    columns = [_leaves(m) for m in messages]
    whole = iter([torch.cat(same) if same[0].dim() else same[0] for same in zip(*columns, strict=True)])
    return map_leaves(lambda _: next(whole), first)


def _leaves(message: Message | Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_leaves(found.append, message)
    return found


def mean(shares: Sequence[float], losses: Sequence[Loss]) -> Loss:
    """The loss of a whole batch from those of its parts, without a graph.

    Args:
        shares: of the batch's images, per part; their sum is 1.
    """
    pairs = list(zip(shares, losses, strict=True))
    terms = {k: torch.stack([w * x.terms[k].detach() for w, x in pairs]).sum() for k in losses[0].terms}
    stats = {k: torch.stack([w * x.stats[k].detach() for w, x in pairs]).sum() for k in losses[0].stats}
    return Loss(terms, stats)
