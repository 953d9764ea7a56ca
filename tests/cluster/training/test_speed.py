"""What makes a run faster, from the command down: files are written beside the next step, the timeline, the way to the first step."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sparring.agents import checkpoint
from sparring.agents.endpoint import Endpoint
from sparring.agents.state import AgentState, NotFinite
from sparring.cluster.commands.main import main
from sparring.cluster.errors import NoResources, TrainingStopped
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.runs.run import Run
from sparring.cluster.team import assemble
from sparring.cluster.team.team import save_now
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.cluster.training.startup import Startup
from tests.helpers import bytes_of, small, small_flags


def test_files_are_written_while_the_next_step_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is what the step before left, however far the agent has come; loading waits for the writer."""
    config = small("at", team="local")
    may_write, real = threading.Event(), checkpoint.save

    def slow(*args: Any) -> dict[str, str]:
        assert may_write.wait(60)
        return real(*args)

    monkeypatch.setattr(checkpoint, "save", slow)
    with assemble.team_of(config) as team:
        pending = [team.submit(config.method, 0)]
        team.save(1, tmp_path / "slow")
        pending += [team.submit(config.method, 1)]
        losses = [team.collect(p, timeout=60)["model"].values["total"] for p in pending]
        assert losses[0] != losses[1]
        assert team.collect(team.written(1, wait=False), timeout=60) == {"model": None}
        assert not (tmp_path / "slow").exists()
        team.save(2, tmp_path / "later")
        may_write.set()
        slowly = team.collect(team.written(1, wait=True), timeout=60)
        later = team.collect(team.written(2, wait=True), timeout=60)
        assert later["model"]["model.safetensors"] != slowly["model"]["model.safetensors"]
    with assemble.team_of(config) as team:
        team.collect(team.submit(config.method, 0), timeout=60)
        assert save_now(team, 1, tmp_path / "at-once", timeout=60) == slowly
        may_write.clear()
        team.save(1, tmp_path / "abandoned")
        threading.Timer(0.3, may_write.set).start()
        team.restore(tmp_path / "slow", timeout=60)
        assert (tmp_path / "abandoned" / "model" / "state.json").exists()


