"""The same budgets for several methods: what a step costs, what fits, who is not beaten, the same table after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.config.recipes import recipe
from sparring.cluster.errors import Exists, UsageError
from sparring.cluster.frontier import cost, page, place, results, work
from sparring.cluster.frontier.settings import Frontier, Point, fitted, method_of, slug
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.conftest import Command
from tests.helpers import CLONE, PATIENCE, SMALL, started

TINY = ["--network=small_cnn:width=4", "--batch-size=64", "--checkpoint.attack-steps=2", "--examples=60"]


@pytest.mark.parametrize(
    ("method", "steps", "passes"),
    [
        ("clean", 7, 3),
        ("at", 7, 17),
        ("at", 10, 23),
        ("fgsm_rs", 7, 5),
        ("n_fgsm", 7, 5),
        ("free", 7, 3),
        ("trades", 7, 21),
    ],
)
def test_passes_of_a_step(method: str, steps: int, passes: float) -> None:
    """An attack's step is a pass there and one back to the images: 2; a step of the weights 3, that reaches the images on its way.

    TRADES asks for the clean logits once, then 7 attack steps, x and x' in train mode (its third pass repeats the first): 1 + 14 + 6.
    """
    counted = cost.counted(recipe(method).replace({"attack.steps": steps, "network": "small_cnn:width=24"}))
    assert counted == pytest.approx(passes, rel=0.03)


def test_passes_count_every_agent() -> None:
    """Two peers cost two networks; each is asked about two examples and trains on two."""
    counted = cost.counted(recipe("mat").replace({"network": "small_cnn:width=24"}))
    assert counted == pytest.approx(2 * (7 * 2 + 2 * 1 + 2 * 3), rel=0.03)


def test_seconds_of_a_run(tmp_path: Path) -> None:
    """In one process what its agents computed; the sum of what metrics.jsonl says, idle left out."""
    config = recipe("mat").replace(SMALL | {"team": "local", "max_steps": 6})
    run = launch.train(config, runs_dir=tmp_path, how=Circumstances(quiet=True)).path
    spent = cost.spent(RunFolder(run))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    busy = [sum(v for k, v in line["seconds"].items() if k != "idle") for line in lines]
    assert len(spent) == 6
    assert sum(spent) == pytest.approx(sum(busy))


def test_a_method_and_its_settings() -> None:
    common = {"attack.eps": 0.1}
    config = method_of("mat:alpha=1,temperature=4,optim.awp=0.005,preset=own_sample", common, "digits")
    assert (config.attack.eps, config.optim.awp) == (0.1, 0.005)
    method: Any = config.method
    assert (method.alpha, method.temperature, method.preset) == (1.0, 4.0, "own_sample")
    assert method_of("at", {}, "cifar10").network == "resnet18"
    assert method_of("trades_awp-digits", {}, "digits").optim.awp == 0.005
    assert slug("my/own.py:alpha=8/255") == "own.py-alpha-8-255"
    with pytest.raises(UsageError, match=r"'alpha' in 'mat:alpha' is not SETTING=VALUE; for example: mat:alpha=1"):
        method_of("mat:alpha", {}, "digits")
    with pytest.raises(ValueError, match="alpah"):
        method_of("mat:alpah=1", {}, "digits")


def test_a_schedule_is_stretched_to_what_fits() -> None:
    """Milestones and all that is counted in epochs keep their place in the run."""
    config = recipe("at-cifar10-resnet18").replace({"optim.warmup": 10.0})
    assert config.optim.milestones == (100, 150)
    made = fitted(config, Point("at", 60, 7, 4000), 100)
    assert (made.max_steps, made.epochs, made.seed) == (4000, 40, 7)
    assert made.optim.milestones == (20, 30)
    assert made.optim.warmup == pytest.approx(2.0)
    assert made.checkpoint.every == 400
    assert fitted(config, Point("at", 60, 7, 40), 100).checkpoint.every == 10


def point(method: str, budget: float, robust: float, *, seeds: tuple[float, ...] = (), n: int = 1000) -> dict[str, Any]:
    made = [{"products": {"model": {"clean": 0.9, "robust": r, "n": n}}, "alarms": []} for r in seeds or (robust,)]
    points = [Point(method, budget, i, 10) for i in range(len(made))]
    return results.row(points, made, {}, budget / 10)


def test_who_is_not_beaten_and_what_to_take() -> None:
    rows = [
        point("a", 10, 0.30),
        point("b", 10, 0.40),
        point("a", 20, 0.39),
        point("b", 20, 0.405),
        point("c", 20, 0.50),
    ]
    assert [(r["method"], r["budget"]) for r in results.not_beaten(rows)] == [("b", 10), ("c", 20)]
    said = results.advice(rows, "seconds")
    assert [(a["budget"], a["take"], a["close"]) for a in said] == [(10, "b", []), (20, "c", [])]
    assert results.sentence(said[0]) == "for 10 device-seconds: b (40.0 %)"
    noisy = [point("a", 10, 0.40), point("b", 10, 0.41), point("c", 10, 0.36, seeds=(0.30, 0.42))]
    assert results.advice(noisy, "passes")[0]["close"] == [
        "a",
        "c",
    ]  # its interval, and one of its seeds, reach the best
    assert results.row([Point("a", 1, 0, 3), Point("a", 1, 1, 3)], [None, None], {"a-1-seed1": "why"}, 0.3)["runs"][
        1
    ] == {
        "seed": 1,
        "run": "runs/a-1-seed1",
        "failed": "why",
    }


def test_the_page_of_methods_against_several_norms_that_failed_in_part() -> None:
    """Three norms in the title, a row without a number, a teacher."""
    rows = [point("max", 10, 0.3), results.row([Point("avg", 10, 0, 3)], [None], {"avg-10-seed0": "no <good>"}, 1.0)]
    found = {
        "data": "digits",
        "threats": ["linf:0.0313725", "l2:0.5", "l1:12"],
        "unit": "passes",
        "seeds": 1,
        "attacks": ["clean", "pgd-20"],
        "n": 1000,
        "rows": [{**r, "epochs": 1.5} for r in rows],
        "not_beaten": [{"method": "max", "budget": 10, "robust": 0.3}],
        "advice": results.advice(rows, "passes"),
        "teachers": [{"run": "teachers/at", "of": ["max"], "cost": 123.46}],
    }
    text = page.page("f", found)
    assert "Robust accuracy, union of linf:8/255, l2:0.5, l1:12" in text
    assert "no &lt;good&gt;" in text
    assert "123.5 passes" in text
    assert "attacked by pgd-20 on 1000 test images" in text


def frontier(**changes: Any) -> Frontier:
    methods = {m: recipe(m).replace(SMALL) for m in ("at", "fgsm_rs")}
    return Frontier(**{"methods": methods, "budgets": (10.0, 20.0), "seeds": 1, **changes})


def test_a_folder_may_grow_and_nothing_else(tmp_path: Path) -> None:
    folder = place.folder_of(frontier(), tmp_path, "f", resume=False)
    with pytest.raises(Exists, match="add --resume to go on with it"):
        place.folder_of(frontier(), tmp_path, "f", resume=False)
    for longer in ({"budgets": (10.0, 20.0, 40.0)}, {"seeds": 3}, {"methods": {"at": recipe("at").replace(SMALL)}}):
        assert place.folder_of(frontier(**longer), tmp_path, "f", resume=True) == folder
    asked = json.loads((folder / "asked.json").read_text())
    for values in asked["methods"].values():
        del values["data"]["transforms"]  # as before there were any
    (folder / "asked.json").write_text(json.dumps(asked))
    assert place.folder_of(frontier(), tmp_path, "f", resume=True) == folder
    with pytest.raises(UsageError, match=r"is another frontier \(unit: 'seconds' -> 'passes'|unit"):
        place.folder_of(frontier(unit="passes"), tmp_path, "f", resume=True)
    assert (
        place.folder_of(frontier(methods={"mat": recipe("mat").replace(SMALL)}), tmp_path, "f", resume=True) == folder
    )
    other = {"at": recipe("at").replace(SMALL | {"attack.eps": 0.2})}  # also when it was left out in between
    with pytest.raises(UsageError, match=r"attack\.eps"):
        place.folder_of(frontier(methods=other), tmp_path, "f", resume=True)
    with pytest.raises(UsageError, match="would share a folder"):
        frontier(methods={"mat:alpha=1": recipe("mat"), "mat-alpha-1": recipe("mat")})


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["at", "--budgets=many"], "--budgets 'many' is not allowed; expected numbers with commas"),
        (["at", "--budgets=-1"], "expected numbers above 0"),
        (
            ["mat", "at", "--method.alpha=1"],
            "--method.alpha belongs to one method; write it behind its name: mat:alpha=1",
        ),
        (
            ["at", "mat", "--agents.model.optim.lr=0.2"],
            "--agents.model.optim.lr belongs to one method; write it behind its name",
        ),
        (["at", "mat_multi"], "their robust accuracies would not compare"),
        (["att"], "Did you mean 'at'"),
        ([], "frontier needs a recipe or a method first: sparring frontier at mat fgsm_rs --budgets 20,80"),
    ],
)
def test_what_is_refused(args: list[str], said: str, sparring: Command) -> None:
    done = sparring("frontier", *args)
    assert done.returncode in (1, 2)
    assert said in re.sub(r"[│\s]+", " ", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_two_methods(sparring: Command, ray_session: str, tmp_path: Path) -> None:
    """From the command to the table and the page; a second call trains nothing, a longer one only what is new."""
    command = ["frontier", "at", "fgsm_rs", "--unit=passes", "--seeds=1", "--name=f", "--json", *TINY]
    done = sparring(*command, "--budgets=90")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    folder = tmp_path / "runs" / "f"
    assert [(r["method"], r["steps"]) for r in answer["rows"]] == [("at", 5), ("fgsm_rs", 18)]
    for r in answer["rows"]:
        run = RunFolder(folder / r["runs"][0]["run"])
        assert run.total_steps == r["steps"]
        report = json.loads((run.path / "evaluation" / work.EVALUATION / "report.json").read_text())
        assert r["robust"] == report["agents"]["model"]["robust_accuracy"]
        assert r["n"] == 60
    text = (folder / "frontier.html").read_text()
    for r in answer["rows"]:
        assert f'<a href="{r["runs"][0]["run"]}/">' in text
        assert (folder / r["runs"][0]["run"]).is_dir()
    assert "<script" not in text
    assert page.page("f", json.loads((folder / "frontier.json").read_text())) == text
    begun = {p: p.stat().st_mtime_ns for p in folder.rglob("metrics.jsonl")}
    again = sparring(*command, "--budgets=45,90", "--resume")
    assert again.returncode == 0, again.stderr
    assert {r["budget"] for r in json.loads(again.stdout)["rows"]} == {45, 90}
    assert {p: p.stat().st_mtime_ns for p in begun} == begun
    assert "2 runs to train and attack; 2 are done" in again.stderr


@pytest.mark.soak
def test_killed_and_resumed_it_gives_the_same_table(tmp_path: Path) -> None:
    """kill -9 of the command and of all that it started, in the middle of the runs."""
    command = [sys.executable, str(CLONE / "sparring.py"), "frontier", "at", "mat", "fgsm_rs", "n_fgsm"]
    command += ["--budgets=300,900", "--unit=passes", "--seeds=2", "--name=f", "--json", *TINY, "--checkpoint.every=5"]
    whole = subprocess.run(command, cwd=_made(tmp_path / "whole"), capture_output=True, text=True, check=True)
    there = _made(tmp_path / "killed")
    process = started(command, cwd=there, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while len(list(there.glob("runs/f/runs/*/result.json"))) < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    resumed = subprocess.run([*command, "--resume"], cwd=there, capture_output=True, text=True, check=True)
    one, other = (json.loads(r.stdout) for r in (whole, resumed))
    assert len(one["rows"]) == 8
    for key in ("rows", "not_beaten", "advice"):
        assert one[key] == other[key]
    assert "are done" in resumed.stderr


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
