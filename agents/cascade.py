"""Two networks as one: a small one answers where it is sure, else a large one. It is attacked through its decision.

margin = p(1st) - p(2nd), of the small network's two most probable classes
answer = small where margin >= width, else large              Cascade, which is judged
p      = s p_small + (1 - s) p_large, s = sigmoid((margin - width) / SOFT)      Smooth, on which attacks see both ways at once
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.agents.fast import faster
from sparring.agents.robustness import Lenient

SOFT = 0.1  # of the margin, over which the smooth form goes from one network to the other


class Cascade(nn.Module):
    """Images in [0, 1] -> log probabilities [B, K] of the network that answers, which serve as logits.

    Args:
        small, large: networks with the same classes.
        width: of the margin, in [0, 1], from which on the small one answers.
    """

    def __init__(self, small: nn.Module, large: nn.Module, width: float) -> None:
        super().__init__()
        self.members = nn.ModuleList([small, large])
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`decide`."""
        return self.decide(x)[0]

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities [B, K], and whether the large one was asked [B]; it sees these images only."""
        answer = self.members[0](x).log_softmax(1)
        asked = ~(margin(answer) >= self.width)  # also where the small one's answer is no number
        rows = asked.nonzero().flatten()
        if len(rows):
            answer = answer.index_copy(0, rows, self.members[1](x[rows]).log_softmax(1))
        return answer, asked


class Smooth(nn.Module):
    """What an attack on a cascade follows beside the cascade itself, which changes with the network that answers in jumps."""

    def __init__(self, cascade: Cascade) -> None:
        super().__init__()
        self.cascade = cascade

    def forward(self, x: Tensor) -> Tensor:
        """Log probabilities [B, K] of both networks, weighed by how sure the small one is."""
        small, large = (member(x).log_softmax(1) for member in self.cascade.members)
        sure = ((margin(small) - self.cascade.width) / SOFT)[:, None]
        return torch.logaddexp(small + functional.logsigmoid(sure), large + functional.logsigmoid(-sure))


def margin(log_probabilities: Tensor) -> Tensor:
    """[B, K] -> probability of the first class minus that of the next, [B] in [0, 1]."""
    first, second = log_probabilities.topk(2, dim=1).values.exp().unbind(1)
    return first - second


def forms(network: nn.Module, images: Tensor) -> tuple[nn.Module, ...]:
    """Everything that an attack on a network has to follow: its faster form; of a cascade also the smooth one.

    Args:
        network: in eval mode.
        images: [B, C, H, W] of the kind that is attacked.
    """
    if isinstance(network, Lenient) and isinstance(network.network, Cascade):
        return tuple(Lenient(form) for form in forms(network.network, images))
    if not isinstance(network, Cascade):
        return (faster(network, images),)
    small, large = (faster(member, images) for member in network.members)
    cascade = Cascade(small, large, network.width).eval()
    return cascade, Smooth(cascade).eval()
