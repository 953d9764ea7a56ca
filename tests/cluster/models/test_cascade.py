"""Two published networks as one model: made, evaluated through its decision, verified, and refused where it could not be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sparring as api
from sparring.agents import model_folder
from sparring.agents.cascade import Cascade
from sparring.agents.checkpoint import CheckpointError
from tests.conftest import Command

NETS = """
import torch
def _made(seed, hidden):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10))
def small():
    return _made(0, 8)
def large():
    return _made(1, 32)
def five():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Unflatten(1, (10,)))
"""


@pytest.fixture
def nets(sparring: Command) -> None:
    Path("nets.py").write_text(NETS)
    for name in ("small", "large"):
        done = sparring("publish", f"nets.py:{name}", f"--as={name}")
        assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("nets")
def test_published_evaluated_verified(sparring: Command) -> None:
    done = sparring("publish", "small", "--large=large", "--width=0.03", "--as=both", "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)["card"]
    assert card["decision"] == {"rule": "cascade", "width": 0.03}
    assert card["networks"] == [model_folder.card(Path(f"models/{n}/1"))["networks"][0] for n in ("small", "large")]
    assert card["evaluations"] == []
    done = sparring("evaluate", "both", "--attacks=clean,fgsm", "--threat=linf:0.1", "--examples=64", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert 0 < report["agents"]["both"]["cascade"]["asked"] < 1
    assert sparring("verify", Path(report["report"]).parent).returncode == 0
    assert model_folder.card(Path("models/both/1"))["evaluations"][0]["cascade"]["width"] == 0.03
    small, large, both = (api.load(name) for name in ("small", "large", "both"))
    assert isinstance(both, Cascade)
    x = torch.rand(32, 1, 8, 8)
    with torch.no_grad():
        asked = both.decide(x)[1]
        expected = torch.where(asked[:, None], large(x).log_softmax(1), small(x).log_softmax(1))
        assert torch.allclose(both(x), expected)
    done = sparring(
        "evaluate", "both", "--attacks=clean,fgsm", "--threat=linf:0.1", "--examples=64", "--workers=1", "--json"
    )
    assert json.loads(done.stdout)["robust_accuracy"] == report["robust_accuracy"]


@pytest.mark.usefixtures("nets")
def test_what_cannot_answer_in_each_others_place(sparring: Command) -> None:
    assert sparring("publish", "small", "--large=large", "--as=both").returncode == 0
    for flags, why in (
        (["small", "--large=large", "--width=1.5"], "--width 1.5: expected a number from 0 to 1"),
        (["small", "--width=0.5"], "--width 0.5 is of a cascade, and needs --large NET"),
        (["both", "--large=large"], "is a cascade already"),
        (["small", "--large=both"], "is a cascade already"),
    ):
        done = sparring("publish", *flags, "--as=x")
        assert done.returncode == 2
        assert why in done.stderr
    assert not Path("models/x").exists()


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"width": 2}, "no cascade of two members"),
        ({"width": None}, "no cascade of two members"),
        ({"members": 1}, "no cascade of two members"),
        ({"format": 1}, "does not go with its keys"),
        ({"width": 0.4}, "names another decision"),
    ],
)
def test_a_manifest_that_says_otherwise(change: dict[str, object], why: str) -> None:
    folder = api.publish("small", "both", large="large", width=0.3)
    path = folder / "MANIFEST.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(CheckpointError, match=why):
        model_folder.load(folder)
