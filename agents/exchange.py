"""What travels: messages as numpy arrays on the way out, private copies on the way in, flat names for Ray.

The seam of the exchange: both teams call ``pack`` and ``unpack``, so one process and many see the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.trainers.types import Message


@dataclass(frozen=True, slots=True)
class BFloat16:
    """A bfloat16 tensor as the integers of its bits, since numpy has no such type."""

    bits: np.ndarray[Any, np.dtype[np.int16]]


def map_leaves(fn: Callable[[Any], Any], value: Any) -> Any:
    """Apply ``fn`` to every leaf of messages, mappings and tuples; None stays None."""
    if value is None:
        return None
    if isinstance(value, Message):
        return replace(value, **{f.name: map_leaves(fn, getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, Mapping):
        return {k: map_leaves(fn, v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(map_leaves(fn, v) for v in value)
    return fn(value)


def detach(message: Any) -> Any:
    """The same message without gradients: for its receivers it is a constant."""
    return map_leaves(lambda t: t.detach(), message)


def pack(message: Any) -> Any:
    """Tensors -> numpy arrays in host memory."""
    return map_leaves(_to_numpy, message)


def private(message: Any) -> Any:
    """The message in memory of its own, contiguous and on its device: what its sender does next cannot change it."""
    return map_leaves(_own, message)


def unpack(message: Any, *, device: torch.device | str = "cpu", copy: bool = True) -> Any:
    """Numpy arrays -> tensors of this agent's own on its device.

    Args:
        copy: False where nobody else will write to the arrays; one out of Ray's object store is shared memory.
    """
    return map_leaves(lambda a: _to_tensor(a, device, copy), message)


def nbytes(message: Any) -> int:
    """Bytes of all tensors in a message."""
    total = 0

    def add(t: Tensor) -> Tensor:
        nonlocal total
        total += t.nbytes
        return t

    map_leaves(add, message)
    return total


def flatten(payloads: Mapping[str, Any]) -> dict[str, Any]:
    """``{"adv": {"peer0": ref}} -> {"adv.peer0": ref}``: Ray resolves only references at the top level of a call."""
    flat: dict[str, Any] = {}
    for name, value in payloads.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{k}": v for k, v in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`flatten`; role names hold no dot."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        level = nested
        for part in path:
            level = level.setdefault(part, {})
        level[last] = value
    return nested


def _own(t: Tensor, device: str | None = None) -> Tensor:
    there = t.detach().to(device or t.device).contiguous()
    return there.clone() if there.data_ptr() == t.data_ptr() else there


def _to_numpy(t: Tensor) -> Any:
    t = _own(t, "cpu")
    return BFloat16(t.view(torch.int16).numpy()) if t.dtype == torch.bfloat16 else t.numpy()


def _to_tensor(a: Any, device: torch.device | str, copy: bool) -> Tensor:
    bits = a.bits if isinstance(a, BFloat16) else a
    made = torch.from_numpy(bits.copy() if copy else bits)
    return (made.view(torch.bfloat16) if isinstance(a, BFloat16) else made).to(device)
