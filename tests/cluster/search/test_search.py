"""Searching settings: trials are ordinary runs, the best one can be repeated, an interruption loses and repeats nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from sparring.cluster.config import run_config
from sparring.cluster.errors import Exists, Interrupted, NoResources, TrainingStopped, UsageError
from sparring.cluster.runs.folder import SUBMITTED, RunFolder
from sparring.cluster.search import objective, samplers, schedulers, search, trial, tuning
from sparring.cluster.search import report as search_report
from sparring.cluster.search.objective import reports
from sparring.cluster.search.results import result, results_of
from sparring.cluster.search.settings import Search, trials_of
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.search import Choice, Integers, Space, Uniform, parse
from tests.conftest import Command
from tests.helpers import CLONE, PATIENCE, bytes_of, small, started
from tests.hosts import wait_for

SPACES: dict[str, Space] = {"method.temperature": Uniform(1, 10), "optim.lr": Uniform(0.01, 0.2, log=True)}
OPTIONS: dict[str, Any] = {"team": "local", "checkpoint__attack_steps": 1, "attack__steps": 1}


def searched(**options: Any) -> Search:
    return Search(**{"config": small("mat", **OPTIONS), "spaces": SPACES, "trials": 4, **options})


def results(folder: Path) -> list[dict[str, Any]]:
    return [result(path) for path in sorted((folder / "trials").iterdir())]


@pytest.fixture(scope="module")
def done(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search.tune(searched(objective="clean,robust"), runs_dir=tmp_path_factory.mktemp("runs"), name="asha")


def test_the_best_run_is_repeated_to_the_last_digit(done: Path, tmp_path: Path) -> None:
    best = search_report.best_of(results(done))
    assert best is not None
    run = launch.train(
        run_config.load(done / "best.yaml"), runs_dir=tmp_path, name="again", how=Circumstances(quiet=True)
    )
    again = reports(RunFolder(run.path), "clean,robust")
    assert again == best["reports"]
    assert bytes_of(run.path)["metrics"] == bytes_of(done / "best")["metrics"]


def test_what_a_search_leaves(done: Path) -> None:
    """A row per report, a page that needs nothing else, and every trial as the ordinary run that it is."""
    every = results(done)
    rows = pq.read_table(done / "search.parquet").to_pylist()
    assert len(rows) == sum(len(r["reports"]) for r in every)
    assert {r["trial"] for r in rows} == {"000", "001", "002", "003"}
    for row in rows:
        assert row["objective"] == pytest.approx((row["clean"] + row["robust"]) / 2)
    page = (done / "search.html").read_text()
    assert "Not beaten in both (Pareto front)" in page
    assert "default-src 'none'" in page
    for r in every:
        assert r["status"] in ("finished", "stopped")
        assert all(
            r["params"][k] == json.loads((done / "trials" / r["trial"] / "params.json").read_text())[k] for k in SPACES
        )
    assert any(r["status"] == "finished" for r in every)
    assert {p.name for p in (done / "tensorboard").iterdir() if p.is_dir()} == {"000", "001", "002", "003"}


def test_the_axes_of_a_searchs_page() -> None:
    """A setting that is drawn by its logarithm is shown by it; accuracies that lie close are told apart."""
    values = {0.001: 0.80, 0.01: 0.82, 0.1: 0.81}
    every = [
        {"trial": f"{i}", "status": "finished", "params": {"optim.lr": lr}, "reports": [{"step": 9, "objective": seen}]}
        for i, (lr, seen) in enumerate(values.items())
    ]
    asked = searched(objective="clean", spaces={"optim.lr": Uniform(0.001, 0.1, log=True)})
    page = search_report.page("s", asked, every, None)
    (drawn,) = (svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "by optim.lr" in svg)
    marks = re.findall(r">([^<>]+)</text>", drawn)
    assert {"0.001", "0.01", "0.1"} <= set(marks)
    heights = [float(mark.removesuffix("%").strip()) for mark in marks if mark.endswith("%")]
    assert min(heights) >= 79
    assert max(heights) <= 83


def test_a_search_of_the_same_name(done: Path) -> None:
    with pytest.raises(Exists, match=r"never overwritten; .*--resume to go on"):
        search.tune(searched(objective="clean,robust"), runs_dir=done.parent, name="asha")
    with pytest.raises(UsageError, match=r"is another search \(trials: 4 -> 3\)"):
        search.tune(searched(objective="clean,robust", trials=3), runs_dir=done.parent, name="asha", resume=True)
    fewer = {"optim.lr": SPACES["optim.lr"]}
    with pytest.raises(UsageError, match=r"is another search \(spaces.method.temperature: uniform\(1, 10\) -> None\)"):
        search.tune(searched(objective="clean,robust", spaces=fewer), runs_dir=done.parent, name="asha", resume=True)


@pytest.mark.soak
def test_a_search_that_ended_runs_nothing_again(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: p.stat().st_mtime_ns for p in (done / "trials").rglob("metrics.jsonl")}
    (done / "best" / "evaluation" / "1").mkdir(parents=True)  # what somebody made of the best trial stays
    search.tune(searched(objective="clean,robust"), runs_dir=done.parent, name="asha", resume=True)
    assert {p: p.stat().st_mtime_ns for p in (done / "trials").rglob("metrics.jsonl")} == before
    assert (done / "best" / "evaluation" / "1").exists()


def test_the_best_changes_and_what_was_made_of_the_old_one_stays(done: Path, tmp_path: Path) -> None:
    target = tmp_path / "best"
    one, other = (done / "trials" / name for name in ("000", "001"))
    search_report.copy_best(one, target)
    (target / "evaluation").mkdir()
    search_report.copy_best(other, target)
    assert not (target / "evaluation").exists()
    assert (tmp_path / "best-before-1" / "evaluation").exists()
    assert [bytes_of(tmp_path / n) for n in ("best", "best-before-1")] == [bytes_of(p) for p in (other, one)]


@pytest.mark.soak
def test_killed_in_the_middle(tmp_path: Path, ray_session: str) -> None:
    """kill -9 of the driver; resumed, the same trials end, each step was taken once, and the best is that of an undisturbed search."""
    spaces = {**searched().config.method.SEARCH, **SPACES}  # what the command searches too
    whole = search.tune(searched(scheduler="fifo", spaces=spaces), runs_dir=tmp_path / "a", name="s")
    flags = [f"--search.{k}={v}" for k, v in SPACES.items()] + [
        "--scheduler=fifo",
        "--trials=4",
        "--name=s",
        f"--runs-dir={tmp_path / 'b'}",
    ]
    file = tmp_path / "run.yaml"
    file.write_text(run_config.dump(searched().config))
    flags += [f"--search.{k}={v}" for k, v in searched().config.method.SEARCH.items() if k not in SPACES]
    command = [sys.executable, "-m", "sparring.cluster", "tune", "-c", str(file), *flags]
    driver = started(command, cwd=CLONE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    trials = tmp_path / "b" / "s" / "trials"
    wait_for(lambda: list(trials.glob("*/result.json")) or driver.poll() is not None)
    os.killpg(driver.pid, signal.SIGKILL)
    ended = {p.parent.name: p.stat().st_mtime_ns for p in trials.glob("*/result.json")}
    assert 0 < len(ended) < 4, driver.communicate()[1]
    again = subprocess.run(
        [*command, "--resume"], cwd=CLONE, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert again.returncode == 0, again.stderr
    assert {n: (trials / n / "result.json").stat().st_mtime_ns for n in ended} == ended
    for path in trials.iterdir():
        steps = [(line["t"], line["agent"]) for line in RunFolder(path).metrics()]
        assert len(steps) == len(set(steps)) == 2 * 20
    assert results(tmp_path / "b" / "s") == results(whole)
    best = [search_report.best_of(results(p)) for p in (whole, tmp_path / "b" / "s")]
    assert best[0] == best[1] is not None


@pytest.mark.soak
def test_terminated_and_gone_on_with(tmp_path: Path) -> None:
    """SIGTERM ends a search in good order with what it has shown; --resume goes on, here in the middle of pbt."""
    flags = ["--scheduler=pbt", "--trials=4", "--name=s", f"--runs-dir={tmp_path}"]
    flags += [*(f"--search.{k}={v}" for k, v in SPACES.items())]
    file = tmp_path / "run.yaml"
    file.write_text(run_config.dump(searched().config.replace({"max_steps": 30, "checkpoint.every": 10})))
    command = [sys.executable, "-m", "sparring.cluster", "tune", "-c", str(file), *flags]
    driver = started(command, cwd=CLONE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    trials = tmp_path / "s" / "trials"
    wait_for(lambda: len(list(trials.glob("*/checkpoints/step-*"))) > 6 or driver.poll() is not None)
    driver.terminate()
    said = driver.communicate(timeout=PATIENCE)[1]
    assert driver.returncode == 130, said
    assert "stopped with 0 of 4 trials ended; continue with the same command and --name s --resume" in said
    assert (tmp_path / "s" / "search.html").exists()
    again = subprocess.run(
        [*command, "--resume"], cwd=CLONE, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert again.returncode == 0, again.stderr
    assert [r["status"] for r in results(tmp_path / "s")] == ["finished"] * 4
    best = search_report.best_of(results(tmp_path / "s"))
    assert best is not None
    run = launch.train(
        run_config.load(tmp_path / "s" / "best.yaml"), runs_dir=tmp_path, name="again", how=Circumstances(quiet=True)
    )
    assert reports(RunFolder(run.path), "w-robust")[-1] == best["reports"][-1]


@pytest.mark.soak
def test_out_of_time(tmp_path: Path, ray_session: str) -> None:
    """A time budget ends a search with what it has shown; one that was too short for that says so."""
    asked = searched(scheduler="fifo", concurrent=1, config=searched().config.replace({"max_steps": 100_000}))
    said: list[str] = []
    with pytest.raises(Interrupted, match="the time budget of 1 s was used up before any trial reported; continue"):
        search.tune(asked, runs_dir=tmp_path, name="short", time_budget=1)
    folder = search.tune(asked, runs_dir=tmp_path, name="s", time_budget=30, say=said.append)
    assert re.match(r"the time budget of 30 s is used up with \d of 4 trials ended; continue", said[-1])
    assert any(r["status"] == "open" for r in results(folder)) or len(results(folder)) < 4
    assert (folder / "best.yaml").exists()


@pytest.mark.soak
def test_a_lost_trial_goes_on_from_its_checkpoint(tmp_path: Path, ray_session: str) -> None:
    """kill -9 of a trial's process: it takes no committed step again, and ends as if nothing had been."""
    asked = searched(scheduler="fifo", trials=1, config=searched().config.replace({"max_steps": 60}))
    whole = search.tune(asked, runs_dir=tmp_path, name="whole")
    killed: list[int] = []

    def kill(line: str) -> None:
        if not killed and "step 20 " in line:
            killed.append(json.loads((tmp_path / "s" / "trials" / "000" / "run.lock").read_text())["pid"])
            os.kill(killed[0], signal.SIGKILL)

    folder = search.tune(asked, runs_dir=tmp_path, name="s", say=kill)
    assert killed
    assert bytes_of(folder / "trials" / "000") == bytes_of(whole / "trials" / "000")
    log = (folder / "trials" / "000" / "log.txt").read_text()
    assert re.search(r"continues at step (20|25) of 60", log), log


