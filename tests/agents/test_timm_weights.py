"""Weights under timm's names as a start for other images and classes: everything that is not the file's is said, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sparring.agents import networks, timm_weights
from sparring.agents.checkpoint import CheckpointError
from sparring.agents.networks import NetworkConfig

timm = pytest.importorskip("timm")

VIT = {"embed_dim": 24, "depth": 2, "num_heads": 3}
NAME = "vit_tiny_patch16_224"
SPEC = f"timm:{NAME},embed_dim=24,depth=2,num_heads=3,patch_size=4"
SMALL: dict[str, tuple[str, dict[str, Any]]] = {  # what shrinks each kind
    "vit": (NAME, {**VIT, "img_size": 64, "patch_size": 4}),
    "deit distilled": ("deit_tiny_distilled_patch16_224", {**VIT, "img_size": 64, "patch_size": 4}),
    "xcit": ("xcit_nano_12_p8_224", {"embed_dim": 32, "depth": 2, "num_heads": 4}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 64, "embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2)},
    ),
}
HEADS = {"deit distilled": ("head", "head_dist"), "convnext": ("head.fc",), "swin": ("head.fc",)}


def spec_of(kind: str) -> str:
    name, options = SMALL[kind]
    given = {k: v for k, v in options.items() if k != "img_size"}
    return f"timm:{name}," + ",".join(f"{k}={v!r}" for k, v in given.items())


def made(kind: str, *, classes: int = 7) -> nn.Module:
    name, options = SMALL[kind]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model: nn.Module = timm.create_model(name, num_classes=classes, **options)
    return model


def config(spec: str, *, channels: int = 3, side: int = 32, classes: int = 10) -> NetworkConfig:
    return NetworkConfig(spec, channels, side, side, classes, (0.4,) * channels, (0.3,) * channels)


def written(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("channels", [3, 1])
def test_another_size_other_classes_other_channels(kind: str, channels: int, tmp_path: Path) -> None:
    """Embeddings, the first layer and the head are fitted, each with a sentence; every other tensor is the file's."""
    tensors = made(kind).state_dict()
    path = written(tmp_path, tensors)
    model, said = timm_weights.start(path, config(spec_of(kind), channels=channels), seed=0, role="model")
    told = "\n".join(said)
    own = model.model.state_dict()
    other = {
        k for k, v in own.items() if k not in tensors or v.shape != tensors[k].shape or not torch.equal(v, tensors[k])
    }
    heads = {f"{h}.{part}" for h in HEADS.get(kind, ("head",)) for part in ("weight", "bias")}
    assert heads <= other
    assert all(
        f"{h} is new, for 10 classes, drawn by seed 0; the file's is for 7" in told for h in HEADS.get(kind, ("head",))
    )
    assert all(k.removesuffix(".weight") in told for k in other - heads)
    assert ("takes 1 channels instead of 3" in told) == (channels == 1)
    assert ("pos_embed [1, " in told) == (kind in ("vit", "deit distilled"))
    assert model(torch.rand(2, channels, 32, 32)).shape == (2, 10)
    again, _ = timm_weights.start(path, config(spec_of(kind), channels=channels), seed=0, role="model")
    peer, _ = timm_weights.start(path, config(spec_of(kind), channels=channels), seed=0, role="peer1")
    first = sorted(heads)[1]
    assert torch.equal(again.model.state_dict()[first], own[first])
    assert not torch.equal(peer.model.state_dict()[first], own[first])


def test_what_is_fitted_is_what_timm_makes_of_it(tmp_path: Path) -> None:
    """timm's own way to load weights into another size and number of channels, but for the head."""
    source = made("vit")
    theirs = timm.create_model(
        NAME,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": source.state_dict(), "num_classes": 7},
        num_classes=10,
        in_chans=1,
        img_size=32,
        patch_size=4,
        **VIT,
    )
    ours, _ = timm_weights.start(written(tmp_path, source.state_dict()), config(SPEC, channels=1), seed=0, role="a")
    own = ours.model.state_dict()
    same = [k for k, v in theirs.state_dict().items() if torch.equal(v, own[k])]
    assert set(own) - set(same) == {"head.weight"}  # both heads are drawn, and have a bias of zeros


