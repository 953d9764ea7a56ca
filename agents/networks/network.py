"""The base of all networks: pixels in [0, 1] go in, logits come out; normalisation is part of the network."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Everything needed to build a network again: stored in JSON beside its weights."""

    spec: str  # "small_cnn" or "small_cnn:width=16"
    channels: int
    height: int
    width: int
    classes: int
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, object]) -> NetworkConfig:
        """From the values of :meth:`to_json`."""
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)  # type: ignore[arg-type]


class Network(nn.Module):
    """A classifier of images in [0, 1]. Mean and standard deviation are buffers, so a threat model means raw pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(1, -1, 1, 1))

    def normalise(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> zero mean, unit variance per channel."""
        return (x - self.mean) / self.std

    def features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Output of every stage ([B, C_i, H_i, W_i], after its last ReLU) and the logits [B, K]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> logits [B, K]."""
        return self.features(x)[1]
