"""Residual networks for small images: 3x3 stem of stride 1, no max-pooling, global average pool.

Parameter names are those of the widely shared CIFAR implementations, so that their weight files load by name.
Sources: He et al., arXiv 1512.03385 (ResNet) and 1603.05027 (pre-activation); ResNet-56 is the CIFAR network of the former.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparring.agents.networks.network import Network, NetworkConfig


def conv(a: int, b: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the image size (at stride 1), without bias: batch norm follows or precedes."""
    return nn.Conv2d(a, b, size, stride=stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion: ClassVar[int] = 1

    def __init__(self, a: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(a, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = projection(a, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; four times as many channels come out."""

    expansion: ClassVar[int] = 4

    def __init__(self, a: int, width: int, stride: int) -> None:
        super().__init__()
        b = self.expansion * width
        self.conv1, self.bn1 = conv(a, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, b, 1), nn.BatchNorm2d(b)
        self.shortcut = projection(a, b, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        h = torch.relu(self.bn2(self.conv2(h)))
        return torch.relu(self.bn3(self.conv3(h)) + self.shortcut(x))


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; the shortcut starts behind the first of them."""

    expansion: ClassVar[int] = 1

    def __init__(self, a: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv(a, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        if stride != 1 or a != width:
            self.shortcut = nn.Sequential(conv(a, width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(x))
        shortcut = self.shortcut(h) if hasattr(self, "shortcut") else x
        h = self.conv2(torch.relu(self.bn2(self.conv1(h))))
        return torch.add(h, shortcut)


def projection(a: int, b: int, stride: int) -> nn.Sequential:
    """The identity, or 1x1 convolution and batch norm where shape changes."""
    if stride == 1 and a == b:
        return nn.Sequential()
    return nn.Sequential(conv(a, b, 1, stride), nn.BatchNorm2d(b))


class ResNet(Network):
    """Stem, stages of blocks, linear layer.

    Args:
        block: kind of block.
        depths: blocks per stage.
        widths: channels per stage, before the block's expansion.
        strides: of each stage's first block.
    """

    def __init__(
        self,
        config: NetworkConfig,
        block: type[BasicBlock | Bottleneck | PreActBlock],
        depths: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        strides: Sequence[int] = (1, 2, 2, 2),
    ) -> None:
        super().__init__(config)
        self.pre_activation = block is PreActBlock
        self.conv1 = conv(config.channels, widths[0], 3)
        if not self.pre_activation:
            self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages: list[str] = []
        a = widths[0]
        for i, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True), start=1):
            blocks = []
            for j in range(depth):
                blocks.append(block(a, width, stride if j == 0 else 1))
                a = width * block.expansion
            self.stages.append(f"layer{i}")
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        if self.pre_activation:
            self.bn = nn.BatchNorm2d(a)
        self.linear = nn.Linear(a, config.classes)

    def blocks_in_order(self) -> list[tuple[str, ...]]:
        """Names of what each block holds, the stem first; the rest is the head."""
        stem = ("conv1",) if self.pre_activation else ("conv1", "bn1")
        return [
            stem,
            *((f"{stage}.{i}",) for stage in self.stages for i, _ in enumerate(self.get_submodule(stage).children())),
        ]

    def features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        h = self.conv1(self.normalise(x))
        if not self.pre_activation:
            h = torch.relu(self.bn1(h))
        maps = [h]
        for name in self.stages:
            h = self.get_submodule(name)(h)
            maps.append(h)
        if self.pre_activation:
            h = maps[-1] = torch.relu(self.bn(h))
        return tuple(maps), self.linear(h.mean((2, 3)))


def resnet18(config: NetworkConfig) -> ResNet:
    """11,173,962 parameters with 10 classes."""
    return ResNet(config, BasicBlock, (2, 2, 2, 2))


def resnet18_lbgat(config: NetworkConfig) -> ResNet:
    """LBGAT's guide: ResNet-18 whose second stage keeps the image size (strides 1, 1, 2, 2)."""
    return ResNet(config, BasicBlock, (2, 2, 2, 2), strides=(1, 1, 2, 2))


def resnet34(config: NetworkConfig) -> ResNet:
    """21,282,122 parameters with 10 classes."""
    return ResNet(config, BasicBlock, (3, 4, 6, 3))


def resnet50(config: NetworkConfig) -> ResNet:
    """23,520,842 parameters with 10 classes."""
    return ResNet(config, Bottleneck, (3, 4, 6, 3))


def resnet56(config: NetworkConfig) -> ResNet:
    """The CIFAR ResNet of three stages of nine blocks; 855,770 parameters with 10 classes."""
    return ResNet(config, BasicBlock, (9, 9, 9), (16, 32, 64), (1, 2, 2))


def preact_resnet18(config: NetworkConfig) -> ResNet:
    """Pre-activation ResNet-18 with a final batch norm; 11,172,170 parameters with 10 classes."""
    return ResNet(config, PreActBlock, (2, 2, 2, 2))


def preact_resnet34(config: NetworkConfig) -> ResNet:
    """Pre-activation ResNet-34 with a final batch norm."""
    return ResNet(config, PreActBlock, (3, 4, 6, 3))
