"""Networks from elsewhere: a user's function, files of weights in the layouts that people have, and what is wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sparring.agents import networks
from sparring.agents.networks import NetworkConfig
from sparring.cluster.evaluation import verify
from sparring.cluster.models.resolve import single
from sparring.cluster.models.target import Elsewhere
from tests.conftest import Command

PLAIN = NetworkConfig("small_cnn:width=4", 1, 8, 8, 10, (0.0,), (1.0,))
FLAGS = ["--attacks=clean,fgsm", "--threat=linf:0.1", "--examples=64", "--json"]
MODEL = """
import torch
def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
def wrong():
    return 3
"""
IMAGES = """
import numpy as np
def images():
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    y = np.arange(60) % 10
    return x[:40], y[:40], x[40:], y[40:]
"""


def test_a_users_function(sparring: Command) -> None:
    """Evaluated, verified, continued under its own name; the evaluation is tied to its weights."""
    Path("mine.py").write_text(MODEL)
    done = sparring("evaluate", "mine.py:make", *FLAGS)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report["agents"]) == ["mine"]
    assert 0 <= report["robust_accuracy"] <= report["clean_accuracy"] <= 1
    folder = Path(report["report"]).parent
    assert re.fullmatch("mine-[0-9a-f]{8}", folder.parent.parent.name)
    assert folder == (Path("evaluated") / folder.parent.parent.name / "evaluation" / "1").resolve()
    assert sparring("verify", folder).returncode == 0
    Path("mine.py").write_text(MODEL.replace("manual_seed(0)", "manual_seed(1)"))
    assert verify.evaluation(folder).problems == []  # by the kept copy
    other = json.loads(sparring("evaluate", "mine.py:make", *FLAGS).stdout)
    assert Path(other["report"]).parent.parent.parent != folder.parent.parent


def test_a_folder_is_of_one_network_on_one_data_set(tmp_path: Path) -> None:
    """Two functions whose networks are equal, other test images, weights that were written over: three times another folder."""
    nets = tmp_path / "nets.py"
    nets.write_text(MODEL.replace("def wrong", "def same():\n    return make()\ndef wrong"))
    data = tmp_path / "data.py"
    data.write_text(IMAGES)
    asked = [
        (f"{nets}:make", Elsewhere()),
        (f"{nets}:same", Elsewhere()),
        (f"{nets}:make", Elsewhere(data=f"{data}:images")),
    ]
    folders = [single(*each)[2].path for each in asked]
    assert len(set(folders)) == 3
    assert single(*asked[0])[2].path == folders[0]
    weights, network = tmp_path / "weights.safetensors", Elsewhere(network="small_cnn:width=4")
    found = []
    for seed in (0, 1):
        save_file(networks.build(PLAIN, seed).state_dict(), weights)
        found.append(single(str(weights), network)[2].path)
    assert found[0] != found[1]


def test_weights_in_the_layouts_that_people_have(sparring: Command) -> None:
    """Bare, nested, from data-parallel training, without our buffers; .pt and .safetensors: always the same numbers."""
    model = networks.build(PLAIN, 5)
    bare = {k: v for k, v in model.state_dict().items() if k not in ("mean", "std")}
    save_file(bare, "plain.safetensors")
    torch.save(bare, "bare.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in bare.items()}}, "nested.pth")
    results = []
    for file in ("plain.safetensors", "bare.pt", "nested.pth"):
        done = sparring("evaluate", file, *FLAGS, "--network=small_cnn:width=4")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        results.append((report["clean_accuracy"], report["threats"]))
    assert results[0] == results[1] == results[2]


BAD: dict[str, tuple[Any, list[str], int, str]] = {
    "no-network": (lambda p: save_file({"a": torch.zeros(1)}, p), [], 2, "say of what network: --network"),
    "page": (lambda p: Path(p).write_text("<!DOCTYPE html>"), ["--network=small_cnn"], 5, "is a web page"),
    "missing": (lambda p: None, ["--network=small_cnn"], 5, "cannot be read"),
    "other": (lambda p: save_file({"a": torch.zeros(1)}, p), ["--network=small_cnn"], 5, "does not fit small_cnn"),
    "cut": (lambda p: Path(p).write_bytes(b"\x09\0\0\0"), ["--network=small_cnn"], 5, "is damaged"),
    "shapes": (
        lambda p: save_file(networks.build(PLAIN).state_dict(), p),
        ["--network=small_cnn:width=5"],
        5,
        "does not fit small_cnn:width=5 with 10 classes",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named(kind: str, sparring: Command) -> None:
    make, flags, code, text = BAD[kind]
    make("x.safetensors")
    done = sparring("evaluate", "x.safetensors", *FLAGS, *flags)
    assert done.returncode == code, done.stderr
    assert text in done.stderr


class Surprise:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_nothing_is_unpickled(sparring: Command) -> None:
    torch.save({"state_dict": Surprise()}, "evil.pt")
    done = sparring("evaluate", "evil.pt", *FLAGS, "--network=small_cnn")
    assert done.returncode == 5
    assert "holds more than tensors and is not read" in done.stderr
    assert not Path("executed").exists()


def test_what_a_network_from_elsewhere_needs(sparring: Command) -> None:
    Path("mine.py").write_text(MODEL)
    done = sparring("evaluate", "mine.py:make", "--attacks=fgsm", "--examples=8")
    assert done.returncode == 2
    assert "add for example --threat linf:8/255" in done.stderr
    assert "expected a torch.nn.Module" in sparring("evaluate", "mine.py:wrong", *FLAGS).stderr
    assert "has no function 'other'" in sparring("evaluate", "mine.py:other", *FLAGS).stderr
    done = sparring("evaluate", "mine.py:make", *FLAGS, "--data.name=cifra")
    assert done.returncode in (2, 4)


@pytest.mark.soak
def test_export(sparring: Command) -> None:
    """Weights that load elsewhere; an entry for the zoo with every field, only from an evaluation with AutoAttack."""
    from tests.helpers import small_flags

    flags = [*small_flags(max_steps=4), "--team=local", "--no-report"]
    assert sparring("train", "at", *flags, "--name=a").returncode == 0
    plain = sparring("export", "runs/a", "--out=plain", "--json")
    assert plain.returncode == 0, plain.stderr
    done = sparring("evaluate", "plain/model.safetensors", "--network=small_cnn:width=4", *FLAGS)
    own = sparring("evaluate", "runs/a", *FLAGS)
    assert json.loads(done.stdout)["threats"] == json.loads(own.stdout)["threats"]
    early = sparring("export", "runs/a", "--to=robustbench")
    assert early.returncode == 2
    assert "has no evaluation of model with AutoAttack" in early.stderr
    done = sparring("evaluate", "runs/a", "--attacks=clean,pgd-2,autoattack", "--examples=8", "--threat=linf:0.02")
    assert done.returncode == 0, done.stderr
    done = sparring("export", "runs/a", "--to=robustbench", "--json")
    assert done.returncode == 0, done.stderr
    folder = Path(json.loads(done.stdout)["folder"])
    entry = json.loads((folder / "a_model.json").read_text())
    assert entry["eps"] == "0.02"
    assert entry["norm"] == "Linf"
    assert 0 <= float(entry["autoattack_acc"]) <= float(entry["clean_acc"]) <= 100
    assert all(v is not None for v in entry.values())
    import runpy

    zoo = runpy.run_path(str(folder / "zoo.py"))
    assert zoo["load"](folder)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert sparring("export", "runs/a", "--to=robustbench").returncode == 3
