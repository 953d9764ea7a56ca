"""Random numbers in the order and shapes in which the authors' code draws them, on the CPU: the same seed, the same starts and squares."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def noise(norm: str, x: Tensor, rng: Generator) -> Tensor:
    """Like ``x``: uniform in [-1, 1] for linf, else normal."""
    drawn = torch.rand(x.shape, generator=rng) * 2 - 1 if norm == "linf" else torch.randn(x.shape, generator=rng)
    return drawn.to(x)


def signs(shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Of 1 and -1."""
    return torch.sign(2 * torch.rand(shape, generator=rng) - 1)


def place(room: int, rng: Generator) -> int:
    """In 0 to ``room`` - 1; 0 where there is no room."""
    return int(room * torch.rand(1, generator=rng))
