"""Every method through the command line; averages, several norms and foreign teachers from training to evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.config.recipes import RECIPES, recipe
from sparring.cluster.models.trained import load_agent
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers import methods
from sparring.trainers.search import Choice, Uniform, parse
from tests.conftest import Command
from tests.helpers import CLONE, bytes_of, small, small_flags

LOCAL = [*small_flags(max_steps=2), "--team=local", "--no-report", "--json"]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    for name in ("at", "clean"):
        launch.train(small(name, team="local", max_steps=4), runs_dir=folder, name=name, how=Circumstances(quiet=True))
    return folder


def inits(method: str, teachers: Path) -> list[str]:
    config = recipe(method)
    roles = config.method.roles()
    frozen = [n for n in config.networks() if n not in roles or not roles[n].learns]
    run = {"clean_teacher": "clean"}
    return [f"--agents.{r.replace('_', '-')}.init={teachers / run.get(r, 'at')}" for r in frozen]


@pytest.mark.parametrize("method", methods.names())
def test_through_the_command_line(method: str, teachers: Path, sparring: Command) -> None:
    done = sparring("train", method, *LOCAL, *inits(method, teachers), "--name=a")
    assert done.returncode == 0, done.stderr
    products = recipe(method).method.deploy()
    assert set(products) <= set(json.loads(done.stdout)["agents"])
    result = sparring("evaluate", "runs/a", "--attacks=fgsm", "--examples=20", "--json")
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)["agents"]) == set(products)


@pytest.mark.parametrize("method", ["mtard", "adaad"])
def test_frozen_networks_need_weights(method: str, sparring: Command) -> None:
    done = sparring("train", method, *LOCAL)
    assert done.returncode == 2
    assert "does not learn and needs trained weights: --agents." in done.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize("method", methods.names())
def test_search_spaces_name_settings_whose_ends_are_allowed(method: str) -> None:
    config = recipe(method)
    assert config.method.SEARCH
    for path, space in config.method.SEARCH.items():
        ends = space.values if isinstance(space, Choice) else (space.low, space.high)
        for value in ends:
            assert config.replace({path: value}) is not None
        assert parse(str(space)) == space


def test_spaces_are_read_from_text() -> None:
    assert parse("loguniform(1/255, 8/255)") == Uniform(1 / 255, 8 / 255, log=True)
    assert parse("choice(mat, 3)") == Choice(("mat", 3.0))
    for text in ("normal(0, 1)", "uniform(1)", "uniform(2, 1)", "loguniform(0, 1)", "choice()"):
        with pytest.raises(ValueError, match=r"space|numbers|below|must be > 0|at least one"):
            parse(text)


def test_every_recipe_is_complete() -> None:
    for name in RECIPES:
        config = recipe(name)
        assert set(config.attacks) == set(config.method.norms()), name
    assert recipe("ard-digits").attack.bn == "train"
    union = recipe("mat_multi-cifar10-preact_resnet18").attacks
    assert {p: round(a.eps, 4) for p, a in union.items()} == {"linf": 0.0314, "l2": 0.5, "l1": 12}


@pytest.mark.soak
def test_union_of_norms_from_training_to_report(sparring: Command) -> None:
    """The best checkpoint is judged by the union, evaluate adds it, and the report page is made."""
    flags = [*small_flags(max_steps=4, checkpoint__every=2), "--team=local", "--json"]
    done = sparring("train", "mat_multi", *flags, "--name=a")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(Path("runs/a/checkpoints/step-000004/MANIFEST.json").read_text())
    assert set(manifest["best"]) == {"linf", "l2", "l1", "generalist"}
    report = json.loads(sparring("evaluate", "runs/a", "--attacks=pgd-2", "--json").stdout)
    result = report["agents"]["generalist"]
    assert set(result["threats"]) == {"linf:0.15", "l2:0.6", "l1:2"}
    assert result["robust_accuracy"] <= min(t["robust_accuracy"] for t in result["threats"].values())
    shown = sparring("evaluate", "runs/a", "--attacks=pgd-2").stdout
    assert "union" in shown
    page = Path("runs/a/report.html").read_text()
    assert "generalist" in page
    wrong = sparring("train", "mat_multi", *LOCAL, "--attacks.l2.norm=l1")
    assert wrong.returncode == 2
    assert "attacks.l2.norm = 'l1' is not allowed" in wrong.stderr


def test_averages_are_products(tmp_path: Path, sparring: Command) -> None:
    """SWA and EMA: best of their own, taken by default, the last weights by name; resumed to the same bytes."""
    options: dict[str, Any] = {"optim__swa": True, "optim__swa_start": 0, "optim__ema": 0.9, "batch_size": 256}
    config = small("at", team="local", max_steps=12, **options)  # six steps an epoch
    whole = launch.train(config, runs_dir=tmp_path / "runs", name="whole", how=Circumstances(quiet=True))
    best = json.loads((whole.path / "checkpoints" / "best.json").read_text())
    assert set(best) == {"model", "model.ema", "model.swa"}
    folder = RunFolder(whole.path)
    by_default, _ = load_agent(folder)
    swa, step = load_agent(folder, "model.swa")
    plain, _ = load_agent(folder, "model", checkpoint="last")
    assert step == best["model.swa"]["step"]
    pairs = zip(by_default.parameters(), swa.parameters(), plain.parameters(), strict=True)
    same = [((a == b).all().item(), (a == c).all().item()) for a, b, c in pairs]
    assert all(a for a, _ in same)
    assert not all(b for _, b in same)
    done = sparring("evaluate", "runs/whole", "--attacks=fgsm", "--examples=10", "--agent=model.ema", "--json")
    assert set(json.loads(done.stdout)["agents"]) == {"model.ema"}
    missing = sparring("evaluate", "runs/whole", "--agent=model.mean")
    assert "has no average 'mean'" in missing.stderr
    for name in ("MANIFEST.json", "COMMITTED"):  # the run ended at step 10 and goes on
        (whole.path / "checkpoints" / "step-000012" / name).rename(tmp_path / name)
    expected = json.loads((tmp_path / "MANIFEST.json").read_text())["files"]
    launch.resume(whole.path, how=Circumstances(quiet=True))
    assert bytes_of(whole.path)["manifest"]["files"] == expected


DATA = """
import numpy as np
def make():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.integers(0, 60, (90, 8, 8, 1)) + 60 * y[:, None, None, None]
    return x.astype(np.uint8), y, x.astype(np.uint8), y