@pytest.mark.soak
def test_trials_of_actors_are_those_of_one_process(tmp_path: Path, ray_session: str) -> None:
    """With --team ray every agent of a trial has a bundle of the trial's placement group; the bytes are the same."""
    made = {}
    for team in ("ray", "local"):
        asked = searched(trials=2, scheduler="fifo", config=searched().config.replace({"team": team}))
        folder = search.tune(asked, runs_dir=tmp_path, name=team)
        made[team] = [bytes_of(p) for p in sorted((folder / "trials").iterdir())]
    assert made["ray"] == made["local"]


@pytest.mark.soak
def test_pbt_takes_over_whole_states_and_its_best_is_repeated(tmp_path: Path, ray_session: str) -> None:
    folder = search.tune(searched(scheduler="pbt"), runs_dir=tmp_path, name="pbt")
    best = search_report.best_of(results(folder))
    assert best is not None
    assert all(r["status"] == "finished" for r in results(folder))
    assert any(RunFolder(p).config.changes for p in (folder / "trials").iterdir() if (p / "config.yaml").exists())
    run = launch.train(
        run_config.load(folder / "best.yaml"), runs_dir=tmp_path, name="again", how=Circumstances(quiet=True)
    )
    assert reports(RunFolder(run.path), "w-robust")[-1] == best["reports"][-1]


