"""What a person sees while a run trains."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training.job import Circumstances, Job
from sparring.cluster.training.live import LiveView, split
from sparring.cluster.training.progress import ESTIMATE_AFTER, Progress
from sparring.trainers.types import Metrics
from tests.helpers import CLONE, small, small_flags

SECONDS = {"craft": 0.6, "answer": 0.1, "learn": 0.2, "exchange": 0.0001, "idle": 0.1}


def test_live_rows() -> None:
    """One row per agent, frozen ones too; terms, accuracies, images per second and where the time went."""
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    view = LiveView(console, total=100)
    metrics = {
        "student": Metrics({"hard": 1.25, "soft": 0.5, "robust_accuracy": 0.625, "total": 1.75, "lr": 0.1}, 0, SECONDS),
        "teacher": Metrics({}, 10, {"answer": 0.25, "idle": 0.75}),
    }
    console.print(view.render(9, metrics, epoch="epoch 1/4", per_second=1234, eta="5s"))
    view.close()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "student",
        "teacher",
        "1.75",
        "1.25",
        "62.5%",
        "1,234",
        "craft 60%",
        "idle 75%",
        "step 10/100",
        "epoch 1/4",
        "eta 5s",
    ):
        assert part in text, part
    assert "lr" not in text
    assert split(SECONDS) == "craft 60% answer 10% learn 20% idle 10%"


def in_terminal(tmp_path: Path, **env: str) -> str:
    """The command's output in a terminal of its own."""
    main, side = pty.openpty()
    command = [
        sys.executable,
        str(CLONE / "sparring.py"),
        "train",
        "at",
        *small_flags(max_steps=25),
        "--team=local",
        "--no-report",
    ]
    environment = (
        {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
        | {"TERM": "xterm", "COLUMNS": "140"}
        | env
    )
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=side, env=environment)
    os.close(side)
    seen = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(main)
    assert process.wait() == 0
    return seen.decode()


def test_live_in_a_terminal(tmp_path: Path) -> None:
    live = in_terminal(tmp_path)
    assert "\x1b[" in live
    assert "images/s" in live
    assert "step 25/25" in live
    assert "estimate: " in live


@pytest.mark.soak
def test_plain_without_colour(tmp_path: Path) -> None:
    plain = in_terminal(tmp_path, NO_COLOR="1")
    assert "\x1b[" not in plain
    assert "\n  model  hard " in plain
    assert "GiB per agent" in plain
    assert "MiB per checkpoint" in plain


def job(folder: Path) -> Job:
    return Job(RunFolder(folder), small("at", batch_size=8), Circumstances(quiet=True), None, (), {})


def test_lines_average_what_was_since_the_last_one(tmp_path: Path) -> None:
    """The mean of all steps in between; a term that begins late is averaged over the steps that have it."""
    progress = Progress(job(tmp_path), total=3, steps_per_epoch=1)
    for t, values in enumerate(({"hard": 1.0}, {"hard": 2.0, "self": 4.0}, {"hard": 6.0, "self": 8.0})):
        progress.step(t, {"student": Metrics({**values, "lr": 0.1}, 0, {})})
    progress.close()
    log = (tmp_path / "log.txt").read_text()
    assert "step 3/3, means of 3 steps, eta 0s" in log
    assert "student  hard 3  self 6\n" in log


def test_the_estimate_passes_over_a_checkpoint_that_is_being_written(tmp_path: Path) -> None:
    """Its files vanish while they are looked at, here for good: a link to nowhere."""
    done, writing = (tmp_path / f"checkpoints/{name}/agents/peer0" for name in ("step-000000", "step-000010.1a2b.tmp"))
    for folder in (done, writing):
        folder.mkdir(parents=True)
    (done / "model.safetensors").write_bytes(bytes(2**20))
    (done.parents[1] / "COMMITTED").touch()
    (writing / "model.safetensors").symlink_to(tmp_path / "nowhere")
    progress = Progress(job(tmp_path), total=100, steps_per_epoch=10)
    for t in range(ESTIMATE_AFTER):
        progress.step(t, {"peer0": Metrics({"hard": 1.0}, 0, {})})
    progress.close()
    assert "; 1.0 MiB per checkpoint" in (tmp_path / "log.txt").read_text()
