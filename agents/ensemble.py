"""Several networks as one: the mean of their probabilities, differentiable, so it is attacked end to end; or a cascade."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn

from sparring.agents.cascade import Cascade


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
        return self._both(x)[1]

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` says, and how far the members disagree, per example: [B] in [0, 1].

        The Jensen-Shannon divergence of their predictions (Lin, IEEE Trans. Inf. Theory 37, 1991), of its most: 0 where all say the
        same, 1 where each is sure of a class of its own.
        """
        each, mean = self._both(x)
        divergence = (each.exp() * (each - mean)).sum(2).mean(0)
        return mean, divergence.clamp(min=0) / log(max(2, len(self.members)))  # rounding can take it below

    def _both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities of the members [M, B, K], and of their mean [B, K]."""
        each = torch.stack([m(x).log_softmax(1) for m in self.members])
        return each, each.logsumexp(0) - log(len(self.members))


def together(members: Sequence[nn.Module], width: float | None = None) -> nn.Module:
    """Networks as one in eval mode: the only one, an ensemble, or with the width of a margin a cascade of two."""
    if width is not None:
        return Cascade(members[0], members[1], width).eval()
    return members[0] if len(members) == 1 else Ensemble(members).eval()


def members_of(model: nn.Module) -> tuple[list[nn.Module], float | None]:
    """What :func:`together` makes a network of."""
    if isinstance(model, Cascade):
        return list(model.members), model.width
    return list(model.members) if isinstance(model, Ensemble) else [model], None
