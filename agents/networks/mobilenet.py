"""MobileNetV2 for small images (Sandler et al., arXiv 1801.04381), in the CIFAR form that the distillation papers use.

Stem and first stages of stride 1, ReLU instead of ReLU6, a projection shortcut wherever stride is 1 and widths differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.agents.networks.network import Network, NetworkConfig
from sparring.agents.networks.resnet import conv, projection

# expansion, channels, blocks, stride of the first block
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1; shortcut at stride 1."""

    def __init__(self, a: int, b: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = expansion * a
        self.conv1, self.bn1 = conv(a, width, 1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, b, 1), nn.BatchNorm2d(b)
        self.shortcut = projection(a, b, 1) if stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        h = torch.relu(self.bn2(self.conv2(h)))
        projected: Tensor = self.bn3(self.conv3(h))
        return projected if self.shortcut is None else projected + self.shortcut(x)


class MobileNetV2(Network):
    """2,296,922 parameters with 10 classes."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.conv1, self.bn1 = conv(config.channels, 32, 3), nn.BatchNorm2d(32)
        blocks, a = [], 32
        self.ends = []  # index of the last block of each stage
        for expansion, b, depth, stride in STAGES:
            for i in range(depth):
                blocks.append(InvertedResidual(a, b, expansion, stride if i == 0 else 1))
                a = b
            self.ends.append(len(blocks) - 1)
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = conv(a, 1280, 1), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, config.classes)

    def blocks_in_order(self) -> list[tuple[str, ...]]:
        """Names of what each block holds, the stem first; the rest is the head."""
        return [("conv1", "bn1"), *((f"layers.{i}",) for i in range(len(self.layers))), ("conv2", "bn2")]

    def features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        h = torch.relu(self.bn1(self.conv1(self.normalise(x))))
        maps = [h]
        for i, block in enumerate(self.layers):
            h = block(h)
            if i in self.ends:
                maps.append(h)
        h = torch.relu(self.bn2(self.conv2(h)))
        return tuple(maps), self.linear(h.mean((2, 3)))
