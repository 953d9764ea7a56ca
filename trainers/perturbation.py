"""Adversarial weight perturbation (Wu, Xia, Wang, NeurIPS 2020, arXiv 2004.05884, eq. 7 to 9).

    v_l = size * ||w_l|| * g_l / ||g_l||,  g = gradient of the loss at w, per weight tensor of two or more dimensions
    w  <- w - lr * gradient of the loss at w + v

Differences from the published code: that one finds g with a copy of the network and applies weight decay at w + v; here
both gradients are the network's own (its batch-norm statistics move once) and weight decay acts on w.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def perturbed(
    network: nn.Module,
    loss: Tensor,
    *,
    size: float,
    average: Callable[[Sequence[Tensor]], None] = lambda gradients: None,
) -> Iterator[None]:
    """Inside the block the weights are those at which ``loss`` is higher; afterwards they are what they were, to the bit.

    ``average`` is given the gradients, which it may replace in place by their means over replicas.
    """
    weights = [p for p in network.parameters() if p.requires_grad and p.dim() > 1]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    average([g for g in gradients if g is not None])
    before = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for w, g in zip(weights, gradients, strict=True):
            if g is not None:
                w.add_(g, alpha=float(size * w.norm() / (g.norm() + 1e-20)))
    try:
        yield
    finally:
        with torch.no_grad():
            for w, old in zip(weights, before, strict=True):
                w.copy_(old)