def test_weights_that_fit_are_taken_as_they_are(tmp_path: Path) -> None:
    source = made("vit", classes=10).eval()
    path = written(tmp_path, {f"model.{k}": v for k, v in source.state_dict().items()})
    own = config(SPEC, side=64)
    loaded = timm_weights.load(path, own)
    started, said = timm_weights.start(path, own, seed=5, role="a")
    x = torch.rand(2, 3, 64, 64)
    known = timm.get_pretrained_cfg(NAME)
    expected = source((x - torch.tensor(known.mean).view(3, 1, 1)) / torch.tensor(known.std).view(3, 1, 1))
    torch.testing.assert_close(loaded(x), expected)
    assert torch.equal(started(x), loaded(x))
    assert said == (f"{path}: normalised by mean (0.5, 0.5, 0.5) and std (0.5, 0.5, 0.5)",)


def test_weights_that_do_not_fit_are_no_finished_network(tmp_path: Path) -> None:
    path = written(tmp_path, made("vit").state_dict())
    with pytest.raises(
        CheckpointError, match=r"head\.weight is \[7, 24\], the network's \[10, 24\].* can be a start only"
    ):
        timm_weights.load(path, config(SPEC))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("blocks.1.mlp.fc1.bias"), r"1 tensors are missing \(blocks\.1\.mlp\.fc1\.bias\)"),
        (lambda t: t.update({"blocks.2.norm1.bias": torch.zeros(24)}), r"1 have no place \(blocks\.2\.norm1\.bias\)"),
        (lambda t: t.update({"norm.bias": torch.zeros(25)}), r"norm\.bias is \[25\], the network's \[24\]"),
        (lambda t: t.update({"norm.bias": torch.zeros(24).to(torch.float8_e5m2)}), "elements of float8_e5m2"),
        (lambda t: t.update({"head.weight": torch.zeros(7, 25)}), r"head\.weight is \[7, 25\]"),
    ],
)
def test_nothing_else_is_made_to_fit(change: Any, words: str, tmp_path: Path) -> None:
    tensors = made("vit").state_dict()
    change(tensors)
    with pytest.raises(CheckpointError, match=words):
        timm_weights.start(written(tmp_path, tensors), config(SPEC), seed=0, role="a")


def test_a_file_without_a_head_gets_one(tmp_path: Path) -> None:
    tensors = {k: v for k, v in made("vit").state_dict().items() if not k.startswith("head.")}
    _, said = timm_weights.start(written(tmp_path, tensors), config(SPEC), seed=4, role="a")
    assert any("head is new, for 10 classes, drawn by seed 4; the file has none" in s for s in said)


def test_a_folder_as_timm_writes_it(tmp_path: Path) -> None:
    """config.json names the architecture with its arguments, and the statistics of the images."""
    from timm.models import save_for_hf

    name, options = SMALL["vit"]
    source = timm.create_model(name, num_classes=10, **options).eval()
    statistics = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    save_for_hf(source, str(tmp_path), safe_serialization=True, data_config=statistics)
    assert timm_weights.is_folder(tmp_path)
    spec = timm_weights.network_of(tmp_path, (64, 64))
    model = timm_weights.load(tmp_path / timm_weights.WEIGHTS, config(spec, side=64))
    x = torch.rand(2, 3, 64, 64)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    mean, std = (torch.tensor(statistics[k]).view(3, 1, 1) for k in ("mean", "std"))
    torch.testing.assert_close(model(x), theirs((x - mean) / std))
    smaller = replace(config(timm_weights.network_of(tmp_path, (32, 32))), classes=4)
    model, said = timm_weights.start(tmp_path / timm_weights.WEIGHTS, smaller, seed=0, role="a")
    assert model.config.mean == (0.1, 0.2, 0.3)
    assert any("pos_embed [1, 257, 24] is interpolated to [1, 65, 24]" in s for s in said)
    assert networks.build(model.config).config == model.config  # written into a run, it is made again


@pytest.mark.parametrize(
    "told",
    [
        {"architecture": "../x"},
        {"architecture": NAME, "model_args": {"checkpoint_path": "x.pt"}},
        {"architecture": NAME, "model_args": {"act_layer": "a,pretrained=True"}},
        {"architecture": NAME, "model_args": {"norm": {"eps": 1}}},
        [],
    ],
)
def test_what_a_strangers_folder_may_not_say(told: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        timm_weights.network_of(tmp_path, (32, 32))
