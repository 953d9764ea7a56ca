"""``sparring report``: a run's own page, or several runs on one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import write
from sparring.cluster.errors import Exists, UsageError, disk
from sparring.cluster.evaluation.analysis import Say, silent
from sparring.cluster.reports import page as pages
from sparring.cluster.runs import remote
from sparring.cluster.runs.folder import RunFolder


def report(
    runs: Sequence[Path | str],
    *,
    examples: int | None = None,
    checkpoint: str = "best",
    out: Path | None = None,
    say: Say = silent,
    looking: float = 0.0,
) -> dict[str, Any]:
    """Make each run's report.json and report.html, and for several runs one page side by side.

    Args:
        runs: folders, or URIs of mirrored runs; the page of one of these lies in its local copy.
        examples, checkpoint, looking: see :func:`analysis.analyse`.

    Raises:
        UsageError: no run named, or not a run.
        Exists: the page for several runs is there and was not made by this command.
    """
    if not runs:
        raise UsageError("report needs at least one run: sparring report runs/NAME. List runs with: sparring runs")
    folders = [RunFolder.open(Path(remote.local(str(run)))) for run in runs]
    for line in [line for folder in folders for line in folder.changed_code()]:
        say(line)
    asked: dict[str, Any] = {"examples": examples, "checkpoint": checkpoint, "say": say, "looking": looking}
    made = [pages.make(folder, **asked) for folder in folders]
    if len(folders) == 1 and out is None:
        return {"report": str(made[0])}
    target = out or Path("report.html")
    if target.exists() and b"<title>Sparring report: " not in target.read_bytes():
        raise Exists(f"{target} exists and is not a report; choose another --out")
    write(target, pages.page(folders).encode())
    return {"report": str(target.resolve())}


def of_finished(run: Path, say: Say) -> str:
    """Make the page of a run that has just ended; its path."""
    folder = RunFolder(run)
    looking = folder.config.checkpoint.looking  # 0 in runs from before there was a budget
    with disk(lambda: ("The run is whole, its report is not", f"sparring report {folder}")):
        return str(report([run], say=say, looking=looking)["report"])
