"""Published architectures: parameter counts, logits of the authors' networks, and any input size."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from agents import networks
from agents.networks import NetworkConfig
from tests.helpers import CLONE

GOLDEN = CLONE / "tests" / "golden" / "peeraid_arch_f64.npz"
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


def fill(model: nn.Module, names: list[str]) -> None:
    """The closed-form weights of the recorded runs."""
    parameters = dict(model.named_parameters())
    for j, name in enumerate(names):
        p = parameters[name]
        i = torch.arange(p.numel(), dtype=torch.float64)
        if p.dim() > 1:
            value = torch.sin(0.37 * i + 0.11 * j) * (2 / (p.numel() / p.shape[0])) ** 0.5
        elif name.endswith("weight"):
            value = 1 + 0.1 * torch.sin(0.7 * i + j)
        else:
            value = 0.05 * torch.cos(0.3 * i + j)
        p.data.copy_(value.view(p.shape))


@pytest.mark.parametrize(
    ("spec", "key"),
    [("resnet18", "resnet18"), ("wrn-34-10", "wideresnet34x10")],
)
@pytest.mark.parametrize("data", ["cifar10", "cifar100", "tinyimagenet"])
def test_logits_of_the_authors_networks(spec: str, key: str, data: str) -> None:
    """Same parameter names, same order, same logits in float64: one train-mode pass, then eval mode."""
    with np.load(GOLDEN) as recorded:
        meta = json.loads(str(recorded["meta"]))[f"{key}/{data}"]
        train, evaluated = (recorded[f"{key}/{data}/{n}"] for n in ("logits_train", "logits_eval_after_one_train_fwd"))
    names = [name for name, _ in meta["tensors"]]
    size, classes = (64, 200) if data == "tinyimagenet" else (32, meta["tensors"][-1][1][0])
    model = networks.build(config(spec, classes, size)).double()
    assert names == list(dict(model.named_parameters()))
    fill(model, names)
    b = len(evaluated)
    x = (0.5 + 0.5 * torch.sin(0.013 * torch.arange(b * 3 * size * size, dtype=torch.float64))).view(b, 3, size, size)
    with torch.no_grad():
        seen = model.train()(x if b == 2 else torch.cat([x, x]))
        np.testing.assert_allclose(seen.numpy(), train, rtol=0, atol=1e-9)
        np.testing.assert_allclose(model.eval()(x).numpy(), evaluated, rtol=0, atol=1e-9)
    assert np.isfinite(train).all()
    assert np.isfinite(evaluated).all()


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
