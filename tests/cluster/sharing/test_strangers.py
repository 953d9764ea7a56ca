"""Code that came in the folder of somebody else's run or model: by no way does it run unasked."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from sparring.agents import networks
from sparring.agents.checkpoint import load_model
from sparring.cluster.config import run_config
from sparring.cluster.config.recipes import recipe
from sparring.cluster.errors import Untrusted
from sparring.cluster.models.initial import vetted
from sparring.cluster.runs.folder import RunFolder
from sparring.serve import versions
from sparring.trainers import datasets, trusting
from sparring.trainers.config import DataConfig
from tests.conftest import Command, Done
from tests.helpers import begin_anew, small_flags

NETWORK = """
from pathlib import Path

from torch import nn

Path("ran").touch()


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
METHOD = """
from dataclasses import dataclass
from pathlib import Path

from sparring.trainers.methods.at import At

Path("ran").touch()


@dataclass(frozen=True, kw_only=True)
class Mine(At):
    pass
"""
SMALL = [f for f in small_flags(max_steps=1) if not f.startswith("--network")]


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """From now on somebody else, in a new process, who has none of the files but those in runs/ and models/."""

    def become() -> None:
        begin_anew(monkeypatch)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "his"))
        for name in ("own.py", "mine.py", "ran", "evaluated"):
            path = Path(name)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    return become


def begun(sparring: Command, *flags: str, method: str = "at") -> None:
    """runs/a, of a network or a method of the user's own."""
    Path("own.py").write_text(NETWORK)
    Path("mine.py").write_text(METHOD)
    done = sparring("train", method, *SMALL, "--team=local", "--no-report", "--name=a", *flags)
    assert done.returncode == 0, done.stderr


def refused(done: Done) -> str:
    """The sha256 that the refusal names; nothing has run."""
    assert done.returncode == 2, done.stderr
    assert "is not known on this machine as code of yours and does not run unasked" in done.stderr
    assert not Path("ran").exists()
    return done.stderr.partition("--trust-code ")[2][:64]


