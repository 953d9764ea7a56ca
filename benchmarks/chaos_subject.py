"""A command of a scenario, by what it is held against: a run in a single process, or itself undisturbed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from chaos_hosts import Cluster
from common import CLONE

from sparring.cluster.config import run_config
from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.helpers import bytes_of

SPARRING = [sys.executable, str(CLONE / "sparring.py")]
QUIET = Circumstances(quiet=True)
COMMON: dict[str, Any] = {
    "network": "small_cnn:width=8",
    "batch_size": 64,
    "attack.steps": 5,
    "max_steps": 60,
    "checkpoint.every": 10,
    "checkpoint.attack_steps": 2,
    "placement.cpus_per_agent": 0.5,
    "call_timeout": 20.0,
}


@dataclass(frozen=True)
class Subject:
    """A command that runs, and the same that goes on."""

    name: str
    commands: Callable[[Path, bool], list[str]]  # by folder, and whether it goes on
    result: Callable[[Path], Any]  # what is promised to be the same, by folder
    expected: Callable[[], Any]
    usually: Callable[[], float]
    cluster: Cluster | None = None  # where it does not bring a Ray of its own
    images: Path | None = None  # that it reads anew
    within: str = ""  # words of the process of ``sparring``, where the command starts that

    def run(self, place: Path) -> Path:
        """Where it writes."""
        return place / "runs" / "a"

    def command(self, place: Path, *, again: bool) -> list[str]:
        """As a person types it."""
        return self.commands(place, again)

    def undisturbed(self) -> tuple[Any, float]:
        """What it comes to by itself, and in how many seconds."""
        return self.expected(), self.usually()


def training(name: str, method: str, folder: Path, cluster: Cluster | None = None, **changes: Any) -> Subject:
    """A run on a Ray of its own or on hosts, held against one in a single process."""
    home, of_run = folder / "undisturbed", re.sub("[^a-z]+", "-", name)

    @cache
    def config() -> RunConfig:
        values = COMMON | {key.replace("__", "."): value for key, value in changes.items()}
        if method == "mtard":
            teacher = home / "teacher"
            if not teacher.exists():
                alone = recipe("at").replace({**COMMON, "team": "local", "max_steps": 5})
                launch.train(alone, runs_dir=home, name="teacher", how=QUIET)
            values |= {f"agents.{role}.init": str(teacher) for role in ("clean_teacher", "robust_teacher")}
        return recipe(method).replace(values)

    @cache
    def expected() -> Any:
        plain = {"team": "local", "exchange": "store"}
        return bytes_of(launch.train(config().replace(plain), runs_dir=home, name=of_run, how=QUIET).path)

    def commands(place: Path, again: bool) -> list[str]:
        file = place / "config.yaml"
        if not file.exists():
            file.write_text(run_config.dump(config()))
        train = [*SPARRING, "train", "-c", str(file), "--runs-dir", str(place / "runs"), "--name", "a"]
        train += ["--resume-if-exists", "--no-report", "--quiet"]
        return train if cluster is None else cluster.on_head([*train, "--wait=60"])

    def usually() -> float:
        return timed(commands, home / f"timed-{name}")

    images = Path(changes["data__root"]) if "data__root" in changes else None
    return Subject(name, commands, lambda place: bytes_of(place / "runs" / "a"), expected, usually, cluster, images)


@cache
def timed(commands: Callable[[Path, bool], list[str]], place: Path) -> float:
    """Seconds of a command that nothing happens to."""
    place.mkdir(parents=True)
    command = commands(place, False)  # which starts hosts, and tells their token to this process
    began = time.monotonic()
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, cwd=place, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"undisturbed: exit {done.returncode}: {done.stderr[-1000:]}")
    return time.monotonic() - began


def alone(
    name: str, folder: Path, commands: Callable[[Path, bool], list[str]], result: Callable[[Path], Any]
) -> Subject:
    """A command that is held against itself, undisturbed."""
    place = folder / "undisturbed" / f"whole-{name}"

    def usually() -> float:
        return timed(commands, place)

    def expected() -> Any:
        usually()
        return result(place)

    return Subject(name, commands, result, expected, usually)
