"""A small convolutional network for any image size and channel count: the default for digits."""

from __future__ import annotations

from torch import Tensor, nn

from sparring.agents.networks.network import Network, NetworkConfig
from sparring.trainers.config import require


class SmallCNN(Network):
    """Three 3x3 convolutions of w, 2w and 4w channels (strides 1, 2, 2), batch norm and ReLU, average pool, linear layer."""

    def __init__(self, config: NetworkConfig, *, width: int = 32) -> None:
        super().__init__(config)
        require(width >= 1, f"small_cnn: width = {width} must be >= 1")
        channels = [config.channels, width, 2 * width, 4 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)
            )
            for a, b, stride in zip(channels, channels[1:], (1, 2, 2), strict=False)
        )
        self.fc = nn.Linear(channels[-1], config.classes)

    def blocks_in_order(self) -> list[tuple[str, ...]]:
        """Names of what each block holds; the rest is the head."""
        return [(f"stages.{i}",) for i in range(len(self.stages))]

    def features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        maps = []
        h = self.normalise(x)
        for stage in self.stages:
            h = stage(h)
            maps.append(h)
        return tuple(maps), self.fc(h.mean((2, 3)))
