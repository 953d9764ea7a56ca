"""Transformers and ConvNeXts of timm as networks of runs: whatever timm says of a network, the data set decides its images and classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import sparring as api
from sparring.agents import networks
from sparring.agents.networks import NetworkConfig
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.config import Attack
from sparring.trainers.methods.at import At
from tests.conftest import Command
from tests.helpers import bytes_of, make_team, small

timm = pytest.importorskip("timm")

VIT = "embed_dim=12,depth=2,num_heads=2"
KINDS = {  # small, and with every layer that draws in train mode
    "vit": f"timm:vit_tiny_patch16_224,{VIT},drop_path_rate=0.2,proj_drop_rate=0.1,attn_drop_rate=0.1",
    "deit": f"timm:deit_tiny_patch16_224,{VIT},drop_path_rate=0.2",
    "deit-distilled": f"timm:deit_tiny_distilled_patch16_224,{VIT},drop_path_rate=0.2",
    "xcit": "timm:xcit_nano_12_p16_224,embed_dim=16,depth=2,num_heads=2,drop_path_rate=0.2",
    "convnext": "timm:convnext_atto,depths=(1,1,1,1),dims=(4,4,8,8),drop_path_rate=0.2",
    "swin": "timm:swin_tiny_patch4_window7_224,embed_dim=8,depths=(2,2),num_heads=(1,2),drop_path_rate=0.2",
}
IMAGES = """
import numpy as np

def made(side, channels=3):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, side, side, channels), dtype=np.uint8)
    y = np.arange(40) % 4
    return x[:32], y[:32], x[32:], y[32:]

def s32():
    return made(32)

def grey():
    return made(32, 1)

def s224():
    return made(224)
"""
QUIET = Circumstances(quiet=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images.py").write_text(IMAGES)
    return tmp_path / "images.py"


def run_of(spec: str, images: str, method: str = "at", **more: Any) -> RunConfig:
    short = {
        "max_steps": 2,
        "batch_size": 8,
        "checkpoint__every": 1,
        "checkpoint__attack_steps": 1,
        "checkpoint__keep": 3,
    }
    return small(method, network=spec, data__name=images, team="local", **short, attack__eps=0.03, **more)


def without_last_step(run: Path) -> None:
    """As a machine leaves it that stops before its second checkpoint."""
    shutil.rmtree(run / "checkpoints" / "step-000002")


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *(("vit", "grey"), ("deit-distilled", "s32"), ("convnext", "s32")),
        *(pytest.param(kind, "s224", marks=pytest.mark.soak) for kind in KINDS),
        *(pytest.param(kind, "s32", marks=pytest.mark.soak) for kind in ("vit", "deit", "xcit", "swin")),
        *(pytest.param(kind, "grey", marks=pytest.mark.soak) for kind in ("deit", "xcit", "convnext", "swin")),
    ],
)
def test_trained_resumed_published_loaded_and_attacked(kind: str, size: str, images: Path, sparring: Command) -> None:
    """Stochastic depth and dropout are drawn from seed and step: a run that goes on is the run that was not interrupted."""
    run = launch.train(run_of(KINDS[kind], f"{images}:{size}"), name="r", how=QUIET).path
    torch.manual_seed(9)
    before, whole = torch.get_rng_state(), bytes_of(run)
    without_last_step(run)
    launch.resume(run, how=QUIET)
    assert bytes_of(run) == whole
    assert torch.equal(torch.get_rng_state(), before)
    model: Any = api.load("r", checkpoint="last")
    side, channels = (224 if size == "s224" else 32), (1 if size == "grey" else 3)
    assert (model.config.channels, model.config.height, model.config.classes) == (channels, side, 4)
    x, y = torch.rand(3, channels, side, side), torch.arange(3)
    expected = model(x)
    assert expected.shape == (3, 4)
    assert (api.attack(model, x, y, eps=0.1, steps=2) - x).abs().max() <= 0.1 + 1e-6
    assert sparring("publish", "r", "--as=m", "--checkpoint=last").returncode == 0
    assert torch.equal(api.load("m")(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_normalised_as_the_data_set_says(kind: str) -> None:
    """timm's pretrained_cfg goes on saying 3 channels, 224 pixels, 1000 classes and ImageNet's means, whatever was built."""
    config = NetworkConfig(KINDS[kind], 1, 32, 32, 4, (0.3,), (0.2,))
    model = networks.build(config, 0).eval()
    x = torch.rand(2, 1, 32, 32)
    assert model.model.pretrained_cfg["input_size"] == (3, 224, 224)
    assert torch.equal(model(x), model.model((x - 0.3) / 0.2))


def test_both_heads_of_a_distilled_transformer_are_trained_as_their_mean() -> None:
    """timm's own training returns a pair only where it was asked to; a run never asks, and every attack sees what is trained."""
    config = NetworkConfig(KINDS["deit-distilled"].replace("=0.2", "=0.0"), 3, 32, 32, 4, (0.5,) * 3, (0.2,) * 3)
    model, x = networks.build(config, 0).train(), torch.rand(2, 3, 32, 32)
    logits = model(x)
    assert torch.equal(logits, model.eval()(x))
    logits.sum().backward()
    for head in (model.model.head, model.model.head_dist):
        assert head.bias.grad.tolist() == [1.0] * 4  # half of what two images say