def test_taking_over(tmp_path: Path) -> None:
    """Weights, optimiser and method state are the donor's: with the same values, the next steps are the donor's own."""
    params = {"method.temperature": 3.0}
    config = searched().config.replace({"checkpoint.keep": 100})  # as trials that may take over have it
    donor = launch.train(config.replace(params), runs_dir=tmp_path, name="donor", how=Circumstances(quiet=True))
    other = launch.train(
        config.replace({"method.temperature": 8.0}), runs_dir=tmp_path, name="other", how=Circumstances(quiet=True)
    )
    assert bytes_of(other.path) != bytes_of(donor.path)
    trial.take_over(other.path, donor.path, 10, {"method.temperature": 3.0})
    assert RunFolder(other.path).checkpoints.committed()[-1] == 10
    launch.resume(other.path, how=Circumstances(quiet=True))
    assert bytes_of(other.path) == bytes_of(donor.path)
    trial.take_over(other.path, donor.path, 10, {"method.temperature": 5.0})
    launch.resume(other.path, how=Circumstances(quiet=True))
    values = {path: [line[2] for line in bytes_of(path)["metrics"]] for path in (donor.path, other.path)}
    assert values[other.path][:20] == values[donor.path][:20]
    assert values[other.path][20:] != values[donor.path][20:]
    assert RunFolder(other.path).config.changes == {10: {"method.temperature": 5.0}}
    before = bytes_of(other.path)
    # killed before the whole copy took its place, or in building one
    other.path.rename(other.path.with_name("other.new"))
    (tmp_path / "other.tmp").mkdir()
    trial._finish_taking_over(other.path)
    assert bytes_of(other.path) == before


