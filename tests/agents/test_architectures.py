"""Published architectures: parameter counts and any input size. Their logits: tests/golden/peeraid_arch_f64.npz."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from sparring.agents import networks
from sparring.agents.networks import NetworkConfig

COUNTS = {
    ("resnet18", 10): 11_173_962,
    ("resnet18", 100): 11_220_132,
    ("resnet18", 200): 11_271_432,
    ("resnet18_lbgat", 10): 11_173_962,
    ("resnet34", 10): 21_282_122,
    ("resnet50", 10): 23_520_842,
    ("resnet56", 10): 855_770,
    ("preact_resnet18", 10): 11_172_170,
    ("preact_resnet34", 10): 21_280_330,
    ("wrn-34-10", 10): 46_160_474,
    ("wrn-34-10", 100): 46_218_164,
    ("wrn-34-10", 200): 46_282_264,
    ("wrn-22-6", 100): 9_693_108,
    ("wrn-70-16:swish=True", 100): 266_888_756,
    ("wrn-28-10", 10): 36_479_194,
    ("mobilenet_v2", 10): 2_296_922,
    ("mobilenet_v2", 100): 2_412_212,
}


def config(spec: str, classes: int = 10, size: int = 32, channels: int = 3) -> NetworkConfig:
    return NetworkConfig(spec, channels, size, size, classes, (0.0,) * channels, (1.0,) * channels)


@pytest.mark.parametrize(("spec", "classes"), COUNTS)
def test_parameter_counts(spec: str, classes: int) -> None:
    maker, options = networks.parse(spec)
    with torch.device("meta"):
        model = maker(config(spec, classes), **options)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[spec, classes]


SMALL = [
    "small_cnn",
    "resnet18",
    "resnet18_lbgat",
    "resnet50",
    "resnet56",
    "preact_resnet18",
    "wrn-16-4",
    "wrn-22-6",
    "mobilenet_v2",
]


@pytest.mark.parametrize("spec", SMALL)
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (33, 3), (96, 3)])
def test_sizes_8_to_96(spec: str, size: int, channels: int) -> None:
    model = networks.build(config(spec, 7, size, channels)).eval()
    x = torch.rand(1, channels, size, size)
    with torch.no_grad():
        maps, logits = model.features(x)
        assert torch.equal(model(x), logits)
    assert logits.shape == (1, 7)
    assert logits.isfinite().all()
    assert all(a.shape[2] >= b.shape[2] for a, b in itertools.pairwise(maps))


def test_lbgat_keeps_the_size_in_its_second_stage() -> None:
    maps, _ = networks.build(config("resnet18_lbgat")).features(torch.rand(2, 3, 32, 32))
    assert [m.shape[2] for m in maps] == [32, 32, 32, 16, 8]


def test_bad_depth() -> None:
    with pytest.raises(ValueError, match=r"depth = 33 must be 6n \+ 4"):
        networks.build(config("wide_resnet:depth=33,widen=2"))


USER = """
from torch import nn
def net(config):
    return nn.Sequential(nn.Flatten(), nn.Linear(config.channels * config.height * config.width, config.classes))
def wrong(config):
    return 3
"""


def test_network_of_a_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    model = networks.build(config(f"{tmp_path / 'mine.py'}:net", size=8), 0)
    x = torch.rand(2, 3, 8, 8)
    assert model(x).shape == (2, 10)
    assert torch.equal(model(x), model.model(x))  # type: ignore[operator, union-attr]  # its pixels are untouched
    with pytest.raises(ValueError, match="does not tell its stages"):
        model.features(x)
    with pytest.raises(ValueError, match=r"returned int; expected a torch\.nn\.Module"):
        networks.build(config(f"{tmp_path / 'mine.py'}:wrong"))
    with pytest.raises(ValueError, match="has no function 'other'"):
        networks.build(config(f"{tmp_path / 'mine.py'}:other"))


def test_timm() -> None:
    try:
        import timm  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="pip install timm"):
            networks.build(config("timm:resnet18"))
        return
    assert networks.build(config("timm:resnet18"))(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ValueError, match="timm has no network 'resnet17'"):
        networks.build(config("timm:resnet17"))
