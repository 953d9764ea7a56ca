"""What a run notes beside its checkpoints: env.json, and .jsonl files with a line per step. A power failure can leave zeros.

Whoever shows them is told which file and line cannot be read; whoever goes on with the run sets them aside and says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparring.cluster.errors import BrokenCheckpoint
from sparring.cluster.terminal import relative
from sparring.trainers.files import write

ENV = "env.json"


def environment(run: Path) -> dict[str, Any]:
    """env.json; empty before the run has begun.

    Raises:
        BrokenCheckpoint: it cannot be read.
    """
    path = run / ENV
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise BrokenCheckpoint(_unreadable(path, str(error), run)) from error
    if not isinstance(found, dict) or not isinstance(found.get("agents"), dict):
        raise BrokenCheckpoint(_unreadable(path, "it has no agents", run))
    return found


def set_aside(run: Path) -> list[str]:
    """Move an env.json that cannot be read out of the way; what is said of it."""
    try:
        environment(run)
    except BrokenCheckpoint:
        (run / ENV).rename(run / f"{ENV}.damaged")
        return [f"{ENV} cannot be read and is written anew; the old one is {ENV}.damaged"]
    return []


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    """Lines of a .jsonl file. A last one that a crash cut off is left out.

    Raises:
        BrokenCheckpoint: another cannot be read; names it.
    """
    found = []
    for number, line in enumerate(_raw(run / name), 1):
        entry = _parsed(line)
        if entry is None:
            raise BrokenCheckpoint(_unreadable(run / name, f"line {number} is {line[:20]!r}", run))
        found.append(entry)
    return found


def rewind(run: Path, name: str, keep: Callable[[dict[str, Any]], bool]) -> list[str]:
    """Write a .jsonl file anew without the lines that are not to be kept, nor those that cannot be read; what is said of these."""
    entries = [(number, line, _parsed(line)) for number, line in enumerate(_raw(run / name), 1)]
    write(run / name, b"".join(line + b"\n" for _, line, entry in entries if entry is not None and keep(entry)))
    damaged = [str(number) for number, _, entry in entries if entry is None]
    return [f"{name}: line {', '.join(damaged)} cannot be read and is left out"] if damaged else []


def complete(run: Path, name: str, wanted: list[dict[str, Any]]) -> None:
    """Add the lines of a step to a .jsonl file of agents that have none of that step."""
    known = _raw(run / name)
    there = {(entry["t"], entry.get("agent")) for entry in map(_parsed, known) if entry is not None}
    missing = [line for line in wanted if (line["t"], line["agent"]) not in there]
    if missing:
        write(run / name, b"".join(line + b"\n" for line in [*known, *(json.dumps(m).encode() for m in missing)]))


def _raw(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("t"), int) else None


def _unreadable(path: Path, why: str, run: Path) -> str:
    return f"{relative(path)} cannot be read: {why}. Go on with the run, which sets it aside: sparring resume {relative(run)}"
