"""Several networks as one: the mean of their probabilities, differentiable, so it is attacked end to end."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Images in [0, 1] -> log of the mean probability [B, K], which serve as logits.

    Args:
        members: networks with the same classes.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """``log(1/M sum_m softmax(f_m(x)))``, computed in log space."""
        each = torch.stack([m(x).log_softmax(1) for m in self.members])
        return each.logsumexp(0) - log(len(self.members))

    def disagreement(self, x: Tensor) -> Tensor:
        """Share of members whose class is not the ensemble's, per example: [B] in [0, 1)."""
        mine = self(x).argmax(1)
        return torch.stack([m(x).argmax(1) != mine for m in self.members]).double().mean(0)