@pytest.mark.parametrize("every", [4, 1])
def test_training_goes_on_while_a_disk_is_slow(every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps far beyond the window are done while a checkpoint is written; only the next checkpoint waits for it."""
    config = small("at", team="local", max_steps=8, **{"checkpoint.every": every})
    launch.train(config, runs_dir=tmp_path, name="quick", how=Circumstances(quiet=True))
    far, real, learn = threading.Event(), checkpoint.save, Endpoint.learn
    waited: list[bool] = []

    def slow(state: AgentState, *args: Any) -> dict[str, str]:
        if state.t == 1 if every == 1 else state.t == 4:
            waited.append(far.wait(1 if every == 1 else 60))
        return real(state, *args)

    def seen(endpoint: Endpoint, t: int, **others: Any) -> Any:
        if t == 7:
            far.set()
        return learn(endpoint, t, **others)

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(Endpoint, "learn", seen)
    launch.train(config, runs_dir=tmp_path, name="slow", how=Circumstances(quiet=True))
    assert waited == [every == 4]
    assert bytes_of(tmp_path / "slow") == bytes_of(tmp_path / "quick")


def test_no_step_is_taken_before_a_report_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search may pause or end the trial there."""
    learn, learnt, heard = Endpoint.learn, list[int](), list[tuple[int, int]]()

    def seen(endpoint: Endpoint, t: int, **others: Any) -> Any:
        learnt.append(t)
        return learn(endpoint, t, **others)

    monkeypatch.setattr(Endpoint, "learn", seen)
    how = Circumstances(True, reported=lambda t, accuracies: heard.append((t, len(learnt))) if accuracies else None)
    config = small("at", team="local", max_steps=8, **{"checkpoint.every": 4})
    launch.train(config, runs_dir=tmp_path, how=how)
    assert heard == [(4, 4), (8, 8)]  # nothing is compared before the first step


def test_what_is_being_written_is_kept_when_training_stops_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is NaN two steps after a checkpoint that a slow disk has not yet."""
    real, learn = checkpoint.save, Endpoint.learn

    def slow(state: AgentState, *args: Any) -> dict[str, str]:
        time.sleep(0.5 if state.t == 4 else 0)
        return real(state, *args)

    def seen(endpoint: Endpoint, t: int, **others: Any) -> Any:
        if t == 5:
            raise NotFinite("model", "total", t, float("nan"))
        return learn(endpoint, t, **others)

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(Endpoint, "learn", seen)
    config = small("at", team="local", max_steps=8, **{"checkpoint.every": 4})
    with pytest.raises(TrainingStopped, match=r"last good checkpoint is \S+step-000004\."):
        launch.train(config, runs_dir=tmp_path, name="run", how=Circumstances(quiet=True))
    assert RunFolder(tmp_path / "run").checkpoints.newest_whole() == (4, [])


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    config = small("at", team="local")
    (tmp_path / "file").touch()
    with assemble.team_of(config) as team, pytest.raises(NotADirectoryError):
        save_now(team, 0, tmp_path / "file" / "agents", timeout=60)


def test_trace_and_start(ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--trace on Ray: one row per agent, its calls in order without overlap; the way to the first step adds up."""
    flags = [*small_flags(peers=2, max_steps=12), "--trace", "--runs-dir", str(tmp_path), "--name", "run"]
    assert main(["train", "mat", *flags, "--no-report"]) == 0
    said = capsys.readouterr().err
    line = next(line for line in said.splitlines() if line.startswith("first step "))
    total, parts = float(line.split()[2]), line.partition("(")[2].rstrip(")").split(", ")
    assert [p.rpartition(" ")[0] for p in parts] == [
        "imports and settings",
        "images and weights",
        "agents",
        "first step",
    ]
    assert sum(float(p.rpartition(" ")[2]) for p in parts) == pytest.approx(total, abs=0.3)
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    rows = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    assert sorted(rows.values()) == ["peer0 (cpu)", "peer1 (cpu)"]
    for row in rows:
        bars = [e for e in events if e["ph"] == "X" and e["tid"] == row]
        assert {"craft", "answer", "learn", "exchange"} <= {e["name"] for e in bars}
        assert {e["cat"] for e in bars} == {"step 10"}
        assert all(a["ts"] + a["dur"] <= b["ts"] + 1e3 for a, b in pairwise(bars))  # two clocks
    assert all("spans" not in m for m in Run(tmp_path / "run").metrics)


def test_start_counts_from_the_process() -> None:
    ours, here = Startup.of_process(), Startup()
    for startup in (ours, here):
        startup.mark("all")
    assert float(str(ours).split()[2]) > float(str(here).split()[2])


def test_precision_is_part_of_the_computation(pooled: None, tmp_path: Path) -> None:
    """bfloat16 gives other numbers than float32, the same on both teams; TensorFloat-32 is nothing to a CPU."""

    def metrics(team: str, precision: str) -> Any:
        options = {"team": team, "precision": precision, "max_steps": 4}
        name = f"{team}-{precision}"
        return bytes_of(
            launch.train(small("mat", **options), runs_dir=tmp_path, name=name, how=Circumstances(quiet=True)).path
        )

    exact, lower = metrics("local", "fp32"), metrics("local", "bf16")
    assert lower == metrics("ray", "bf16")
    assert lower["metrics"] != exact["metrics"]
    assert metrics("local", "tf32")["metrics"] == exact["metrics"]


def test_too_large_a_batch_names_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from sparring.trainers import attacks

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(attacks, "gradient", full)
    with pytest.raises(NoResources, match=r"model ran out of memory \(cpu\) in craft of step 0.*--micro-batch 16"):
        launch.train(small("at", team="local"), runs_dir=tmp_path, name="run", how=Circumstances(quiet=True))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--micro-batch", "0"], "micro_batch = 0 must be >= 1"),
        (["--micro-batch", "8", "--optim.awp", "0.01"], "perturbation is that of a whole batch"),
        (["--precision", "fp16"], "fp32"),
    ],
)
def test_refusals(flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "at", *flags, "--runs-dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("slow", [True, False])
def test_imitated_bfloat16_is_said(slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "slow_bfloat16", lambda: slow)
    config = small("at", team="local", precision="bf16", max_steps=1)
    run = launch.train(config, runs_dir=tmp_path, name="run", how=Circumstances(quiet=True))
    assert ("no units for bfloat16" in (run.path / "log.txt").read_text()) is slow
