"""A network of one's own, by file and function:

sparring train mat --network examples/own_network.py:mlp --epochs 5
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.agents.networks import NetworkConfig


class MLP(nn.Module):
    """Two hidden layers. It gets pixels in [0, 1] and normalises them itself, so that a threat model means raw pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig, *, hidden: int = 256) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(1, -1, 1, 1))
        inputs = config.channels * config.height * config.width
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, config.classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> logits [B, K]."""
        logits: Tensor = self.layers((x - self.mean) / self.std)
        return logits


def mlp(config: NetworkConfig) -> nn.Module:
    """What ``--network examples/own_network.py:mlp`` calls."""
    return MLP(config)
