"""Figures in several places under the same names; whatever a tracker does, training goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.config.tracking import parsed
from sparring.cluster.trackers import apart
from sparring.cluster.trackers.apart import Apart
from sparring.cluster.trackers.process import Told
from sparring.cluster.trackers.process import run as told_by
from sparring.cluster.trackers.table import Table
from sparring.cluster.training.controller import Controller
from tests.conftest import Command
from tests.helpers import CLONE, PATIENCE, small_flags

LOCAL = [*small_flags(max_steps=20), "--team=local", "--no-report"]


def test_names() -> None:
    assert parsed("tensorboard") == ("tensorboard",)
    assert parsed("csv, wandb,csv") == ("csv", "wandb")
    assert parsed("none") == ()
    for text, words in {
        "wadnb": r"'wadnb' is unknown; expected some of tensorboard, csv, wandb, mlflow, or none",
        "": "'' is unknown",
        "none,csv": "none goes with no other",
    }.items():
        with pytest.raises(ValueError, match=words):
            parsed(text)


def test_what_cannot_be_told_is_said_before_a_run_begins(sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = sparring("train", "at", *LOCAL, "--log=mlflow")
    assert done.returncode == 2
    assert "export MLFLOW_TRACKING_URI=http://HOST:5000" in done.stderr
    monkeypatch.setattr("sparring.cluster.trackers.installed.find_spec", lambda name: None)
    done = sparring("train", "at", *LOCAL, "--log=csv,wandb")
    assert done.returncode == 2
    assert "--log wandb needs wandb; run: pip install 'sparring[wandb]'" in done.stderr
    done = sparring("train", "at", *LOCAL, "--log=w")
    assert done.returncode == 2
    assert "'w' is unknown" in done.stderr
    assert not Path("runs").exists()


def lines(run: Path) -> dict[str, dict[int, float]]:
    """What metrics.jsonl and validation.jsonl hold, as trackers name it."""
    found: dict[str, dict[int, float]] = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        for name, value in {**line["values"], "exchange_bytes": line["exchange_bytes"]}.items():
            found.setdefault(f"{name}/{line['agent']}", {})[line["t"]] = value
        for term, share in line.get("shares", {}).items():
            for kind in ("loss", "gradient"):
                found.setdefault(f"{kind}_share_{term}/{line['agent']}", {})[line["t"]] = share[kind]
    for text in (run / "validation.jsonl").read_text().splitlines():
        line = json.loads(text)
        for name in ("clean", "robust", "own_attack"):
            found.setdefault(f"held_out_{name}/{line['agent']}", {})[line["t"]] = line[name]
    return found


def table(run: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            steps = found.setdefault(row["name"], {})
            assert int(row["step"]) not in steps
            steps[int(row["step"])] = float(row["value"])
    return found


def board(run: Path) -> dict[str, set[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: {e.step for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_the_same_figures_under_the_same_names(sparring: Command) -> None:
    done = sparring("train", "mat", *LOCAL, "--name=r", "--log=tensorboard,csv")
    assert done.returncode == 0, done.stderr
    run = Path("runs/r")
    right = lines(run)
    assert table(run) == right
    assert board(run) == {name: set(steps) for name, steps in right.items()}
    assert {"total/peer0", "held_out_robust/peer1", "exchange_bytes/peer1"} <= right.keys()


class Gone(Exception):
    """The driver."""


def test_a_run_that_goes_on_misses_no_figure(sparring: Command) -> None:
    """Of the checkpoint that it goes on from the steps come again, but not what it was worth."""
    real = Controller._collect

    def collect(controller: Controller) -> None:
        real(controller)
        if controller.checkpoints.committed()[-1:] == [10]:
            raise Gone

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Controller, "_collect", collect)
        assert sparring("train", "at", *LOCAL, "--name=r", "--log=tensorboard,csv").returncode == 1
    assert sparring("resume", "runs/r").returncode == 0
    run = Path("runs/r")
    right = lines(run)
    assert set(right["held_out_robust/model"]) == {5, 10, 15, 20}
    assert table(run) == right
    assert board(run) == {name: set(steps) for name, steps in right.items()}


def test_a_driver_that_is_killed_loses_nothing_that_was_told(tmp_path: Path) -> None:
    """The lines end without a word: what waits is sent, and the run is said to have failed."""

    class Held:
        id = "one"

        def __init__(self, folder: Path, id: str | None, **about: Any) -> None:
            self.waiting: list[int] = []
            kept.append(self)
            self.sent: list[int] = []
            self.status = ""

        def metrics(self, t: int, values: Any) -> None:
            self.waiting.append(t)

        def finish(self, status: str) -> None:
            self.sent, self.status = self.waiting, status

    kept: list[Held] = []
    said = [json.dumps({"start": {}}), *(json.dumps({"metrics": [t, {"a": 1.0}]}) for t in range(20))]
    told_by(said, tmp_path, "mlflow", Held)
    assert (kept[0].sent, kept[0].status) == (list(range(20)), "failed")
    assert json.loads((tmp_path / "mlflow.json").read_text())["until"] == {"a": 19}


def test_passwords_in_addresses_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.cluster.trackers import to_mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:TOP%2FSECRET@127.0.0.1:9/x")
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
    to_mlflow._hide_password()
    found = [os.environ[f"MLFLOW_TRACKING_{name}"] for name in ("URI", "USERNAME", "PASSWORD")]
    assert found == ["http://127.0.0.1:9/x", "me", "TOP/SECRET"]
    assert apart.PASSWORD.sub("://***@", "no answer from http://me:x@h:1/api") == "no answer from http://***@h:1/api"


def test_none_writes_nothing_of_theirs(sparring: Command) -> None:
    assert sparring("train", "at", *LOCAL, "--name=r", "--log=none").returncode == 0
    names = {p.name for p in Path("runs/r").iterdir()}
    assert not names & {"tensorboard", "metrics.csv", "trackers"}


def test_a_table_goes_on_after_what_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    first = Table(file, 0)
    for t in range(4):
        first.metrics(t, {"loss/a": t / 3, "lr/a": float("inf")})
    first.finish("failed")
    with file.open("a") as cut:
        cut.write("4,lo")
    second = Table(file, 3)
    second.metrics(3, {"loss/a": 7.0})
    second.rewind(2)
    second.metrics(2, {"loss/a": 8.0})
    second.finish("finished")
    rows = [line.split(",") for line in file.read_text().splitlines()]
    assert rows == [
        ["step", "name", "value"],
        *[[str(t), name, value] for t in (0, 1) for name, value in (("loss/a", repr(t / 3)), ("lr/a", "inf"))],
        ["2", "loss/a", "8.0"],
    ]


def test_no_step_is_told_twice(tmp_path: Path) -> None:
    told = Told(tmp_path / "wandb.json")
    told.id = "one"
    told.note(5, {"loss/a": 1.0})
    told.note(9, {"held_out/a": 1.0})
    told.keep()
    again = Told(tmp_path / "wandb.json")
    assert again.id == "one"
    assert again.new(5, {"loss/a": 1.0, "held_out/a": 1.0, "lr/a": 1.0}) == {"lr/a": 1.0}
    assert again.new(6, {"loss/a": 1.0}) == {"loss/a": 1.0}


STANDS = """
import time
Settings = dict
def init(**options):
    time.sleep(10_000)