"""


def test_mixacm_from_a_teacher_of_another_label_set(sparring: Command) -> None:
    """Three classes teach ten: refused with soft labels, trained without them; nothing of the transforms is shipped."""
    Path("three.py").write_text(DATA)
    flags = [*small_flags(max_steps=2), "--team=local", "--no-report"]
    teacher = sparring("train", "at", *flags, "--data.name=three.py:make", "--name=t")
    assert teacher.returncode == 0, teacher.stderr
    student = ["train", "mixacm", *flags, "--agents.teacher.init=runs/t", "--agents.student.network=small_cnn:width=6"]
    refused = sparring(*student)
    assert refused.returncode == 2
    assert "3 classes" in refused.stderr
    done = sparring(*student, "--method.kd-weight=0", "--name=s")
    assert done.returncode == 0, done.stderr
    saved = Path("runs/s/checkpoints/step-000002/agents/student")
    assert (saved / "helpers.safetensors").is_file()
    names = set(load_agent(RunFolder(Path("runs/s").resolve()))[0].state_dict())
    plain = set(load_agent(RunFolder(Path("runs/t").resolve()))[0].state_dict())
    assert names == plain
    own = f"--agents.student.network={CLONE / 'examples' / 'own_network.py'}:mlp"
    foreign = sparring(*student, "--method.kd-weight=0", own)
    assert foreign.returncode == 2
    assert "does not tell its stages" in foreign.stderr
