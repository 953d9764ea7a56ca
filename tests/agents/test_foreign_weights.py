"""Weights in published layouts, on files that the test writes in them, give the outputs of networks written as theirs are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.agents import foreign_weights, networks
from sparring.agents.checkpoint import CheckpointError
from sparring.agents.layouts import DEEPMIND, Layout
from sparring.agents.networks import NetworkConfig

SMALL = "wide_resnet:depth=10,widen=2"


def config(spec: str = SMALL) -> NetworkConfig:
    return NetworkConfig(spec, 3, 32, 32, 10, (0.0,) * 3, (1.0,) * 3)


def test_trades_layout(tmp_path: Path) -> None:
    """From data-parallel training, with the unused sub_block1 that the published file holds."""
    torch.manual_seed(0)
    model = networks.build(config(), 3).eval()
    content = {f"module.{k}": v for k, v in model.state_dict().items() if k not in ("mean", "std")}
    content |= {k.replace("block1", "sub_block1"): v for k, v in content.items() if "block1" in k}
    torch.save(content, tmp_path / "model_cifar_wrn.pt")
    loaded = foreign_weights.load(tmp_path / "model_cifar_wrn.pt", config()).eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(x), model(x))


class Block(nn.Module):
    """As Gowal et al. name and pad it."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0, self.batchnorm_1 = nn.BatchNorm2d(a), nn.BatchNorm2d(b)
        self.conv_0, self.conv_1 = nn.Conv2d(a, b, 3, stride, bias=False), nn.Conv2d(b, b, 3, padding=1, bias=False)
        self.stride = stride
        if a != b:
            self.shortcut = nn.Conv2d(a, b, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.batchnorm_0(x))
        padded = F.pad(h, (1, 1, 1, 1) if self.stride == 1 else (0, 1, 0, 1))
        out = self.conv_1(F.silu(self.batchnorm_1(self.conv_0(padded))))
        return torch.add(out, self.shortcut(h) if hasattr(self, "shortcut") else x)


class DeepMind(nn.Module):
    """The wide network of depth 10 and width 2 with CIFAR-10's statistics inside."""

    def __init__(self) -> None:
        super().__init__()
        self.init_conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer = nn.Sequential()
        for a, b, stride in ((16, 32, 1), (32, 64, 2), (64, 128, 2)):
            group = nn.Module()
            group.block = nn.Sequential(Block(a, b, stride))
            self.layer.append(group)
        self.batchnorm, self.logits = nn.BatchNorm2d(128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (DEEPMIND.mean, DEEPMIND.std))
        h = self.init_conv((x - mean) / std)
        for group in self.layer:
            h = group.block(h)  # type: ignore[union-attr,operator]
        h = F.avg_pool2d(F.silu(self.batchnorm(h)), 8)
        return self.logits(h.flatten(1))  # type: ignore[no-any-return]


def test_deepmind_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = DeepMind()
    theirs.train()(torch.rand(8, 3, 32, 32))  # batch-norm statistics other than 0 and 1
    theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / "cifar10_linf_wrn.pt")
    loaded = foreign_weights.load(tmp_path / "cifar10_linf_wrn.pt", config(f"{SMALL},swish=True")).eval()
    assert loaded.config.spec == f"{SMALL},swish=True,same=True"
    x = torch.rand(4, 3, 32, 32)
    assert torch.allclose(loaded(x), theirs(x), atol=1e-5)
    other = networks.build(config(f"{SMALL},swish=True")).eval()  # padded on both sides: another function
    other.load_state_dict(loaded.state_dict())
    assert not torch.allclose(other(x), theirs(x), atol=1e-4)


def test_a_layout_of_the_users(tmp_path: Path) -> None:
    model = networks.build(config("small_cnn:width=4"), 3).eval()
    content = {f"backbone/{k}": v for k, v in model.state_dict().items() if k not in ("mean", "std")}
    torch.save({"net": content | {"head.aux": torch.zeros(3)}}, tmp_path / "x.pt")
    layout = Layout(keys=(("^backbone/", ""),), drop="aux", mean=(0.5,), std=(0.25,))
    loaded = foreign_weights.load(tmp_path / "x.pt", config("small_cnn:width=4"), layout=layout).eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(loaded(x), model((x - 0.5) / 0.25), atol=1e-6)
    with pytest.raises(CheckpointError, match=r"does not fit small_cnn:width=4: \d+ tensors are missing"):
        foreign_weights.load(tmp_path / "x.pt", config("small_cnn:width=4"))
