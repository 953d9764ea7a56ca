"""hf: names of repositories as timm writes them: from the stand-in of the Hub, and out of the Hub's own cache without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.agents.checkpoint import sha256
from sparring.cluster.commands import api
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.cluster.sharing.standin import Hub, Repository, running
from tests.cluster.sharing.test_hub import _use
from tests.conftest import Command
from tests.helpers import small

timm: Any = pytest.importorskip("timm")
NET = "hf:timm/tiny.test"
MADE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}


@pytest.fixture
def theirs() -> torch.nn.Module:
    """A network of timm's for 5 classes of colour images."""
    torch.manual_seed(0)
    made: torch.nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=5, **MADE).eval()
    return made


@pytest.fixture
def hub(theirs: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in with a repository as timm writes it, and an empty cache of the Hub's."""
    from huggingface_hub import constants
    from timm.models import save_for_hf

    save_for_hf(theirs, str(tmp_path / "written"), safe_serialization=True, model_args=MADE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with running() as there:
        _use(there.url, monkeypatch)
        there.repositories["timm/tiny.test"] = made = Repository()
        made.commit("main", {p.name: p.read_bytes() for p in (tmp_path / "written").iterdir()})
        yield there


def test_a_start_from_the_hub_and_again_without_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small("at", team="local", max_steps=1, agents={"model": {"init": NET}}, network="small_cnn")
    run = launch.train(config, runs_dir=tmp_path, name="a", how=Circumstances(quiet=True))
    told = json.loads((run.path / "env.json").read_bytes())["origins"]["model"]
    commit = hub.repositories["timm/tiny.test"].branches["main"]
    assert told["file"].endswith(f"models--timm--tiny.test/snapshots/{commit}/model.safetensors")
    assert told["sha256"] == sha256(tmp_path / "written" / "model.safetensors")
    assert any("head is new, for 10 classes" in said for said in told["said"])
    assert not [request for request in hub.asked if "pytorch_model" in request]
    _use("http://127.0.0.1:9", monkeypatch)
    again = launch.train(config, runs_dir=tmp_path, name="b", how=Circumstances(quiet=True))
    assert (run.path / "config.yaml").read_bytes() == (again.path / "config.yaml").read_bytes()


def test_evaluated_as_it_is(hub: Hub, theirs: torch.nn.Module, tmp_path: Path, sparring: Command) -> None:
    """Its logits are timm's, on images normalised as its config.json says."""
    data = tmp_path / "own.py"
    data.write_text(
        "import numpy as np\n\n\ndef data():\n    g = np.random.default_rng(0)\n"
        "    x, y = g.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8), np.arange(20) % 5\n"
        "    return x, y, x, y\n"
    )
    model = api.load(NET, data=f"{data}:data")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(theirs.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs((x - mean) / std))
    done = sparring(
        "evaluate", NET, f"--data.name={data}:data", "--threat=linf:0.01", "--attacks=clean", "--masking=0", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["agents"]) == ["tiny.test"]


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("model.safetensors",), "pytorch_model.bin is not taken from the Hub, since it is a pickle"),
        (("config.json",), "holds no model that sparring published"),
    ],
)
def test_what_is_refused(gone: tuple[str, ...], said: str, hub: Hub, sparring: Command) -> None:
    for name in gone:
        del hub.files("timm/tiny.test")[name]
    hub.files("timm/tiny.test")["pytorch_model.bin"] = b"a pickle"
    done = sparring("train", "at", "--team=local", "--max-steps=1", f"--agents.model.init={NET}", "--dry-run")
    assert done.returncode == 2
    assert said in done.stderr
    assert not [request for request in hub.asked if "pytorch_model" in request]


def test_a_name_of_weights_is_no_network(sparring: Command) -> None:
    done = sparring("train", "at", f"--network={NET}", "--dry-run")
    assert done.returncode == 2
    assert f"names weights, with their network; start from them: --agents.ROLE.init {NET}" in done.stderr
