"""What an earlier version has written: every later one lists, checks, continues, evaluates, publishes and serves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.agents import model_folder
from sparring.serve.answers import Question, answer
from sparring.serve.models import Models
from sparring.serve.settings import Settings
from tests.conftest import Command
from tests.helpers import CLONE

VERSIONS = sorted(p.name for p in (CLONE / "tests" / "written_by").iterdir())
FLAGS = {
    "network": "small_cnn:width=3",
    "batch-size": 32,
    "attack.steps": 2,
    "checkpoint.attack-steps": 2,
    "checkpoint.keep": 1,
    "checkpoint.every": 10,
    "data.validation": 0.05,
    "max-steps": 20,
    "team": "local",
}


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, tmp_path: Path, sparring: Command) -> Path:
    """The folder of a version's user, in which the commands stand."""
    return Path(shutil.copytree(CLONE / "tests" / "written_by" / request.param, tmp_path, dirs_exist_ok=True))


def test_a_run_is_listed_checked_and_continued(old: Path, sparring: Command) -> None:
    listed = {r["run"]: r for r in json.loads(sparring("runs", "--json").stdout)["runs"]}
    assert listed["runs/run"]["step"] == 24
    assert sparring("fsck", "runs/run").returncode == 0
    chain = sparring("verify", "runs/run")
    assert chain.returncode == 0, chain.stdout
    done = sparring("resume", "runs/run", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["agents"]) == {"peer0", "peer1"}
    last = json.loads((old / "runs" / "run" / "checkpoints" / "last.json").read_text())
    assert {entry["step"] for entry in last.values()} == {30}


def test_an_evaluation_is_verified_and_stands_on_the_next_card(old: Path, sparring: Command) -> None:
    done = sparring("verify", "runs/run/evaluation/e", "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["witnesses"] > 10
    made = sparring("publish", "runs/run", "--agent=peer0", "--as=again", "--checkpoint=last", "--json")
    assert json.loads(made.stdout)["card"]["evaluations"][0]["n"] == 48
    assert sparring("evaluate", "runs/run", "--attacks=clean", "--examples=10", "--quiet").returncode == 0


def test_a_search_goes_on(old: Path, sparring: Command, ray_session: str) -> None:
    flags = [f"--{name}={value}" for name, value in FLAGS.items()]
    space = "--search.method.alpha=uniform(0.1, 0.5)"
    before = json.loads((old / "runs" / "search" / "trials" / "001" / "params.json").read_text())
    done = sparring(
        *("tune", "mat", *flags, space, "--trials=2", "--scheduler=fifo"),
        *("--name=search", "--resume", "--quiet", "--json"),
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["best"]["trial"] == "001"
    assert answer["best"]["params"] == before
    assert [t["status"] for t in answer["trials"]] == ["finished", "finished"]


def test_a_published_model_answers(old: Path) -> None:
    version = old / "models" / "small" / "1"
    assert model_folder.problems(version) == []
    served = Models(Settings(models_dir=str(old / "models")))
    served.poll()
    x = np.linspace(0, 1, 2 * 64, dtype=np.float32).reshape(2, 1, 8, 8)
    (found,) = answer([Question("small", *served.get("small", None), x)])
    assert isinstance(found, dict)
    with torch.inference_mode():
        logits = model_folder.load(version)(torch.from_numpy(x))
    assert np.array_equal(found["logits"], logits.numpy())
