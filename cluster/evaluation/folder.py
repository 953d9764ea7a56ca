"""The folder of an evaluation: claimed once, continued by the same settings, its blocks, its progress."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.agents.checkpoint import to_json, write
from sparring.cluster.errors import Exists, UsageError
from sparring.cluster.evaluation.attacking import Job
from sparring.cluster.evaluation.block import read
from sparring.cluster.runs.folder import NAME
from sparring.trainers.config import Threat


def claim(owner: Path, name: str | None, settings: Mapping[str, Any]) -> Path:
    """A folder for this evaluation: a new one, or an unfinished one of the same settings, which then goes on.

    Raises:
        Exists: the name is taken by a finished evaluation or by one of other settings.
    """
    base = owner / "evaluation"
    base.mkdir(exist_ok=True)
    if name is not None and not NAME.fullmatch(name):
        raise UsageError(f"--name {name!r} is not allowed; use letters, digits, '.', '_' and '-'")
    content = to_json(settings)
    if name is None:
        for path in sorted(base.glob("*/settings.json")):
            if (
                path.parent.name.isdigit()
                and not (path.parent / "report.json").exists()
                and path.read_bytes() == content
            ):
                return path.parent
    while True:
        taken = [int(p.name) for p in base.glob("*") if p.name.isdigit()]
        target = base / (name or str(max(taken, default=0) + 1))
        try:
            target.mkdir()
        except FileExistsError:
            if name is None:
                continue
            known = target / "settings.json"
            if known.exists() and known.read_bytes() == content and not (target / "report.json").exists():
                return target
            raise Exists(
                f"evaluation {target} exists and is never overwritten{_difference(known, settings)}; choose another --name"
            ) from None
        write(target / "settings.json", content)
        return target


def _difference(path: Path, settings: Mapping[str, Any]) -> str:
    if not path.exists():
        return ""
    before = json.loads(path.read_bytes())
    differing = [k for k in settings if before.get(k) != json.loads(to_json(settings[k]))]
    return f" (other {', '.join(differing)})" if differing else " (finished)"


def jobs_of(target: Path, agents: Sequence[str], threats: Sequence[Threat], n: int, size: int) -> list[Job]:
    """Every block of an evaluation."""
    jobs = []
    for agent in agents:
        for threat in threats:
            folder = target / "blocks" / agent / str(threat).replace(":", "-")
            folder.mkdir(parents=True, exist_ok=True)
            for index, start in enumerate(range(0, n, size)):
                path = folder / f"block-{index:04d}.parquet"
                jobs.append(Job(path, start, min(start + size, n), index, agent, threat))
    return jobs


def read_all(jobs: Sequence[Job]) -> dict[str, Tensor]:
    """The columns of consecutive blocks, without witnesses."""
    parts = [read(job.path) for job in jobs]
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0] if isinstance(parts[0][k], Tensor)}


class Meter:
    """Says how far an evaluation is: after the first block, then at most every five seconds."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self.total, self.say, self.finished = total, say, 0
        self.started = self.said = time.monotonic()

    def done(self, job: Job, seconds: Mapping[str, float]) -> None:
        self.finished += 1
        now = time.monotonic()
        if self.finished == 1 or now - self.said > 5 or self.finished == self.total:
            self.said = now
            left = (now - self.started) / self.finished * (self.total - self.finished)
            parts = ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())
            self.say(f"{job.agent} {job.threat}: {self.finished} of {self.total} blocks, {left:.0f} s to go ({parts})")
