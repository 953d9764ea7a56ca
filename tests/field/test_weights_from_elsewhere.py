"""Files of weights as people have them: with a normalisation of their own, under any name, wrapped, quantised, damaged."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparring.agents import foreign_weights, networks
from sparring.agents.checkpoint import CheckpointError
from sparring.agents.layouts import Layout
from sparring.agents.networks import NetworkConfig
from tests.conftest import Command
from tests.helpers import damaged

SPEC = "small_cnn:width=4"
PLAIN = NetworkConfig(SPEC, 1, 8, 8, 10, (0.0,), (1.0,))
NORMALISED = NetworkConfig(SPEC, 1, 8, 8, 10, (0.3,), (0.35,))
MU, SIGMA = torch.tensor([0.3]).view(1, 1, 1, 1), torch.tensor([0.35]).view(1, 1, 1, 1)


def weights() -> dict[str, Tensor]:
    return {k: v for k, v in networks.build(PLAIN, 3).state_dict().items() if k not in ("mean", "std")}


def under(prefix: str, tensors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in (tensors or weights()).items()}


LAYOUTS: dict[str, Any] = {
    "mu-sigma": lambda: {**weights(), "mu": MU, "sigma": SIGMA},
    "madrylab": lambda: {
        **under("module.model."),
        **under("module.attacker.model."),
        "module.normalizer.new_mean": MU.view(1, 1, 1),
        "module.normalizer.new_std": SIGMA.view(1, 1, 1),
        "module.attacker.normalize.new_mean": MU.view(1, 1, 1),
        "module.attacker.normalize.new_std": SIGMA.view(1, 1, 1),
    },
    "sequential": lambda: {**under("1."), "0.mean": MU, "0.std": SIGMA},
    "layer-in-front": lambda: {**under("net."), "normalize.mean": MU.flatten(), "normalize.std": SIGMA.flatten()},
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_normalisation_in_the_file_is_the_networks(kind: str, tmp_path: Path) -> None:
    """RobustBench/robustbench#16, fra31/auto-attack#13, MadryLab/robustness#123, #73."""
    torch.save(LAYOUTS[kind](), tmp_path / "x.pt")
    found = foreign_weights.load(tmp_path / "x.pt", PLAIN)
    right = networks.build(NORMALISED, 3)
    right.load_state_dict(weights(), strict=False)
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.eval()(x), right.eval()(x))
    assert found.config.mean == pytest.approx((0.3,))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mu": MU}, "holds a normalisation that is not one mean and std"),
        ({"mu": MU * 255, "sigma": SIGMA * 255}, "which are not of pixels in [0, 1]"),
        ({"a.mean": MU, "a.std": SIGMA, "b.mean": MU / 2, "b.std": SIGMA}, "is not one mean and std (a: "),
    ],
)
def test_one_that_is_not_clear_is_named(more: dict[str, Tensor], words: str, tmp_path: Path) -> None:
    torch.save({**weights(), **more}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError) as error:
        foreign_weights.load(tmp_path / "x.pt", PLAIN)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["model.pth.tar", "model.ckpt", "pytorch_model.bin", "best.tar"])
def test_other_names_of_weights(name: str, sparring: Command) -> None:
    """Frankluox/LightningFSL#18, anonymous-sushi-armadillo/fast_is_better_than_free_imagenet#2."""
    torch.save({"state_dict": weights(), "epoch": 3}, name)
    flags = ("--attacks=clean", "--threat=linf:0.1", "--examples=16", "--json", f"--network={SPEC}")
    done = sparring("evaluate", name, *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 16


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "int8", "uint8"])
def test_quantised_weights_are_named(dtype: str, tmp_path: Path) -> None:
    """Numbers without their scales would be loaded as other numbers."""
    tensors = weights()
    first = next(k for k, v in tensors.items() if v.is_floating_point())
    tensors[first] = tensors[first].to(getattr(torch, dtype))
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError) as error:
        foreign_weights.load(tmp_path / "x.safetensors", PLAIN)
    assert dtype in str(error.value) or "F8_E8M0" in str(error.value)
    assert "quantised weights are not taken" in str(error.value)


def test_element_types_that_this_torch_does_not_have_are_named(tmp_path: Path) -> None:
    """Four bits per element, written by hand: the reader knows the type and has no tensor for it, or does not know it."""
    for dtype in ("F4", "F6_E2M3", "Q2"):
        header = json.dumps({"conv.weight": {"dtype": dtype, "shape": [16], "data_offsets": [0, 8]}}).encode()
        (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(CheckpointError) as error:
            foreign_weights.read_tensors(tmp_path / "x.safetensors")
        assert dtype in str(error.value), str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".old.pt"])
