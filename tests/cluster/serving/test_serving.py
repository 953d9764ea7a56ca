"""``sparring serve`` before it starts anything: what it refuses, and what it writes."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path

import pytest
import yaml

from sparring.agents import model_folder
from sparring.cluster.errors import NoResources
from sparring.cluster.serving import models as served
from sparring.cluster.serving import on_ray
from tests.conftest import Command
from tests.helpers import CLONE, small_flags


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CLONE / "serve" / "demo", tmp_path / "models"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["robust"], "'robust' is not NAME=NET; for example: sparring serve robust=models/robust"),
        (["Robust=models/digits-robust"], "model name 'Robust' is not allowed"),
        (["a=models/none"], "models/none is not a run, model or file of weights"),
        (["--models-dir=none"], "no published model in none; publish one (sparring publish RUN --as NAME)"),
        (
            ["--host=0.0.0.0"],
            "--host 0.0.0.0 can be reached by others and needs a token: (umask 077; openssl rand -hex 32",
        ),
        (["--token-file=none"], "none does not exist; for example: (umask 077; openssl"),
        (["--predictors=1000"], "1000 predictors need 1000.5 CPU"),
        (["--predictor=2"], "--predictors"),
        (["--timeout=-1"], "--timeout -1.0: input should be greater than 0"),
        (["--batch=0"], "--batch 0: input should be greater than or equal to 1"),
        (["--predictors=0"], "predictors = 0 needs max_predictors"),
        (["--threads=0"], "--threads 0: input should be greater than or equal to 1"),
        (["--gpus=-1"], "--gpus -1.0: input should be greater than or equal to 0"),
        (["--port=70000"], "--port 70000: expected 1 to 65535"),
        (["--port=0"], "--port 0: expected 1 to 65535"),
        (
            ["--host-by=local", "--predictors=2"],
            "--host-by local is one process, and several predictors need a cluster",
        ),
        (
            ["--host-by=local", "--address=10.0.0.1:6379"],
            "--host-by local is one process, and --address needs a cluster",
        ),
        (["--predictors=2", "--max-predictors=1"], "max_predictors = 1 is below predictors = 2"),
    ],
)
def test_what_is_refused(flags: list[str], words: str, models: Path, sparring: Command, ray_session: str) -> None:
    done = sparring("serve", *flags)
    assert done.returncode in (2, 6)
    assert words in re.sub(r"[│\s]+", " ", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_a_network_that_is_not_published(tmp_path: Path, sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it is copied into the cache, once for what it is; a cluster would not see that."""
    assert sparring("train", "at", *small_flags(max_steps=2), "--team=local", "--name=r", "--no-report").returncode == 0
    done = sparring("serve", "x=r", "--yaml=serve.yaml")
    assert done.returncode == 2
    assert "r is not published; a cluster serves what every node sees: sparring publish r --as x" in done.stderr
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    asked = {"demo": True, "token_file": None}
    made = served.settings(["x=r@model"], None, **asked)  # type: ignore[arg-type]
    version = Path(made["models"]["x"])
    assert version.is_relative_to(tmp_path / "home")
    assert model_folder.problems(version) == []
    assert served.settings(["x=r"], None, **asked)["models"]["x"] == str(version)  # type: ignore[arg-type]
    assert made["models"]["digits-plain"].endswith("serve/demo/digits-plain")  # the page compares with it


def test_a_taken_port(models: Path, sparring: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = sparring("serve", f"--port={port}")
    assert done.returncode == 2
    assert (
        f"cannot listen on 127.0.0.1:{port} (Address already in use); choose another: --port {port + 1}" in done.stderr
    )


def test_a_token_in_the_environment_does_not_travel(
    models: Path, sparring: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other nodes would not have is not enough for them."""
    monkeypatch.setenv("SPARRING_TOKEN", "secret")
    done = sparring("serve", "--host=0.0.0.0", "--yaml=serve.yaml")
    assert done.returncode == 2
    assert "needs a token" in done.stderr
    assert not Path("serve.yaml").exists()


def test_what_it_writes_for_serve_deploy(models: Path, sparring: Command) -> None:
    done = sparring("serve", "robust=models/digits-robust", "--threads=2", "--yaml=serve.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"config": "serve.yaml"}
    [application] = yaml.safe_load(Path("serve.yaml").read_text())["applications"]
    assert application["import_path"] == "sparring.serve.app:app"
    assert application["args"]["models"] == {"robust": str(models / "digits-robust")}
    assert application["args"]["threads"] == 2


def test_a_folder_whose_name_no_service_takes_is_said(models: Path) -> None:
    shutil.copytree(models / "digits-plain", models / "MyModel")
    said: list[str] = []
    found = served.names({"models_dir": str(models)}, say=said.append)
    assert found == ("digits-plain", "digits-robust")
    [line] = said
    assert line.startswith(f"{models}/MyModel is not served: a model's name has the form [a-z0-9]")


def test_help_is_quick_and_names_its_flags(sparring: Command) -> None:
    done = sparring("serve", "--help")
    assert done.returncode == 0
    for flag in ("--demo", "--token-file", "--max-predictors", "--yaml", "--host"):
        assert flag in done.stdout


def test_from_none_one_must_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    on_ray._check_resources({"predictors": 0, "threads": 4, "gpus": 0})
    with pytest.raises(NoResources, match="1 predictors need 1 GPU, there are 0"):
        on_ray._check_resources({"predictors": 0, "threads": 4, "gpus": 1})