def test_unfinished_copies_are_no_trials(tmp_path: Path, done: Path) -> None:
    shutil.copytree(done, tmp_path / "s")
    shutil.copytree(done / "trials" / "003", tmp_path / "s" / "trials" / "003.tmp")
    assert [r["trial"] for r in results_of(tmp_path / "s")] == ["000", "001", "002", "003"]


def test_the_longest_trial_is_not_the_best_one() -> None:
    def made(name: str, status: str, step: int, objective: float) -> dict[str, Any]:
        return {"trial": name, "status": status, "reports": [{"step": step, "objective": objective}]}

    short, long, stopped = made("a", "finished", 10, 0.9), made("b", "finished", 20, 0.8), made("c", "stopped", 5, 1.0)
    assert search_report.best_of([short, long, stopped]) == short
    early, late = made("a", "open", 5, 0.9), made("b", "open", 10, 0.8)
    assert search_report.best_of([early, late]) == late


def test_objectives() -> None:
    method = searched().config.method
    seen = {"peer0": {"clean": 0.9, "robust": 0.5}, "peer1": {"clean": 0.7, "robust": 0.3}}
    terms = {"peer0": {"hard": 2.0}}
    found = objective.measure("w-robust,w-robust:0.75,-peer0/hard,peer1/clean", method, seen, terms)
    parts = {"w-robust": 0.6, "w-robust:0.75": 0.5, "-peer0/hard": -2.0, "peer1/clean": 0.7}
    assert found == pytest.approx({**parts, "objective": sum(parts.values()) / 4})
    for wrong in ("w-robust:2", "w-robust:x", "-", "peer0/", "peer9/clean"):
        with pytest.raises(UsageError, match="is never reported"):
            objective.check(wrong, searched().config)


