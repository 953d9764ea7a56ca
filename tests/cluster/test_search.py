"""Searching settings: trials are ordinary runs, the best one can be repeated, an interruption loses and repeats nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster import launch, run_config, samplers, search, search_report, trial
from cluster.errors import Exists, NoResources, UsageError
from cluster.run_folder import RunFolder
from cluster.search import Search
from tests.conftest import Command
from tests.helpers import CLONE, bytes_of, small
from tests.hosts import wait_for
from trainers.search import Choice, Integers, Space, Uniform, parse

SPACES: dict[str, Space] = {"method.temperature": Uniform(1, 10), "optim.lr": Uniform(0.01, 0.2, log=True)}
OPTIONS: dict[str, Any] = {"team": "local", "checkpoint__attack_steps": 1, "attack__steps": 1}


def searched(**options: Any) -> Search:
    return Search(**{"config": small("mat", **OPTIONS), "spaces": SPACES, "trials": 4, **options})


def results(folder: Path) -> list[dict[str, Any]]:
    return [trial.result(path) for path in sorted((folder / "trials").iterdir())]


@pytest.fixture(scope="module")
def done(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search.tune(searched(objective="clean,robust"), runs_dir=tmp_path_factory.mktemp("runs"), name="asha")


def test_the_best_run_is_repeated_to_the_last_digit(done: Path, tmp_path: Path) -> None:
    best = search_report.best_of(results(done))
    assert best is not None
    run = launch.train(run_config.load(done / "best.yaml"), runs_dir=tmp_path, name="again", quiet=True)
    again = trial.reports(RunFolder(run.path), "clean,robust")
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


def test_a_search_of_the_same_name(done: Path) -> None:
    with pytest.raises(Exists, match=r"never overwritten; .*--resume to go on"):
        search.tune(searched(objective="clean,robust"), runs_dir=done.parent, name="asha")
    with pytest.raises(UsageError, match=r"is another search \(trials: 4 -> 5\)"):
        search.tune(searched(objective="clean,robust", trials=5), runs_dir=done.parent, name="asha", resume=True)


def test_a_search_that_ended_runs_nothing_again(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: p.stat().st_mtime_ns for p in (done / "trials").rglob("metrics.jsonl")}
    search.tune(searched(objective="clean,robust"), runs_dir=done.parent, name="asha", resume=True)
    assert {p: p.stat().st_mtime_ns for p in (done / "trials").rglob("metrics.jsonl")} == before


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
    command = [sys.executable, "-m", "cluster", "tune", "-c", str(file), *flags]
    driver = subprocess.Popen(
        command, cwd=CLONE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    trials = tmp_path / "b" / "s" / "trials"
    wait_for(lambda: list(trials.glob("*/result.json")) or driver.poll() is not None, seconds=90)
    os.killpg(driver.pid, signal.SIGKILL)
    ended = {p.parent.name: p.stat().st_mtime_ns for p in trials.glob("*/result.json")}
    assert 0 < len(ended) < 4, driver.communicate()[1]
    again = subprocess.run([*command, "--resume"], cwd=CLONE, capture_output=True, text=True, check=False, timeout=200)
    assert again.returncode == 0, again.stderr
    assert {n: (trials / n / "result.json").stat().st_mtime_ns for n in ended} == ended
    for path in trials.iterdir():
        steps = [(line["t"], line["agent"]) for line in RunFolder(path).metrics()]
        assert len(steps) == len(set(steps)) == 2 * 20
    assert results(tmp_path / "b" / "s") == results(whole)
    best = [search_report.best_of(results(p)) for p in (whole, tmp_path / "b" / "s")]
    assert best[0] == best[1] is not None


def test_terminated_and_gone_on_with(tmp_path: Path) -> None:
    """SIGTERM ends a search in good order with what it has shown; --resume goes on, here in the middle of pbt."""
    flags = ["--scheduler=pbt", "--trials=4", "--name=s", f"--runs-dir={tmp_path}"]
    flags += [*(f"--search.{k}={v}" for k, v in SPACES.items())]
    file = tmp_path / "run.yaml"
    file.write_text(run_config.dump(searched().config.replace({"max_steps": 30, "checkpoint.every": 10})))
    command = [sys.executable, "-m", "cluster", "tune", "-c", str(file), *flags]
    driver = subprocess.Popen(command, cwd=CLONE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    trials = tmp_path / "s" / "trials"
    wait_for(lambda: len(list(trials.glob("*/checkpoints/step-*"))) > 6 or driver.poll() is not None, seconds=90)
    driver.terminate()
    said = driver.communicate(timeout=60)[1]
    assert driver.returncode == 130, said
    assert "stopped with 0 of 4 trials ended; continue with the same command and --name s --resume" in said
    assert (tmp_path / "s" / "search.html").exists()
    again = subprocess.run([*command, "--resume"], cwd=CLONE, capture_output=True, text=True, check=False, timeout=200)
    assert again.returncode == 0, again.stderr
    assert [r["status"] for r in results(tmp_path / "s")] == ["finished"] * 4
    best = search_report.best_of(results(tmp_path / "s"))
    assert best is not None
    run = launch.train(run_config.load(tmp_path / "s" / "best.yaml"), runs_dir=tmp_path, name="again", quiet=True)
    assert trial.reports(RunFolder(run.path), "w-robust")[-1] == best["reports"][-1]


def test_out_of_time(tmp_path: Path, ray_session: str) -> None:
    """A time budget ends a search with what it has shown; going on completes it."""
    asked = searched(scheduler="fifo", concurrent=1, config=searched().config.replace({"max_steps": 200}))
    said: list[str] = []
    folder = search.tune(asked, runs_dir=tmp_path, name="s", time_budget=6, say=said.append)
    assert re.match(r"the time budget of 6 s is used up with \d of 4 trials ended; continue", said[-1])
    assert any(r["status"] == "open" for r in results(folder)) or len(results(folder)) < 4
    assert (folder / "best.yaml").exists()


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


def test_trials_of_actors_are_those_of_one_process(tmp_path: Path, ray_session: str) -> None:
    """With --team ray every agent of a trial has a bundle of the trial's placement group; the bytes are the same."""
    made = {}
    for team in ("ray", "local"):
        asked = searched(trials=2, scheduler="fifo", config=searched().config.replace({"team": team}))
        folder = search.tune(asked, runs_dir=tmp_path, name=team)
        made[team] = [bytes_of(p) for p in sorted((folder / "trials").iterdir())]
    assert made["ray"] == made["local"]