@pytest.mark.parametrize(
    ("spec", "side", "words"),
    [
        (
            f"timm:vit_tiny_patch16_224,{VIT},patch_size=3",
            28,
            r"moves by 3 pixels and never sees the last 1 of 28; patch_size=4 would",
        ),
        (
            f"timm:vit_tiny_patch16_224,{VIT}",
            100,
            r"moves by 16 pixels and never sees the last 4 of 100; patch_size=10 would",
        ),
        (KINDS["swin"] + ",patch_size=4", 30, r"moves by 4 pixels and never sees the last 2 of 30; patch_size=3 would"),
        (KINDS["convnext"], 35, r"moves by 4 pixels and never sees the last 3 of 35; patch_size=5 would"),
    ],
)
def test_images_that_are_not_seen_whole_are_refused(spec: str, side: int, words: str) -> None:
    """timm builds them, and drops the last rows and columns: an attack there would change nothing."""
    with pytest.raises(ValueError, match=words):
        networks.build(NetworkConfig(spec, 3, side, side, 4, (0.5,) * 3, (0.2,) * 3), 0)


@pytest.mark.parametrize(("kind", "side"), [("vit", 28), ("vit", 50), ("swin", 30), ("xcit", 36), ("xcit", 20)])
def test_every_pixel_is_seen(kind: str, side: int) -> None:
    """Patches that divide the side; XCiT's convolutions reach over the edge."""
    model = networks.build(NetworkConfig(KINDS[kind], 3, side, side, 4, (0.5,) * 3, (0.2,) * 3), 0).eval()
    x = torch.rand(1, 3, side, side, requires_grad=True)
    model(x).square().sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum((0, 1)) > 0).all())