def test_damaged_files_end_in_tensors_or_in_our_error(suffix: str, tmp_path: Path) -> None:
    """A few bytes changed, cut out or put in, 2,000 times a format."""
    file = tmp_path / f"whole{suffix}"
    tensors = {"conv.weight": torch.arange(16.0), "conv.bias": torch.ones(2), "n": torch.tensor(3)}
    if suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save({"state_dict": tensors}, file, _use_new_zipfile_serialization=suffix == ".pt")
    whole, rng = file.read_bytes(), random.Random(0)
    altered = tmp_path / f"damaged{suffix}"
    refused = read = 0
    for _ in range(2000):
        altered.write_bytes(damaged(whole, rng))
        try:
            found = foreign_weights.read_tensors(altered)
        except CheckpointError as error:
            refused += str(altered) in str(error)
        else:
            read += all(isinstance(v, Tensor) for v in found.values())
    assert refused + read == 2000
    assert refused > 200


def test_a_mapping_says_what_the_file_does_not(tmp_path: Path) -> None:
    """A normalisation of bytes, or two of them: the mapping's mean and std count, and the file's are left out."""
    torch.save({**weights(), "a.mean": MU * 255, "a.std": SIGMA * 255, "b.mean": MU}, tmp_path / "x.pt")
    layout = Layout(mean=(0.3,), std=(0.35,))
    assert foreign_weights.load(tmp_path / "x.pt", PLAIN, layout=layout).config.mean == (0.3,)


OWN = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.norm, self.linear = nn.Module(), nn.Linear(64, classes)
        self.norm.register_buffer("mean", torch.full((1,), 0.5))
        self.norm.register_buffer("std", torch.full((1,), 0.25))
    def forward(self, x):
        return self.linear(((x - self.norm.mean) / self.norm.std).flatten(1))
def net(config):
    return Net(config.classes)
"""


def test_a_networks_own_buffers_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    config = NetworkConfig(f"{tmp_path}/own.py:net", 1, 8, 8, 10, (0.0,), (1.0,))
    model = networks.build(config, 0)
    model.get_buffer("model.norm.mean").fill_(0.7)
    save_file(model.state_dict(), tmp_path / "x.safetensors")
    found = foreign_weights.load(tmp_path / "x.safetensors", config)
    assert float(found.get_buffer("model.norm.mean")) == pytest.approx(0.7)


@pytest.mark.parametrize("wrapper", ["model.", "module.", "_orig_mod.", "_orig_mod.module.", "module.student."])
def test_a_wrapper_in_the_names_is_taken_off_and_said(wrapper: str, tmp_path: Path, sparring: Command) -> None:
    """megvii-research/mdistiller#20 (module.student.), goldblum/AdversariallyRobustDistillation#7 (DataParallel), and torch.compile's."""
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "state_dict": {f"{wrapper}{k}": v for k, v in weights().items()}}, path)
    model = foreign_weights.load(path, PLAIN)
    expected = networks.build(PLAIN, 3)
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in model.state_dict().items())
    done = sparring("evaluate", path, f"--network={SPEC}", "--threat=linf:0.1", "--attacks=fgsm", "--examples=8")
    assert done.returncode == 0, done.stderr
    assert f"names without '{wrapper}'" in done.stderr
    init = (f"--agents.model.init={path}", f"--agents.model.network={SPEC}", f"--network={SPEC}")
    done = sparring("train", "at", *init, "--team=local", "--max-steps=1", "--batch-size=8", "--no-report")
    assert done.returncode == 0, done.stderr
    assert f"names without '{wrapper}'" in done.stderr


def test_the_average_beside_the_weights_is_taken(tmp_path: Path) -> None:
    """A script that keeps both evaluates the average."""
    raw = {k: torch.zeros_like(v) for k, v in weights().items()}
    torch.save({"state_dict": raw, "ema": {f"module.{k}": v for k, v in weights().items()}}, tmp_path / "w.ckpt")
    loaded = foreign_weights.load(tmp_path / "w.ckpt", PLAIN).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in weights().items())


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """open-mmlab/mmrazor#650: another architecture's names; five of each, and how many."""
    torch.save({f"backbone.stem.{i}.weight": torch.zeros(2) for i in range(7)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"tensors are missing \(.*, .*, .*, .*, .* \.\.\.\), 7 have no place"):
        foreign_weights.load(tmp_path / "w.pt", PLAIN)
