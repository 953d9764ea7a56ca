"""Averages of a network's weights, which are evaluated and shipped instead of the last ones.

EMA (every step):   w_e <- d w_e + (1 - d) w;  buffers are copied.
SWA (every epoch):  w_s <- w_s (1 - 1 / (n + 1)) + w / (n + 1), n <- n + 1: the mean of the epochs' last weights
                    (Izmailov et al., UAI 2018, arXiv 1803.05407). Batch-norm statistics are then those of one pass over
                    the training images, each batch weighted by its size.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Average(nn.Module):
    """A copy of ``network`` that holds a mean of its weights.

    Args:
        network: the network that trains; its present weights are the start.
    """

    n: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network).requires_grad_(False)
        self.register_buffer("n", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def decay(self, network: nn.Module, decay: float) -> None:
        """EMA: move towards ``network``."""
        self.n += 1
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.mul_(decay).add_(theirs, alpha=1 - decay)
        for buffer, other in zip(self.network.buffers(), network.buffers(), strict=True):
            buffer.copy_(other)

    @torch.no_grad()
    def merge(self, network: nn.Module) -> None:
        """SWA: take ``network`` in as one more of equal weight."""
        share = 1 / (self.n.item() + 1)
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.mul_(1 - share).add_(theirs, alpha=share)
        self.n += 1


@torch.no_grad()
def recompute_batch_norm(network: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Batch-norm statistics over ``inputs`` [B, C, H, W]: means and unbiased variances of the batches, weighted by size.

    Leaves the network in train mode; a network without batch norm is left alone.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    network.train()
    for m in norms:
        assert m.running_mean is not None
        assert m.running_var is not None
        m.running_mean.zero_()
        m.running_var.fill_(1)
    seen = 0
    for x in inputs:
        seen += len(x)
        for m in norms:
            m.momentum = len(x) / seen
        network(x)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