def test_a_run_that_seems_held_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that died holds its runs until its last sign of life is old."""
    asked: list[Path] = []

    def go_on(folder: RunFolder, *_: Any) -> None:
        asked.append(folder.path)
        if len(asked) < 3:
            raise Exists("run x is locked by process 1 on a host that died")

    RunFolder.create(tmp_path, "run", small("mat"))
    monkeypatch.setattr(launch, "go_on", go_on)
    monkeypatch.setattr(trial.time, "sleep", lambda _: None)
    trial._as_soon_as_free(tmp_path / "run", small("mat"), Circumstances())
    assert len(asked) == 3


class OfPopulation:
    """A trial of Tune's as a scheduler sees it."""

    def __init__(self, status: str) -> None:
        self.status = status


def test_a_population_does_not_wait_for_one_that_failed() -> None:
    """Three wait for the fourth, which ends without the report that would have set them all going."""
    scheduler = schedulers.Population(
        time_attr="step", metric="objective", mode="max", perturbation_interval=10, synch=True,
        hyperparam_mutations={"a": [1, 2]},
    )  # fmt: skip
    trials = [OfPopulation("PAUSED") for _ in range(3)]
    running = OfPopulation("RUNNING")
    for one, step in ((trials[0], 10), (trials[1], 10), (trials[2], 10), (running, 0)):
        scheduler._trial_state[one] = SimpleNamespace(last_train_time=step)
    live = {*trials, running}
    controller = SimpleNamespace(get_trials=lambda: [*trials, running], get_live_trials=lambda: live)
    assert scheduler.choose_trial_to_run(controller) is None
    running.status = "ERROR"
    live.remove(running)
    assert scheduler.choose_trial_to_run(controller) is trials[0]
    assert scheduler._next_perturbation_sync == 20
    trials[0].status = "PENDING"  # Tune has a process started for it
    assert scheduler.choose_trial_to_run(controller) is trials[1]  # and is to start another
    trials[1].status = trials[2].status = "PENDING"
    assert scheduler.choose_trial_to_run(controller) is trials[2]  # a free process takes over the one begun last


@pytest.mark.soak
def test_tpe_from_python(tmp_path: Path, ray_session: str) -> None:
    import sparring

    pytest.importorskip("optuna")
    how: dict[str, Any] = {"sampler": "tpe", "scheduler": "fifo", "concurrent": 1, "trials": 3}
    spaces = {"method.temperature": "uniform(1, 10)", "optim.lr": "loguniform(0.01, 0.2)"}
    found = sparring.tune(searched().config, spaces, **how, runs_dir=tmp_path, quiet=True)
    assert found.path.name == "mat-digits-search-1"
    assert found.best.agents.keys() == {"peer0", "peer1"}
    assert sparring.load(found.best.path, agent="peer1")
    with pytest.raises(ValueError, match="Did you mean uniform"):
        sparring.tune(searched().config, {"optim.lr": "unifrom(1, 2)"})
    asked, folder = searched(**how), found.path
    assert [t["params"] for t in found.trials] == [r["params"] for r in results(folder)]
    assert [r["status"] for r in results(folder)] == ["finished"] * 3
    made = [r["params"] for r in results(folder)]
    assert len({p["method.temperature"] for p in made}) == 3
    again = tuning.Asked(replace(asked, trials=5), folder)  # a longer one, on what these have shown
    suggested = [again.suggest(str(i)) for i in range(5)]
    assert [s["params"] for s in suggested[:3] if s] == made
    assert all(s["params"] not in made for s in suggested[3:] if s)


def test_draws_depend_on_nothing_else(tmp_path: Path) -> None:
    """A longer search begins as a shorter one; every draw lies in its space and they spread over it."""
    few, many = (samplers.draw(searched(trials=n), tmp_path) for n in (4, 200))
    assert few is not None
    assert many is not None
    assert many[:4] == few
    temperatures = sorted(float(d["method.temperature"]) for d in many)
    assert 1 <= temperatures[0] < 1.5
    assert 9.5 < temperatures[-1] <= 10
    assert sum(t < 5.5 for t in temperatures) == pytest.approx(100, abs=25)
    assert sum(float(d["optim.lr"]) < (0.01 * 0.2) ** 0.5 for d in many) == pytest.approx(100, abs=25)