def test_pbt_takes_over_whole_states_and_its_best_is_repeated(tmp_path: Path, ray_session: str) -> None:
    folder = search.tune(searched(scheduler="pbt"), runs_dir=tmp_path, name="pbt")
    best = search_report.best_of(results(folder))
    assert best is not None
    assert all(r["status"] == "finished" for r in results(folder))
    assert any(RunFolder(p).config.changes for p in (folder / "trials").iterdir() if (p / "config.yaml").exists())
    run = launch.train(run_config.load(folder / "best.yaml"), runs_dir=tmp_path, name="again", quiet=True)
    assert trial.reports(RunFolder(run.path), "w-robust")[-1] == best["reports"][-1]


def test_taking_over(tmp_path: Path) -> None:
    """Weights, optimiser and method state are the donor's: with the same values, the next steps are the donor's own."""
    params = {"method.temperature": 3.0}
    config = searched().config.replace({"checkpoint.keep": 100})  # as trials that may take over have it
    donor = launch.train(config.replace(params), runs_dir=tmp_path, name="donor", quiet=True)
    other = launch.train(config.replace({"method.temperature": 8.0}), runs_dir=tmp_path, name="other", quiet=True)
    assert bytes_of(other.path) != bytes_of(donor.path)
    trial.take_over(other.path, donor.path, 10, {"method.temperature": 3.0})
    assert RunFolder(other.path).checkpoints.committed()[-1] == 10
    launch.resume(other.path, quiet=True)
    assert bytes_of(other.path) == bytes_of(donor.path)
    trial.take_over(other.path, donor.path, 10, {"method.temperature": 5.0})
    launch.resume(other.path, quiet=True)
    values = {path: [line[2] for line in bytes_of(path)["metrics"]] for path in (donor.path, other.path)}
    assert values[other.path][:20] == values[donor.path][:20]
    assert values[other.path][20:] != values[donor.path][20:]
    assert RunFolder(other.path).config.changes == {10: {"method.temperature": 5.0}}


def test_tpe(tmp_path: Path, ray_session: str) -> None:
    pytest.importorskip("optuna")
    folder = search.tune(searched(sampler="tpe", scheduler="fifo", concurrent=1), runs_dir=tmp_path, name="tpe")
    assert [r["status"] for r in results(folder)] == ["finished"] * 4
    assert len({r["params"]["method.temperature"] for r in results(folder)}) == 4


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
    ],
)
def test_bad_searches(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, ValueError), match=re.escape(words)):
        search.tune(searched(**options), runs_dir=tmp_path, name="s")
    assert not list(tmp_path.iterdir())


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


def test_a_metric_that_is_never_reported(ray_session: str, tmp_path: Path) -> None:
    words = r"every trial failed; the first one, 000: objective 'peer0/hart' is never reported; peer0 reports clean, robust, hard"
    with pytest.raises(UsageError, match=words):
        search.tune(searched(objective="peer0/hart", trials=1), runs_dir=tmp_path, name="s")


def test_from_python(ray_session: str, tmp_path: Path) -> None:
    import sparring

    spaces = {"method.temperature": "choice(1, 5)"}
    options: dict[str, Any] = {"sampler": "grid", "scheduler": "fifo", "runs_dir": tmp_path, "quiet": True}
    found = sparring.tune(searched().config, spaces, **options)
    assert [t["params"] for t in found.trials] == [{"method.temperature": 1}, {"method.temperature": 5}]
    assert found.path.name == "mat-digits-search-1"
    assert found.best.agents.keys() == {"peer0", "peer1"}
    assert sparring.load(found.best.path, agent="peer1")
    with pytest.raises(ValueError, match="Did you mean uniform"):
        sparring.tune(searched().config, {"optim.lr": "unifrom(1, 2)"})


def test_when_all_fail_the_first_cause_is_said(ray_session: str, tmp_path: Path) -> None:
    spaces: dict[str, Space] = {"optim.lr": Uniform(1e28, 1e30)}
    with pytest.raises(
        Exception, match=r"every trial failed; the first one, 000: training stopped itself: peer0: loss term 'hard'"
    ):
        search.tune(searched(spaces=spaces, trials=2), runs_dir=tmp_path, name="s")
