"""Wide residual networks (Zagoruyko and Komodakis, arXiv 1605.07146), as TRADES' code builds and names them.

The options ``swish`` and ``same`` are the activation and the padding of Gowal et al., arXiv 2010.03593, whose networks were
made for TensorFlow: a convolution of stride 2 is padded at the end only.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.agents.networks.network import Network, NetworkConfig
from sparring.agents.networks.resnet import conv
from sparring.trainers.config import require


class WideBlock(nn.Module):
    """Batch norm and activation before each of two 3x3 convolutions."""

    def __init__(self, a: int, b: int, stride: int, *, swish: bool, same: bool) -> None:
        super().__init__()
        self.act = F.silu if swish else F.relu
        self.ends = same and stride == 2
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv(a, b, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv(b, b, 3)
        self.convShortcut = None if a == b else conv(a, b, 1, stride)
        if self.ends:
            self.conv1.padding = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(h)
        padded = F.pad(h, (0, 1, 0, 1)) if self.ends else h
        return torch.add(self.conv2(self.act(self.bn2(self.conv1(padded)))), shortcut)


class Group(nn.Module):
    """One stage: blocks of the same width under the name ``layer``."""

    def __init__(self, depth: int, a: int, b: int, stride: int, **options: bool) -> None:
        super().__init__()
        blocks = (WideBlock(a if i == 0 else b, b, stride if i == 0 else 1, **options) for i in range(depth))
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(Network):
    """WRN-depth-widen: stem of 16 channels, three groups of 16, 32 and 64 times ``widen``.

    Args:
        depth: 6n + 4.
        widen: width factor.
        swish: x * sigmoid(x) instead of ReLU.
        same: convolutions of stride 2 are padded at the end only.
    """

    def __init__(
        self, config: NetworkConfig, *, depth: int, widen: int, swish: bool = False, same: bool = False
    ) -> None:
        super().__init__(config)
        require(depth % 6 == 4 and depth > 4, f"wide_resnet: depth = {depth} must be 6n + 4: 10, 16, 22, 28, 34, ...")
        n, w = (depth - 4) // 6, (16, 16 * widen, 32 * widen, 64 * widen)
        self.act = F.silu if swish else F.relu
        self.conv1 = conv(config.channels, 16, 3)
        self.block1 = Group(n, w[0], w[1], 1, swish=swish, same=same)
        self.block2 = Group(n, w[1], w[2], 2, swish=swish, same=same)
        self.block3 = Group(n, w[2], w[3], 2, swish=swish, same=same)
        self.bn1 = nn.BatchNorm2d(w[3])
        self.fc = nn.Linear(w[3], config.classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(m.weight, 0, sqrt(2 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels)))
        nn.init.zeros_(self.fc.bias)

    def blocks_in_order(self) -> list[tuple[str, ...]]:
        """Names of what each block holds, the stem first; the rest is the head."""
        groups = {"block1": self.block1, "block2": self.block2, "block3": self.block3}
        return [
            ("conv1",),
            *((f"{name}.layer.{i}",) for name, group in groups.items() for i in range(len(group.layer))),
        ]

    def features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        maps = [self.conv1(self.normalise(x))]
        for group in (self.block1, self.block2, self.block3):
            maps.append(group(maps[-1]))
        maps[-1] = self.act(self.bn1(maps[-1]))
        return tuple(maps), self.fc(maps[-1].mean((2, 3)))
