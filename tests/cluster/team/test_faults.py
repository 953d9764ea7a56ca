"""Lost processes: whatever dies and whenever, the run ends in the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.errors import Infrastructure
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.team.ray_team import RayTeam
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.helpers import CLONE, PATIENCE, bytes_of, small, small_flags, started

OPTIONS: dict[str, Any] = {"max_steps": 40, "attack__steps": 7, "batch_size": 64, "network": "small_cnn:width=8"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The bytes that every disturbed run must end in."""
    run = launch.train(
        small("mat", team="local", **OPTIONS), runs_dir=tmp_path_factory.mktemp("runs"), how=Circumstances(quiet=True)
    )
    return bytes_of(run.path)


def when(condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Act once, from a thread, as soon as a condition holds."""

    def watch() -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if condition():
                act()
                return
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def recorded(run: Path) -> int:
    """Steps recorded so far."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") // 2 if path.exists() else 0


def actor_pid(run: Path, agent: str) -> int:
    return int(json.loads((run / "env.json").read_text())["agents"][agent]["pid"])


@pytest.mark.parametrize("exchange", ["store", "direct"])
@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(
            {10: (signal.SIGKILL, ["peer1"]), 20: (signal.SIGSTOP, ["peer0"])},
            id="killed-then-hung",
            marks=pytest.mark.soak,
        ),
        pytest.param({10: (signal.SIGKILL, ["peer0", "peer1"])}, id="both-killed", marks=pytest.mark.soak),
    ],
)
def test_lost_actor(
    losses: dict[int, tuple[int, list[str]]],
    exchange: str,
    ray_session: str,
    tmp_path: Path,
    undisturbed: dict[str, Any],
) -> None:
    """Once a step is committed, agents are lost; those that hang are so for the call's timeout."""
    run = tmp_path / "run"
    watchers = []
    for step, (sent, agents) in losses.items():
        committed = run / "checkpoints" / f"step-{step:06d}" / "COMMITTED"
        watchers.append(when(committed.exists, partial(lose, run, agents, sent)))
    config = small("mat", call_timeout=8.0, exchange=exchange, **OPTIONS)
    launch.train(config, runs_dir=tmp_path, name="run", how=Circumstances(quiet=True))
    for watcher in watchers:
        watcher.join()
    log = (run / "log.txt").read_text()
    assert log.count("lost: ") >= len(losses)
    for step in losses:
        assert f"every agent at step {step} again" in log
    assert bytes_of(run) == undisturbed


def lose(run: Path, agents: list[str], sent: int) -> None:
    for agent in agents:
        os.kill(actor_pid(run, agent), sent)


@pytest.mark.soak
def test_lost_before_the_first_checkpoint(
    ray_session: str, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to go back to: all agents are made anew."""
    run, real = tmp_path / "run", RayTeam.save
    killed: list[int] = []

    def save(team: RayTeam, t: int, folder: Path) -> Any:
        if not killed:
            killed.append(team.describe()["peer0"].pid)
            os.kill(killed[0], signal.SIGKILL)
        return real(team, t, folder)

    monkeypatch.setattr(RayTeam, "save", save)
    launch.train(small("mat", **OPTIONS), runs_dir=tmp_path, name="run", how=Circumstances(quiet=True))
    assert "every agent at step 0 again" in (run / "log.txt").read_text()
    assert actor_pid(run, "peer0") != killed[0]
    assert bytes_of(run) == undisturbed


@pytest.mark.soak
def test_gives_up_after_max_failures_and_can_be_resumed(
    ray_session: str, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    watcher = when(lambda: recorded(run) >= 7, lambda: os.kill(actor_pid(run, "peer0"), signal.SIGKILL))
    with pytest.raises(Infrastructure, match=r"gave up after 0 recoveries.*ActorDiedError.*sparring resume"):
        launch.train(
            small("mat", max_failures=0, **OPTIONS), runs_dir=tmp_path, name="run", how=Circumstances(quiet=True)
        )
    watcher.join()
    launch.resume(run, how=Circumstances(quiet=True))
    assert bytes_of(run) == undisturbed


def start(run: Path, **options: Any) -> subprocess.Popen[str]:
    """A driver of its own with a Ray of its own."""
    flags = small_flags(**(OPTIONS | options))
    command = [
        sys.executable,
        "-m",
        "sparring.cluster",
        "train",
        "mat",
        *flags,
        f"--runs-dir={run.parent}",
        f"--name={run.name}",
        "--no-report",
    ]
    return started(command, cwd=CLONE, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def saving(run: Path, t: int) -> bool:
    """An agent's weights of step ``t`` are on disk and its folder is not yet committed."""
    return any((run / "checkpoints").glob(f"step-{t:06d}.*.tmp/agents/*/*"))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "before-the-first-checkpoint": lambda run: (run / "env.json").exists(),
    "in-a-step": lambda run: recorded(run) >= 17,
    "during-a-save": lambda run: saving(run, 15),
    "just-committed": lambda run: (run / "checkpoints" / "step-000020" / "COMMITTED").exists(),
}


@pytest.mark.soak
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_driver(
    moment: str, pooled: None, ray_session: str, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """kill -9 of the driver, then resume. One of the drivers brings a Ray of its own, the others attach to this one."""
    run = tmp_path / "run"
    for attempt in range(5):
        own = moment == "before-the-first-checkpoint"
        driver = start(run, **({} if own else {"address": ray_session}))
        when(partial(MOMENTS[moment], run), driver.kill).join()
        assert driver.wait(timeout=PATIENCE) == -signal.SIGKILL
        unfinished = list(run.glob("checkpoints/*.tmp"))
        if moment != "during-a-save" or unfinished:
            break
        run = tmp_path / f"run{attempt}"  # the save ended before the signal came: once more
    else:
        pytest.fail("no driver could be killed during a save")
    launch.go_on(RunFolder(run), RunFolder(run).config.replace({"address": None}), Circumstances(quiet=True))
    assert bytes_of(run) == undisturbed
    assert not (run / "run.lock").exists()
    assert not list(run.glob("checkpoints/*.tmp"))


def test_interrupted_twice_in_one_process(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """LocalTeam: a signal between steps saves and stops; resumed from every stop, the bytes are the same."""
    from sparring.cluster.errors import Interrupted

    run = tmp_path / "run"
    config = small("mat", team="local", **OPTIONS)
    begin = partial(launch.train, config, runs_dir=tmp_path, name="run", how=Circumstances(quiet=True))
    for seen, go in ((4, begin), (21, partial(launch.resume, run, how=Circumstances(quiet=True)))):
        watcher = when(lambda seen=seen: recorded(run) >= seen, lambda: os.kill(os.getpid(), signal.SIGTERM))  # type: ignore[misc]
        with pytest.raises(Interrupted, match=r"stopped after step \d+ of 40, which is saved; .*: sparring resume"):
            go()
        watcher.join()
        assert RunFolder(run).checkpoints.committed()[-1] >= seen
    launch.resume(run, how=Circumstances(quiet=True))
    assert bytes_of(run) == undisturbed  # the stops themselves offered no candidate for best
