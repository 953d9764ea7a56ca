"""Two train-mode passes over the same images for the price of one.

Published code often runs a network twice on the same batch. The second pass gives the same logits, and its gradient adds to
the first one's, but it moves the batch-norm statistics again. With momentum m, batch statistics s and whatever happened in
between, that second move needs no pass:

    r1 = (1 - m) r0 + m s   =>   m s = r1 - (1 - m) r0        and later   r <- (1 - m) r + m s
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def twice(network: nn.Module, x: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    """Logits [B, K] of ``network`` on ``x``, and a function that gives those of a second pass, with its effect on batch norm.

    The second pass is computed where it is not the first again: when the network drew random numbers (dropout), calls a
    batch norm twice or averages it over all batches (momentum None), or keeps other state in its buffers; and when somebody
    listens to its modules. Weights must not change in between.
    """
    if hooked(network):
        return network(x), lambda: network(x)
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.running_mean is not None]
    others = [b for m in network.modules() if not isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)]
    drawn, others_before, norms_before = _random_state(x.device), _versions(others), _versions(map(_count, norms))
    before = [_statistics(m, copy=True) for m in norms]
    out: Tensor = network(x)
    calls = [now - then for now, then in zip(_versions(map(_count, norms)), norms_before, strict=True)]
    moved = [(m, old) for m, old, n in zip(norms, before, calls, strict=True) if n]
    if (
        max(calls, default=0) > 1
        or others_before != _versions(others)
        or not torch.equal(drawn, _random_state(x.device))
        or any(m.momentum is None for m, _ in moved)
    ):
        return out, lambda: network(x)
    replays = [_Replay(m, old) for m, old in moved]

    def again() -> Tensor:
        for replay in replays:
            replay()
        return out

    return out, again


def hooked(network: nn.Module) -> bool:
    """Whether somebody wants to be called when modules of ``network`` are."""
    return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in network.modules())


class _Replay:
    """One batch norm's move, to be made again."""

    @torch.no_grad()
    def __init__(self, norm: _BatchNorm, before: list[Tensor]) -> None:
        self.norm, self.kept = norm, 1 - float(norm.momentum or 0)
        self.added = [now - self.kept * old for now, old in zip(_statistics(norm), before, strict=True)]

    @torch.no_grad()
    def __call__(self) -> None:
        for now, more in zip(_statistics(self.norm), self.added, strict=True):
            now.data.mul_(self.kept).add_(more)  # .data: the first pass's graph holds them too, and does not use them
        _count(self.norm).add_(1)


def _statistics(norm: _BatchNorm, *, copy: bool = False) -> list[Tensor]:
    own = [norm.running_mean, norm.running_var]
    return [b.clone() if copy else b for b in own if b is not None]


def _count(norm: _BatchNorm) -> Tensor:
    assert norm.num_batches_tracked is not None
    return norm.num_batches_tracked


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    """Counters that rise with every change in place: looking at values would make a GPU wait."""
    return [t._version for t in tensors]


def _random_state(device: torch.device) -> Tensor:
    """Of the generator that a network on ``device`` draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