def test_a_grid(tmp_path: Path) -> None:
    spaces: dict[str, Space] = {"method.temperature": Choice((1, 2)), "attack.steps": Choice((1, 2, 3))}
    drawn = samplers.draw(searched(sampler="grid", spaces=spaces), tmp_path)
    assert drawn is not None
    assert len(drawn) == 6
    assert drawn[0] == {"attack.steps": 1, "method.temperature": 1}
    with pytest.raises(UsageError, match=r"a grid needs values: --search\.method\.temperature 'grid\(1, 2, 5\)'"):
        samplers.draw(searched(sampler="grid"), tmp_path)


def test_the_front_holds_who_is_not_beaten_in_both() -> None:
    made = [
        {"trial": n, "reports": [{"a": a, "b": b}]}
        for n, a, b in (("w", 1, 0), ("x", 0.5, 0.5), ("y", 0.4, 0.5), ("z", 0, 1))
    ]
    assert [r["trial"] for r in search_report.front(made, "a", "b")] == ["w", "x", "z"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spaces": {"method.temprature": Uniform(1, 2)}}, "did you mean 'temperature'?"),
        ({"spaces": {"method.temperature": Uniform(-1, 2)}}, "temperature"),
        ({"spaces": {"network": Choice(("a", "b"))}}, "trials share data, networks and seed"),
        ({"spaces": {}}, "nothing to search"),
        ({"objective": "robst"}, "objective 'robst' is never reported; there are robust, clean, w-robust"),
        ({"objective": "peer7/robust"}, "with peer0, peer1"),
        ({"scheduler": "pbt", "spaces": {"attack.steps": Integers(1, 5)}}, "pbt changes values while a run goes on"),
        ({"scheduler": "pbt", "trials": 2}, "trials = 2 is too few; at least 4"),
        ({"scheduler": "pbt", "concurrent": 2}, "with pbt all trials wait for each other"),
        ({"config": small("mat", **OPTIONS, lanes=2)}, "lanes = 2: every agent of a trial is one process"),
    ],
)
def test_bad_searches(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, ValueError), match=re.escape(words)):
        search.tune(searched(**options), runs_dir=tmp_path, name="s")
    assert not list(tmp_path.iterdir())


ROWS: dict[str, dict[str, Any]] = {  # of the table in docs/search.md
    "`--sampler random`": {},
    "`--sampler tpe`": {"sampler": "tpe"},
    "`--sampler grid`, values only": {"sampler": "grid", "spaces": {"attack.steps": Choice((1, 2))}, "trials": 4},
    "`--sampler grid`, a range among them": {"sampler": "grid"},
    "`--sampler grid`, fewer `--trials` than combinations": {
        "sampler": "grid",
        "trials": 4,
        "spaces": {"attack.steps": Choice((1, 2, 3)), "method.alpha": Choice((0.1, 0.2))},
    },
    "a space of `choice` or `randint`": {"spaces": {"attack.steps": Integers(1, 3)}},
    "a setting that cannot change during a run": {"spaces": {"max_steps": Uniform(2, 4)}},
    "`--trials` below 4": {"trials": 2},
    "`--concurrent`": {"concurrent": 2},
    "`--lanes` above 1": {"config": small("mat", **OPTIONS, lanes=2)},
}


