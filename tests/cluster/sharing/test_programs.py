"""Networks as programs: the same answers, the same bytes, and sentences where it cannot be done."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring.agents import model_folder
from sparring.agents.checkpoint import sha256
from sparring.agents.ensemble import Ensemble
from sparring.cluster.errors import SparringError, UsageError
from sparring.cluster.sharing import programs
from sparring.cluster.sharing.checked import checked
from sparring.trainers import datasets
from sparring.trainers.config import DataConfig, Threat
from tests.conftest import Command
from tests.helpers import CLONE, PATIENCE
from tests.serve.made import network, pixels

ROBUST = CLONE / "serve" / "demo" / "digits-robust"
SHAPE, LINF = (1, 8, 8), Threat("linf", 0.3)


def images(count: int) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(pixels(count))
    return x, torch.arange(count) % 10


@pytest.mark.parametrize("count", [1, 2, 7])
def test_torch_export_answers_to_the_bit(count: int) -> None:
    """Of any number of images, of one network and of several as one."""
    for model in (network(), Ensemble([network(), network(index=1)]).eval()):
        runs = programs.runner("torchexport", programs.program("torchexport", model, SHAPE))
        x, _ = images(count)
        with torch.no_grad():
            assert np.array_equal(runs(x.numpy()), model(x).numpy())


def test_nothing_of_where_it_was_traced_is_in_the_file() -> None:
    content = programs.program("torchexport", network(), SHAPE)
    assert content == programs.program("torchexport", network(), SHAPE)
    for trace in (b"small_cnn.py", str(CLONE).encode()):
        assert trace not in content


class Chooses(nn.Module):
    """Asks Python about its input, which no graph of operations can do."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] if bool(x.sum() > 0) else -x.flatten(1)[:, :10]


def test_what_cannot_be_followed() -> None:
    with pytest.raises(UsageError, match=r"torch.export cannot follow this network: .* --to safetensors"):
        programs.program("torchexport", Chooses(), SHAPE)


def test_a_program_that_answers_otherwise_is_not_handed_out() -> None:
    model, (x, y) = network(), images(16)
    with torch.no_grad():
        right = checked(model, lambda images: model(torch.from_numpy(images)).numpy(), x, y, threat=LINF, exact=True)
    assert right.largest_difference == 0
    assert right.same_class == 1

    def wrong(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(images))) + 0.01

    with pytest.raises(SparringError, match=r"answers otherwise than the network: logits up to 0\.01 apart"):
        checked(model, wrong, x, y, threat=LINF, exact=True)
    assert checked(model, wrong, x, y, threat=LINF, exact=False).largest_difference == pytest.approx(0.01, abs=1e-4)


def test_adversarial_examples_are_counted_on_both() -> None:
    model = model_folder.load(ROBUST / "1")
    test = datasets.load(DataConfig(name="digits")).test
    split = test[torch.arange(64)]
    x, y = split.pixels(), split.all_labels()

    def first_class(images: np.ndarray) -> np.ndarray:
        return np.tile(np.eye(10, dtype=np.float32)[0], (len(images), 1))

    seen = checked(model, first_class, x, y, threat=Threat("linf", 0.25), exact=False)
    assert seen.clean_accuracy > 0.9
    assert seen.clean_accuracy_exported == float((y == 0).float().mean())
    assert 0 < seen.broken < 64
    assert seen.also_broken <= seen.broken


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, sparring: Command) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    done = sparring("export", str(ROBUST), "--to=onnx")
    assert done.returncode == 2
    assert "--to onnx needs onnx; run: pip install 'sparring[onnx]'" in done.stderr
    assert not Path("export").exists()


def test_a_cascade_has_no_program(sparring: Command) -> None:
    assert sparring("publish", str(ROBUST), "--as=both", f"--large={ROBUST}").returncode == 0
    done = sparring("export", "both", "--to=torchexport")
    assert done.returncode == 2
    assert "is a cascade, whose two ways no program of this kind holds" in done.stderr


def test_as_a_command(sparring: Command) -> None:
    done = sparring("export", str(ROBUST), "--to=torchexport", "--out=there", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["files"] == ["check.json", "model.pt2", "network.json"]
    assert told["sha256"] == sha256(Path("there/model.pt2"))
    assert told["check"] == json.loads(Path("there/check.json").read_text())
    assert told["check"]["images"] == 256
    assert told["check"]["largest_difference"] < 1e-4
    assert told["check"]["broken"] == told["check"]["also_broken"] > 0
    assert told["check"]["attack"] == "pgd-20 linf:0.15"
    again = sparring("export", str(ROBUST), "--to=torchexport", "--out=there")
    assert again.returncode == 3
    assert "there exists and is never overwritten" in again.stderr


@pytest.mark.soak
@pytest.mark.parametrize("to", ["onnx", "onnx-int8"])
def test_onnxruntime_answers_like_the_network(to: str, sparring: Command) -> None:
    pytest.importorskip("onnxruntime")
    done = sparring("export", str(ROBUST), f"--to={to}", "--out=there", "--json")
    assert done.returncode == 0, done.stderr
    check = json.loads(done.stdout)["check"]
    close, same = (1e-4, 1.0) if to == "onnx" else (1.0, 0.97)
    assert check["largest_difference"] < close
    assert check["same_class"] >= same
    assert check["also_broken"] >= 0.8 * check["broken"] > 0
    model = model_folder.load(ROBUST / "1")
    runs = programs.runner(to, Path(f"there/{programs.FILES[to]}").read_bytes())  # type: ignore[arg-type]
    for count in (1, 3, 300):
        x = pixels(count)
        with torch.no_grad():
            assert np.abs(runs(x) - model(torch.from_numpy(x)).numpy()).max() < 4 * close
    image = str(CLONE / "serve" / "page" / "static" / "samples" / "4.png")
    example = [sys.executable, str(CLONE / "examples" / "deploy_onnx.py"), "there", image]
    shown = subprocess.run(example, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    assert shown.split()[0] == "4"


@pytest.mark.soak
def test_the_same_bytes_from_another_folder(tmp_path: Path) -> None:
    """torch's exporter writes the path of the source code into every node."""
    pytest.importorskip("onnxruntime")
    other = tmp_path / "a checkout elsewhere"
    for part in ("agents", "cluster", "trainers", "serve"):
        shutil.copytree(CLONE / part, other / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CLONE / "sparring.py", other)
    made: dict[str, set[str]] = {to: set() for to in programs.FILES}
    for home in (CLONE, other):
        for to, found in made.items():
            out = tmp_path / f"{home.name}-{to}"
            command = [sys.executable, str(home / "sparring.py"), "export", str(ROBUST), "--to", to, "--out", str(out)]
            env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE, env=env)
            found.add(sha256(out / programs.FILES[to]))
    assert {to: len(found) for to, found in made.items()} == dict.fromkeys(programs.FILES, 1)