def test_a_run_starts_from_weights_of_other_images(images: Path, tmp_path: Path, sparring: Command) -> None:
    """What is fitted is said when the run begins, and env.json has it with the sha256 of the file."""
    from safetensors.torch import save_file

    from sparring.agents.checkpoint import sha256

    source = timm.create_model(
        "vit_tiny_patch16_224", num_classes=7, embed_dim=12, depth=2, num_heads=2, img_size=64, patch_size=4
    )
    save_file(source.state_dict(), "w.safetensors")
    spec = f"timm:vit_tiny_patch16_224,{VIT},patch_size=4"
    flags = [f"--data.name={images}:s32", "--team=local", "--max-steps=1", "--batch-size=8", "--no-report", "--name=r"]
    init = ["--agents.model.init=w.safetensors", f"--agents.model.network={spec}"]
    done = sparring("train", "at", *flags, *init)
    assert done.returncode == 0, done.stderr
    for said in (
        "pos_embed [1, 257, 12] is interpolated to [1, 65, 12]",
        "head is new, for 4 classes, drawn by seed 0",
    ):
        assert f"w.safetensors: {said}" in done.stderr
    origin = json.loads(Path("runs/r/env.json").read_bytes())["origins"]["model"]
    assert origin["sha256"] == sha256(Path("w.safetensors"))
    assert any("head is new" in s for s in origin["said"])
    assert sparring("train", "at", *flags, *init, "--resume-if-exists").returncode == 0  # the same head: the same run
    done = sparring("evaluate", "w.safetensors", f"--network={spec}", f"--data.name={images}:s32", "--threat=linf:0.1")
    assert done.returncode == 5
    assert "head.weight is [7, 12], the network's [4, 12]" in done.stderr
    teacher = ["--agents.teacher.init=w.safetensors", f"--agents.teacher.network={spec}"]
    done = sparring("train", "ard", *flags[:-1], "--name=s", *teacher)
    assert done.returncode == 5  # nobody would train its head


def test_a_folder_of_timms_is_a_network(images: Path, tmp_path: Path, sparring: Command) -> None:
    from timm.models import save_for_hf

    options = {"embed_dim": 12, "depth": 2, "num_heads": 2, "patch_size": 4, "img_size": 32}
    source = timm.create_model("vit_tiny_patch16_224", num_classes=4, **options).eval()
    save_for_hf(source, "theirs", safe_serialization=True, data_config={"mean": (0.0,) * 3, "std": (1.0,) * 3})
    flags = [f"--data.name={images}:s32"]
    done = sparring(
        "evaluate", "theirs", *flags, "--attacks=clean,fgsm", "--threat=linf:0.1", "--examples=8", "--name=e"
    )
    assert done.returncode == 0, done.stderr
    folder = next(Path("evaluated").iterdir())
    assert sparring("verify", folder / "evaluation" / "e").returncode == 0
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(api.load("theirs", data=f"{images}:s32")(x), source(x))
    run = launch.train(
        run_of("small_cnn:width=4", f"{images}:s32").replace({"agents.model.init": "theirs"}), name="r", how=QUIET
    )
    assert run.path.is_dir()
    model: Any = api.load("r")
    assert model.config.spec.startswith("timm:vit_tiny_patch16_224,")


@pytest.mark.parametrize("bn", ["eval", "train"])
def test_masks_are_those_of_the_step(bn: Any) -> None:
    """Stochastic depth and dropout in a train-mode attack, too: a replay draws them again, whatever the global generator holds."""
    seen = []
    for seed in (1, 2):
        model = networks.build(NetworkConfig(KINDS["vit"] + ",img_size=6,patch_size=2", 1, 6, 6, 4, (0.5,), (0.2,)), 0)
        agent = make_team(At(), {"model": model}, attack=Attack(eps=0.1, steps=2, bn=bn), dtype=torch.float32)[
            "model"
        ].agent
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        first, second = agent.craft(0), agent.craft(0)
        assert torch.equal(first.x, second.x)
        loss = agent.learn(0, adv=second).values["total"]
        assert torch.equal(torch.get_rng_state(), before)
        seen.append((first.x.tolist(), loss, agent.craft(1).x.tolist()))
    assert seen[0] == seen[1]


@pytest.mark.soak
def test_two_processes_compute_the_same_bytes(images: Path, pooled: None) -> None:
    """Attention forwards and backwards, stochastic depth, dropout: in one process, and in one per peer."""
    config = run_of(KINDS["vit"], f"{images}:s32", "mat").replace({"max_steps": 3, "checkpoint.every": 3})
    local = launch.train(config, name="local", how=QUIET).path
    apart = launch.train(config.replace({"team": "ray"}), name="apart", how=QUIET).path
    assert bytes_of(local) == bytes_of(apart)
    assert {a["attention"] for a in json.loads((apart / "env.json").read_bytes())["agents"].values()} == {"flash"}
