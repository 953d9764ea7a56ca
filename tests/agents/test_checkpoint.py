"""One agent and its folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from sparring.agents import checkpoint, networks
from sparring.agents.checkpoint import CheckpointError
from sparring.agents.networks import NetworkConfig
from sparring.agents.state import AgentState

NETWORK = NetworkConfig("small_cnn:width=2", 1, 8, 8, 10, (0.3,), (0.4,))


def saved(folder: Path) -> dict[str, str]:
    model = networks.build(NETWORK, 3)
    state = AgentState(7, model.state_dict(), {"fc.weight/momentum_buffer": torch.ones(10, 8)}, {"tau": [1.5, None]})
    return checkpoint.save(state, NETWORK, folder)


def test_round_trip(tmp_path: Path) -> None:
    hashes = saved(tmp_path)
    state = checkpoint.load(tmp_path)
    assert (state.t, state.method) == (7, {"tau": [1.5, None]})
    model = networks.build(NETWORK, 3)
    assert all(torch.equal(state.model[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state.optim["fc.weight/momentum_buffer"], torch.ones(10, 8))
    assert set(hashes) == {"model.safetensors", "optim.safetensors", "state.json"}
    for name, sha in hashes.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == sha
    assert saved(tmp_path / "again") == hashes  # equal states are equal bytes
    x = torch.rand(2, 1, 8, 8)
    loaded = checkpoint.load_model(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(x), model.eval()(x))


@pytest.mark.parametrize("name", ["model.safetensors", "optim.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damage_names_the_file(tmp_path: Path, name: str, damage: str) -> None:
    saved(tmp_path)
    path = tmp_path / name
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=rf"{name} is (missing|damaged|not JSON)"):
        checkpoint.load(tmp_path)


def test_another_format_and_other_weights_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    facts = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(
        json.dumps(facts | {"network": facts["network"] | {"spec": "small_cnn:width=3"}})
    )
    with pytest.raises(CheckpointError, match="does not fit the network small_cnn:width=3"):
        checkpoint.load_model(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(CheckpointError, match="has format 99; this version reads format 1"):
        checkpoint.load(tmp_path)