def test_the_table_of_combinations(tmp_path: Path) -> None:
    """Every cell: what docs/search.md says goes together is taken, and the rest refused, before anything is made."""
    text = (CLONE / "docs" / "search.md").read_text()
    table = text.partition("<!-- combinations -->")[2].partition("<!-- end -->")[0].strip().splitlines()
    head = [cell.strip().strip("`").removeprefix("--scheduler ") for cell in table[0].strip("|").split("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert [row[0] for row in cells] == list(ROWS)
    for name, *verdicts in cells:
        for scheduler, verdict in zip(head[1:], verdicts, strict=True):
            asked = searched(**{"trials": 4, **ROWS[name], "scheduler": scheduler})
            if verdict == "yes":
                search.check(asked)
                continue
            with pytest.raises(UsageError):
                search.check(asked)
    assert not list(tmp_path.iterdir())


def test_as_many_trials_as_a_grid_has() -> None:
    spaces: dict[str, Space] = {"attack.steps": Choice((1, 2, 3)), "method.alpha": Choice((0.1, 0.2))}
    assert [trials_of(None, sampler, spaces) for sampler in ("random", "tpe", "grid")] == [16, 16, 6]
    assert trials_of(8, "grid", spaces) == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unifrom(1, 2)", "Did you mean uniform?"),
        ("uniform(2, 1)", "low must be below high"),
        ("uniform(1)", "takes two numbers"),
        ("randint(1.5, 2)", "two whole numbers"),
        ("choice()", "at least one value"),
        ("__import__('os')", "is not a space"),
    ],
)
def test_bad_spaces(text: str, words: str, sparring: Command) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(text)
    done = sparring("tune", "mat", f"--search.method.temperature={text}")
    assert done.returncode == 2
    assert words in done.stderr


def test_a_trial_too_large_is_refused(ray_session: str, tmp_path: Path) -> None:
    config = searched().config.replace({"placement.cpus_per_agent": 99})
    with pytest.raises(NoResources, match=r"a trial needs 99 CPU"):
        search.tune(searched(config=config), runs_dir=tmp_path, name="s")


def test_a_trials_own_process_needs_room_too(ray_session: str, tmp_path: Path) -> None:
    """Two peers fill the cluster exactly: Tune would wait for ever for the hundredth of a CPU beside them."""
    config = searched().config.replace({"team": "ray", "placement.cpus_per_agent": 4})
    with pytest.raises(
        NoResources, match=r"a trial needs 0\.01 CPU and 2 agents need 4 CPU each.*--placement.cpus-per-agent"
    ):
        search.tune(searched(config=config), runs_dir=tmp_path, name="s")


def test_a_submitted_search_needs_a_folder_that_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUBMITTED, "{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--runs-dir runs is relative"):
        search.tune(searched(), name="s")
    assert not list(tmp_path.iterdir())


@pytest.mark.soak
def test_a_metric_that_is_never_reported(ray_session: str, tmp_path: Path) -> None:
    words = r"every trial failed; the first one, 000: objective 'peer0/hart' is never reported; peer0 reports clean, robust, hard"
    with pytest.raises(UsageError, match=words):
        search.tune(searched(objective="peer0/hart", trials=1), runs_dir=tmp_path, name="s")


@pytest.mark.soak
def test_when_all_fail_the_first_cause_is_said(ray_session: str, tmp_path: Path) -> None:
    spaces: dict[str, Space] = {"optim.lr": Uniform(1e28, 1e30)}
    words = r"every trial failed; the first one, 000: training stopped itself: peer0: loss term 'hard'"
    with pytest.raises(TrainingStopped, match=words):
        search.tune(searched(spaces=spaces, trials=2), runs_dir=tmp_path, name="s")


BROKEN = """
from dataclasses import dataclass
from sparring.trainers.methods.at import At

@dataclass(frozen=True, kw_only=True)
class Broken(At):
    \"\"\"Fails in every step where it is told to.\"\"\"

    margin: float = 0.0
    \"\"\"Above one it fails.\"\"\"

    def loss(self, me, own, batch, **seen):
        if self.margin > 1:
            raise RuntimeError("broken on purpose")
        return super().loss(me, own, batch, **seen)
"""


def test_errors_of_a_users_own_method(ray_session: str, tmp_path: Path) -> None:
    """A trial that its method ends has failed, with the cause; the others count. None is begun again."""
    (tmp_path / "broken.py").write_text(BROKEN)
    config = small(f"{tmp_path / 'broken.py'}", **OPTIONS)
    spaces: dict[str, Space] = {"method.margin": Choice((0, 2))}
    asked = searched(config=config, spaces=spaces, sampler="grid", scheduler="fifo", concurrent=1)
    folder = search.tune(asked, runs_dir=tmp_path, name="s")
    good, bad = results(folder)
    assert (good["status"], bad["status"]) == ("finished", "failed")
    assert bad["cause"].endswith("broken.py, line 14: RuntimeError: broken on purpose")
    assert bad["code"] == 2
