"""The installed name: the Python API, and that our folders win over other packages of the same names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch

import sparring
from tests.helpers import CLONE, SMALL
from tests.installed import environment, plant, walk


def test_python_api_end_to_end(tmp_path: Path) -> None:
    config = sparring.recipe("mat-digits", **SMALL, team="local", epochs=2, **{"attack.eps": "0.1"})
    run = sparring.train(config, runs_dir=tmp_path, quiet=True)
    assert run.path.name == "mat-digits-1"
    assert run.best.keys() == run.agents.keys() == {"peer0", "peer1"}
    assert len(run.metrics) == 2 * 20
    model = sparring.load(run.path, agent="peer0")
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6)
    model.train()
    state = torch.get_rng_state()
    adv = sparring.attack(model, x, y, norm="l2", eps=0.3, steps=3, restarts=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert (adv - x).flatten(1).norm(dim=1).max() <= 0.3 + 1e-5
    assert torch.equal(adv, sparring.attack(model, x, y, norm="l2", eps=0.3, steps=3, restarts=2))
    result = sparring.evaluate(model, "digits", attacks=["clean", "pgd-2"], threats=["linf:0.1"], examples=40)
    assert result.n == 40
    assert result.robust_accuracy <= result.clean_accuracy
    with pytest.raises(ValueError, match=r"pixels must be in \[0, 1\]"):
        sparring.attack(model, x * 255, y, eps=0.1)
    with pytest.raises(ValueError, match="remove the softmax"):
        sparring.attack(torch.nn.Sequential(model, torch.nn.Softmax(1)), x, y, eps=0.1)
    assert sparring.resume(run.path, quiet=True).best == run.best


def test_the_api_is_what_it_names() -> None:
    """A function for each command that a notebook needs, and the errors that they raise."""
    assert {"pretrain", "publish", "report", "verify"} <= set(sparring.__all__)
    for name in set(sparring.__all__) - {"errors"}:
        assert callable(getattr(sparring, name)), name
    with pytest.raises(sparring.errors.UsageError):
        sparring.load("nothing-of-this-name")


@pytest.mark.soak
@pytest.mark.parametrize("whole", [False, True], ids=["train", "tune-and-serve-too"])
def test_other_packages_of_our_names_do_no_harm(whole: bool, tmp_path: Path) -> None:
    """Others' ``agents``, ``trainers``, ``cluster``, ``serve`` in the user's folder and in site-packages: all take ours."""
    python, user = environment(tmp_path / "env"), tmp_path / "user"
    user.mkdir()
    plant(python, user)
    said = walk(python, user, whole=whole)
    assert ("served True ['digits-plain', 'digits-robust']" in said) == whole
    assert f"home {CLONE}" in said


def test_nothing_of_ours_has_a_bare_name(tmp_path: Path) -> None:
    python = environment(tmp_path / "env")
    script = (
        "import importlib.util as u; print([n for n in ('agents', 'trainers', 'cluster', 'serve') if u.find_spec(n)])"
    )
    done = subprocess.run(
        [python, "-c", f"import sparring; {script}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_copied_away_from_its_clone_says_so(tmp_path: Path) -> None:
    shutil.copy(CLONE / "sparring.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import sparring"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "it was copied away from them" in done.stderr
    assert "pip install -e ." in done.stderr


def test_what_ray_would_ship_is_small(tmp_path: Path) -> None:
    """The working directory as Ray packs it, from a clone that also holds a large runs/."""
    from ray._private.runtime_env.packaging import create_package

    clone = tmp_path / "clone"
    tracked = subprocess.run(
        ["git", "-C", str(CLONE), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=False
    )
    if tracked.returncode != 0:
        pytest.skip("not a git checkout: cannot tell the project's files from others")
    for name in tracked.stdout.splitlines():
        if (CLONE / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CLONE / name, clone / name)
    (clone / "runs").mkdir()
    with (clone / "runs" / "large.bin").open("wb") as f:
        f.truncate(600 * 2**20)
    package = tmp_path / "package.zip"
    create_package(str(clone), package, include_gitignore=True, excludes=[])
    assert 20_000 < package.stat().st_size < 5 * 2**20


def test_ray_is_found_or_started_on_purpose_only(ray_session: str) -> None:
    """A Ray that the caller started is used and left running."""
    from sparring.cluster.machines import session

    with session.connected() as runtime_env:
        assert runtime_env == {}
        assert ray.get_runtime_context().gcs_address == ray_session
    assert ray.is_initialized()
    assert "RAY_ADDRESS" not in os.environ


@pytest.mark.parametrize("module", ["sparring", "sparring.cluster"])
def test_as_a_module(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], cwd=CLONE, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"sparring {sparring.__version__}\n"
