"""A run's folder: never overwritten, locked, its metrics rewound."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sparring.cluster.errors import Exists, UsageError
from sparring.cluster.runs import lock as lock_module
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.runs.lock import STALE, is_running
from tests.conftest import Command
from tests.helpers import CLONE, small, small_flags


def test_names(tmp_path: Path) -> None:
    config = small("mat")
    names = [RunFolder.create(tmp_path, None, config).path.name for _ in range(3)]
    assert names == ["mat-digits-1", "mat-digits-2", "mat-digits-3"]
    assert RunFolder.create(tmp_path, "mine", config).config == config
    with pytest.raises(Exists, match=r"mine exists and is never overwritten.*--resume-if-exists.*sparring resume"):
        RunFolder.create(tmp_path, "mine", config)
    for bad in ("../x", "", ".hidden", "a/b", "a b"):
        if bad:
            with pytest.raises(UsageError, match="is not allowed"):
                RunFolder.create(tmp_path, bad, config)


def test_not_a_run_lists_the_runs(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "good", small("mat"))
    with pytest.raises(UsageError, match=r"is not a run.*runs in .*: good"):
        RunFolder.open(tmp_path / "goood")


def test_lock_names_its_holder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "a", small("mat"))
    with folder.locked(), pytest.raises(Exists, match=rf"locked by process {os.getpid()} on {socket.gethostname()}"):
        folder.locked().__enter__()
    with folder.locked():  # given back
        pass


HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from sparring.cluster.runs import lock as lock_module
from sparring.cluster.runs.folder import RunFolder
with RunFolder(Path(sys.argv[2])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "a", small("mat"))
    command = [sys.executable, "-c", HOLD, str(CLONE), str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert is_running(folder.path)
        with pytest.raises(Exists, match=f"locked by process {other.pid} on {socket.gethostname()}"):
            folder.locked().__enter__()
        other.kill()
        other.wait()
    assert (folder.path / "run.lock").exists()
    assert not is_running(folder.path)
    with folder.locked():
        assert is_running(folder.path)
    assert not (folder.path / "run.lock").exists()


def test_only_one_of_many_takes_over_a_dead_lock(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "a", small("mat"))
    for _ in range(5):
        (folder.path / "run.lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 1}))
        held, barrier = [], threading.Barrier(8)

        def take(held: list[int] = held, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                with folder.locked():
                    held.append(1)
                    time.sleep(1)
            except Exists:
                pass

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) == 1


def test_lock_of_another_host_counts_until_it_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT", 0.2)
    folder = RunFolder.create(tmp_path, "a", small("mat"))
    lock = folder.path / "run.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with pytest.raises(Exists, match="on elsewhere"):
        folder.locked().__enter__()
    old = time.time() - STALE - 5
    os.utime(lock, (old, old))
    with folder.locked():
        pass


def test_metrics_are_rewound_and_a_cut_line_is_dropped(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "a", small("mat"))
    lines = [json.dumps({"t": t, "agent": "x"}) for t in range(5)]
    (folder.path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"t": 5, "ag')
    assert [m["t"] for m in folder.metrics()] == [0, 1, 2, 3, 4]
    folder.rewind_metrics(3)
    assert [m["t"] for m in folder.metrics()] == [0, 1, 2]


def test_a_submitted_job_needs_an_absolute_folder(
    sparring: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    flags = [*small_flags(max_steps=1), "--team=local", "--no-report", "--name=a"]
    done = sparring("train", "at", *flags)
    assert done.returncode == 2
    assert "--runs-dir runs is relative: under 'ray job submit'" in done.stderr
    assert not (tmp_path / "runs").exists()
    assert sparring("train", "at", *flags, f"--runs-dir={tmp_path / 'kept'}").returncode == 0