"""
FAILS = """
class Settings:
    def __init__(self, **options): pass
class _Run:
    def define_metric(self, *a, **k): pass
    def save(self, *a, **k): pass
    def finish(self, *a, **k): pass
    def log(self, values): raise ConnectionError("no route to the tracker")
def init(**options):
    return _Run()
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A wandb that behaves as a text says."""

    def put(text: str) -> None:
        (tmp_path / "libraries" / "wandb").mkdir(parents=True)
        (tmp_path / "libraries" / "wandb" / "__init__.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "libraries"))

    return put


def test_a_tracker_that_hangs(library: Any, sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said once, while training goes on; left at the end."""
    library(STANDS)
    monkeypatch.setattr(apart, "PATIENCE", 1.0)
    monkeypatch.setattr(apart, "STARTS", 0.0)
    monkeypatch.setattr(apart, "MOST", 10)
    sizes = []
    real = subprocess.Popen.__init__

    def small(self: Any, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        if options.get("start_new_session") and self.stdin is not None:
            import fcntl

            sizes.append(fcntl.fcntl(self.stdin, 1031, 4096))  # F_SETPIPE_SZ: else a short run fits into it

    monkeypatch.setattr(subprocess.Popen, "__init__", small)
    started = time.monotonic()
    done = sparring("train", "at", *LOCAL, "--name=r", "--log=wandb", "--max-steps=300")
    assert done.returncode == 0, done.stderr
    assert sizes == [4096]
    assert done.stderr.count("the tracker wandb") == 1
    assert "the tracker wandb no longer answers; training is not touched by it. See " in done.stderr
    assert time.monotonic() - started < PATIENCE
    tracker = Apart("wandb", Path("trackers"), {"name": "r", "config": {}, "parent": None}, print)
    began = time.monotonic()
    said = tracker.finish("finished")
    assert said is not None
    assert "did not end within 1 s and was left" in said
    assert time.monotonic() - began < 1.8 * apart.PATIENCE


def test_a_tracker_that_starts_slowly(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends before its tracker has started is told all the same."""
    library(
        FAILS.replace('raise ConnectionError("no route to the tracker")', "print(values)")
        + "import time\ntime.sleep(2)\n"
    )
    monkeypatch.setattr(apart, "PATIENCE", 1.0)
    start = {"name": "r", "config": {}, "parent": None}
    tracker = Apart("wandb", tmp_path / "trackers", start, print)
    tracker.metrics(0, {"a": 1.0})
    assert tracker.finish("finished") is None
    assert "'a': 1.0" in (tmp_path / "trackers" / "wandb.log").read_text()


def test_a_tracker_that_fails(library: Any, sparring: Command) -> None:
    library(FAILS)
    assert sparring("train", "at", *LOCAL, "--name=without", "--log=none").returncode == 0
    done = sparring("train", "at", *LOCAL, "--name=r", "--log=wandb")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the tracker wandb") == 1
    assert "failed (ConnectionError: no route to the tracker)" in done.stderr
    weights = [Path(f"runs/{name}/checkpoints/step-000020/agents/model/model.safetensors") for name in ("r", "without")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_tracker_that_is_killed(library: Any, tmp_path: Path) -> None:
    library(FAILS.replace("raise ConnectionError", "print"))
    said: list[str] = []
    tracker = Apart("wandb", tmp_path / "trackers", {"name": "r", "config": {}, "parent": None}, said.append)
    tracker.metrics(0, {"a": 1.0})
    os.kill(tracker._process.pid, signal.SIGKILL)
    tracker._process.wait()
    deadline = time.monotonic() + PATIENCE
    while not said and time.monotonic() < deadline:
        tracker.metrics(1, {"a": 1.0})
        time.sleep(0.01)
    assert len(said) == 1
    assert tracker.finish("finished") is None


def records(content: bytes) -> Iterator[bytes]:
    """Of a log in LevelDB's format, behind seven bytes of wandb's own: blocks of 32 KiB; checksum, length, kind of every part."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # what is left of a block holds no head
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


def offline(run: Path) -> list[tuple[str, dict[str, dict[int, float]]]]:
    """Every folder of an offline run of wandb's: its id and figures."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted((run / "trackers" / "wandb").glob("offline-run-*/*.wandb")):
        figures: dict[str, dict[int, float]] = {}
        for data in records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") != "history":
                continue
            items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            for name, value in items.items():
                if not name.startswith("_") and name != "step":
                    figures.setdefault(name, {})[items["step"]] = value
        found.append((path.stem.removeprefix("run-"), figures))
    return found


@pytest.mark.soak
def test_wandb_offline(sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real library; a run that goes on is the same run, and no figure comes twice."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = [*small_flags(max_steps=400), "--team=local", "--no-report", "--name=r", "--log=wandb"]
    stopped = sparring("train", "at", *flags, "--time-budget=2")
    assert stopped.returncode == 130, stopped.stderr
    assert sparring("resume", "runs/r").returncode == 0
    run = Path("runs/r")
    (first, before), (second, after) = offline(run)
    assert first == second == json.loads((run / "trackers/wandb.json").read_text())["id"]
    together: dict[str, dict[int, float]] = {}
    for figures in (before, after):
        for name, steps in figures.items():
            known = together.setdefault(name, {})
            assert not known.keys() & steps.keys()
            known |= steps
    assert together == lines(run)


CLIENTS = CLONE / ".clients" / "mlflow"


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """MLflow's own server, of packages in a folder of their own (make clients)."""
    from tests.serve.live import free_port

    pytest.importorskip("mlflow")
    if not CLIENTS.is_dir():
        pytest.skip("needs MLflow's server (make clients)")
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", f"--port={port}", "--host=127.0.0.1", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/artifacts"]
    env = {**os.environ, "PYTHONPATH": str(CLIENTS)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
    import httpx

    try:
        while True:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.3)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def history(client: Any, run_id: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for name in client.get_run(run_id).data.metrics:
        steps = found.setdefault(name, {})
        for metric in client.get_metric_history(run_id, name):
            assert metric.step not in steps, (name, metric.step)
            steps[metric.step] = metric.value
    return {name: steps for name, steps in found.items() if not name.startswith("final/")}


@pytest.mark.soak
def test_mlflow(mlflow_server: str, sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server: figures, settings and files of a run, one run also when it goes on."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    from mlflow import MlflowClient

    flags = [*small_flags(max_steps=400), "--team=local", "--no-report", "--name=r", "--log=mlflow"]
    stopped = sparring("train", "at", *flags, "--time-budget=2")
    assert stopped.returncode == 130, stopped.stderr
    run, client = Path("runs/r"), MlflowClient(mlflow_server)
    run_id = json.loads((run / "trackers/mlflow.json").read_text())["id"]
    assert client.get_run(run_id).info.status == "KILLED"
    done = sparring("resume", "runs/r")
    assert done.returncode == 0, done.stderr
    assert "tracker" not in done.stderr
    told = client.get_run(run_id)
    assert told.info.status == "FINISHED"
    assert told.info.run_name == "r"
    assert told.data.params["optim.lr"] == "0.1"
    assert history(client, run_id) == lines(run)
    assert {f.path for f in client.list_artifacts(run_id)} == {"config.yaml", "env.json"}
    [experiment] = [e for e in client.search_experiments() if e.name == "sparring"]
    assert len(client.search_runs([experiment.experiment_id])) == 1


@pytest.mark.soak
def test_trials_are_children(mlflow_server: str, sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "searches")
    from mlflow import MlflowClient

    flags = [*small_flags(max_steps=10), "--team=local", "--log=mlflow", "--name=s", "--scheduler=fifo"]
    done = sparring("tune", "at", *flags, "--search.optim.lr=choice(0.1, 0.05)", "--sampler=grid")
    assert done.returncode == 0, done.stderr
    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("searches")
    assert experiment is not None
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"s", "000", "001"}
    for name in ("000", "001"):
        assert runs[name].data.tags["mlflow.parentRunId"] == runs["s"].info.run_id
    assert {r.info.status for r in runs.values()} == {"FINISHED"}
    assert runs["s"].data.params["search.optim.lr"].startswith("choice")