def test_of_a_run(sparring: Command, another: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    begun(sparring, "--network=own.py:net")
    another()
    with pytest.raises(Untrusted):  # actors, which are sent the code, do not ask
        vetted(run_config.load(Path("runs/a/config.yaml")))
    *_, weights = sorted(Path("runs/a/checkpoints").rglob("model"))
    anew = ["train", "-c", "runs/a/config.yaml", "--name=b", "--no-report"]
    ways = [
        ["evaluate", "runs/a"],
        ["publish", "runs/a", "--as=m"],
        ["export", "runs/a", "--out=e"],
        anew,
        ["train", "at", *SMALL, "--team=local", "--name=b", "--agents.model.init=runs/a"],
        [
            "train",
            "at",
            *SMALL,
            "--team=local",
            "--name=b",
            f"--agents.model.init={weights}",
        ],
        ["tune", "-c", "runs/a/config.yaml", "--search.attack.eps=uniform(0.1, 0.2)", "--name=s"],
        ["frontier", "at:agents.model.init=runs/a", *SMALL, "--budgets=1", "--name=f"],
    ]
    for way in ways:
        sha = refused(sparring(*way))
        begin_anew(monkeypatch)
        refused(sparring(*way))  # nor by having been refused
        refused(sparring(*way, "--trust-code", "0" * 64))
    assert sparring("evaluate", "runs/a", "--attacks=clean", f"--trust-code={sha}").returncode == 0
    assert Path("ran").exists()


def test_a_method(sparring: Command, another: Callable[[], None]) -> None:
    """It would run as soon as the settings are read."""
    begun(sparring, method="mine.py")
    another()
    for way in (
        ["evaluate", "runs/a"],
        ["report", "runs/a"],
        ["resume", "runs/a"],
        ["fsck", "runs/a"],
        ["runs"],
        ["compare", "a", "a"],
    ):
        done = sparring(*way)
        assert not Path("ran").exists(), way
        if way[0] in ("evaluate", "report", "resume"):
            sha = refused(done)
    assert sparring("report", "runs/a", "--trust-code", sha).returncode == 0
    assert sparring("resume", "runs/a", f"--trust_code={sha}").returncode == 0


def test_trusted_for_one_command_or_made_ones_own(
    sparring: Command, another: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(sparring, "--network=own.py:net")
    another()
    sha = refused(sparring("evaluate", "runs/a"))
    assert sparring("evaluate", "runs/a", "--attacks=clean", "--trust-code", sha).returncode == 0
    begin_anew(monkeypatch)
    Path("ran").unlink()
    refused(sparring("evaluate", "runs/a", "--attacks=fgsm"))
    assert sparring("resume", "runs/a", "--trust-code", sha).returncode == 0
    begin_anew(monkeypatch)
    assert sparring("evaluate", "runs/a", "--attacks=fgsm").returncode == 0


def test_the_user_is_not_asked_for_his_own(sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(sparring, "--network=own.py:net")
    Path("own.py").unlink()
    begin_anew(monkeypatch)
    shutil.move("runs/a", "runs/b")
    for way in (["evaluate", "runs/b", "--attacks=clean"], ["publish", "runs/b", "--as=m"], ["resume", "runs/b"]):
        begin_anew(monkeypatch)
        done = sparring(*way)
        assert done.returncode == 0, done.stderr
    begin_anew(monkeypatch)
    assert versions.load(Path("models/m/1"), torch.device("cpu")).card["name"] == "m"


def test_what_other_machines_carry_out_is_the_users_here_too(sparring: Command) -> None:
    """A frontier's runs are made by processes of the cluster, and looked at from here."""
    Path("own.py").write_text(NETWORK)
    config = recipe("at").replace({"network": "own.py:net"}).absolute()
    assert not any(map(trusting.is_own, config.codes))
    assert vetted(config) == config.codes
    assert all(map(trusting.is_own, config.codes))


@pytest.mark.parametrize("flag", ["--network", "--agents.model.network"])
def test_nor_where_he_names_it_again(flag: str, sparring: Command, another: Callable[[], None]) -> None:
    """As the entry point of a job does on a machine that knows nothing yet."""
    begun(sparring, f"{flag}=own.py:net")
    own = Path("own.py").read_text()
    another()
    Path("own.py").write_text(own)
    again = ["train", "at", *SMALL, "--team=local", "--no-report", "--name=a", f"{flag}=own.py:net"]
    done = sparring(*again, "--resume-if-exists")
    assert done.returncode == 0, done.stderr


def test_a_process_that_was_sent_the_code_does_not_ask(sparring: Command, another: Callable[[], None]) -> None:
    """As an actor or a trial on another machine, where nothing is noted."""
    begun(sparring, "--network=own.py:net")
    sent = pickle.dumps(RunFolder(Path("runs/a")).config)
    another()
    pickle.loads(sent)
    *_, weights = sorted(Path("runs/a/checkpoints").rglob("model"))
    assert RunFolder(Path("runs/a")).config.codes
    load_model(weights)
    assert Path("ran").exists()


def _point_to(place: Path, key: str) -> None:
    """A file of the folder names code by a path, as the folders of version 0.1 do."""
    values = yaml.safe_load(place.read_text())
    level = values
    *parents, last = key.split(".")
    for parent in parents:
        level = level[parent]
    level[last] = "theirs/own.py:net"
    place.write_text(json.dumps(values) if place.suffix == ".json" else yaml.safe_dump(values))


@pytest.mark.parametrize("inside", ["config.yaml", "state.json"])
def test_by_the_path_of_a_file_beside_a_run(
    inside: str, sparring: Command, another: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(sparring, "--network=own.py:net")
    another()
    Path("theirs").mkdir()
    Path("theirs/own.py").write_text(NETWORK)
    *_, state = sorted(Path("runs/a/checkpoints").rglob("model/state.json"))
    if inside == "config.yaml":
        _point_to(Path("runs/a/config.yaml"), "network")
        refused(sparring("train", "-c", "runs/a/config.yaml", "--name=b", "--no-report"))
        begin_anew(monkeypatch)
        shutil.rmtree("runs/a/checkpoints")
        network = networks.configure(RunFolder(Path("runs/a")).config.network, datasets.load(DataConfig()))
        with pytest.raises(Untrusted):
            networks.build(network, 0)
    else:
        _point_to(state, "network.spec")
        with pytest.raises(Untrusted):
            load_model(state.parent)
    assert not Path("ran").exists()


def test_a_model_copied_by_hand(sparring: Command, another: Callable[[], None]) -> None:
    begun(sparring, "--network=own.py:net")
    assert sparring("publish", "runs/a", "--as=m").returncode == 0
    another()
    for way in (
        ["evaluate", "m"],
        ["export", "m", "--out=e"],
        ["publish", "m", "--as=n"],
        ["serve", "x=runs/a", "--host-by=local"],
    ):
        sha = refused(sparring(*way))
    with pytest.raises(ValueError, match="is not known on this machine as yours") as error:
        versions.load(Path("models/m/1"), torch.device("cpu"))
    assert f"--trust-code {sha}" in str(error.value)
    told = sparring("serve", "m=models/m", "--trust-code", sha)
    assert told.returncode == 2
    assert "serve never runs code of somebody else's" in told.stderr
    assert not Path("ran").exists()
    assert sparring("publish", "m", "--as=mine", "--trust-code", sha).returncode == 0
    assert versions.load(Path("models/mine/1"), torch.device("cpu")).card["name"] == "mine"


def test_a_model_whose_card_names_a_file_for_its_images(sparring: Command, another: Callable[[], None]) -> None:
    begun(sparring, "--network=small_cnn:width=2")
    assert sparring("publish", "runs/a", "--as=m").returncode == 0
    another()
    Path("theirs").mkdir()
    Path("theirs/own.py").write_text(NETWORK)
    _point_to(Path("models/m/1/card.json"), "data.name")
    refused(sparring("evaluate", "m", "--attacks=clean"))


@pytest.mark.parametrize("named", ["by what it keeps", "by a path"])
def test_an_evaluation_of_somebody_elses(named: str, sparring: Command, another: Callable[[], None]) -> None:
    Path("own.py").write_text(NETWORK)
    assert sparring("evaluate", "own.py:net", "--threat=linf:0.1", "--examples=16").returncode == 0
    (made,) = Path("evaluated").iterdir()
    shutil.move(made, "theirs")
    another()
    (report,) = Path("theirs/evaluation").iterdir()
    if named == "by a path":
        Path("theirs/own.py").write_text(NETWORK)
        _point_to(Path("theirs/model.json"), "spec")
    done = sparring("verify", report)
    assert not Path("ran").exists(), done
    refused(done)


def test_replicas_run_what_the_user_of_serve_knows(
    sparring: Command, another: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparring.cluster.serving import models
    from sparring.serve.models import Models
    from sparring.serve.settings import Settings

    begun(sparring, "--network=own.py:net")
    assert sparring("publish", "runs/a", "--as=m").returncode == 0
    begin_anew(monkeypatch)
    settings = models.settings([], None, demo=False, token_file=None)
    another()  # the machine of a replica
    served = Models(Settings.model_validate(settings))
    served.poll()
    assert list(served.described["m"]["versions"]) == [1]
    another()
    served = Models(Settings.model_validate({**settings, "own_code": []}))
    served.poll()
    assert "not known on this machine as yours" in served.described["m"]["refused"][1]


def test_a_search_that_names_a_file(sparring: Command, another: Callable[[], None]) -> None:
    """Its settings are compared with those of the search that is to go on."""
    begun(sparring, "--network=small_cnn:width=2")
    another()
    Path("theirs").mkdir()
    Path("theirs/own.py").write_text(METHOD)
    values = yaml.safe_load(Path("runs/a/config.yaml").read_text())
    values["method"]["name"] = "theirs/own.py"
    Path("runs/s").mkdir()
    Path("runs/s/search.json").write_text(json.dumps({"config": values}))
    refused(sparring("tune", "at", *SMALL, "--search.attack.eps=uniform(0.1, 0.2)", "--name=s", "--resume"))


def test_a_mirror_that_names_a_file(sparring: Command, another: Callable[[], None]) -> None:
    """What a mirror holds is compared with the run, and comparing reads the settings of a method."""
    mirror = Path("mirror").resolve()
    again = ["--network=small_cnn:width=2", f"--mirror=file://{mirror}"]
    begun(sparring, *again)
    another()
    Path("theirs").mkdir()
    Path("theirs/own.py").write_text(METHOD)
    config = mirror / "a" / "config.yaml"
    values = yaml.safe_load(config.read_text())
    values["method"]["name"] = "theirs/own.py"
    config.write_text(yaml.safe_dump(values))
    refused(sparring("train", "at", *SMALL, "--team=local", "--no-report", "--name=a", *again, "--resume-if-exists"))
