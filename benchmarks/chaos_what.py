"""What runs in a scenario: commands on digits of some seconds, and what they come to undisturbed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from chaos_bucket import Bucket, bucket
from chaos_bucket import possible as can_mirror
from chaos_faults import MIRRORED, ON_HOSTS, ON_RAY, SERVING, WITH_LOADER
from chaos_hosts import Cluster, possible
from common import CLONE

from sparring.cluster.config import run_config
from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.helpers import bytes_of
from tests.serve.made import published

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
class Kind:
    """What a subject is made of: faults that can happen to it, and how it is prepared in a folder."""

    faults: tuple[str, ...]
    make: Callable[[Path], Subject]


@dataclass(frozen=True)
class Subject:
    """A command that runs, and the same that goes on."""

    name: str
    commands: Callable[[Path, bool], list[str]]  # by folder, and whether it goes on
    result: Callable[[Path], Any]  # what is promised to be the same, by folder
    expected: Callable[[], Any]
    usually: Callable[[], float]
    cluster: Cluster | None = None  # where it does not bring a Ray of its own
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

    return Subject(name, commands, lambda place: bytes_of(place / "runs" / "a"), expected, usually, cluster)


@cache
def cluster_in(folder: Path) -> Cluster:
    """One for all scenarios."""
    return Cluster(folder / "cache-of-hosts")


def on_hosts(folder: Path, exchange: str, **more: Any) -> Subject:
    """Two peers, each on a host of its own."""
    cluster = cluster_in(folder)
    spread = {
        "placement__strategy": "STRICT_SPREAD",
        "placement__cpus_per_agent": 1,
        "placement__gpus_per_agent": 0,
        "placement__replacement": 90.0,
    }
    changes = {**spread, "data__cache": str(cluster.cache), "exchange": exchange, **more}
    return training(f"mat on hosts, {exchange}", "mat", folder, cluster, **changes)


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


def evaluating(folder: Path, *asked: str) -> Subject:
    """By two workers, AutoAttack where nothing else is asked."""
    asked = asked or ("--attacks=clean,pgd-20,autoattack", "--examples=160")
    home = folder / "undisturbed"

    @cache
    def trained() -> Path:
        config = recipe("mat").replace({**COMMON, "team": "local"})
        return launch.train(config, runs_dir=home, name="to-evaluate", how=QUIET).path

    def commands(place: Path, again: bool) -> list[str]:
        run = place / "runs" / "a"
        if not run.exists():
            shutil.copytree(trained(), run)
        return [*SPARRING, "evaluate", str(run), *asked, "--workers=2", "--name=e", "--quiet"]

    def result(place: Path) -> Any:
        report = json.loads((place / "runs" / "a" / "evaluation" / "e" / "report.json").read_text())
        return report["agents"], report["blocks"]

    return alone("evaluate", folder, commands, result)


def searching(folder: Path) -> Subject:
    """Four trials, two at a time."""

    def commands(place: Path, again: bool) -> list[str]:
        file = place / "config.yaml"
        if not file.exists():
            file.write_text(run_config.dump(recipe("at").replace({**COMMON, "max_steps": 30})))
        asked = ["--trials=4", "--scheduler=fifo", "--search.optim.lr=loguniform(0.01,0.3)", "--concurrent=2"]
        where = ["--runs-dir", str(place / "runs"), "--name", "a", "--resume-if-exists", "--quiet"]
        return [*SPARRING, "tune", "-c", str(file), *asked, *where]

    def result(place: Path) -> Any:
        return [bytes_of(trial) for trial in sorted((place / "runs" / "a" / "trials").iterdir())]

    return alone("tune", folder, commands, result)


def pretraining(folder: Path) -> Subject:
    """Two workers of Ray Train."""

    def commands(place: Path, again: bool) -> list[str]:
        file = place / "config.yaml"
        if not file.exists():
            file.write_text(run_config.dump(recipe("at").replace(COMMON)))
        where = ["--runs-dir", str(place / "runs"), "--models-dir", str(place / "models"), "--name", "a"]
        return [*SPARRING, "pretrain", "-c", str(file), "--workers=2", *where, "--resume-if-exists", "--quiet"]

    return alone("pretrain", folder, commands, lambda place: bytes_of(place / "runs" / "a"))


def encoded(folder: Path) -> Subject:
    """A run on images that stay encoded, which a loader decodes."""
    from sparring.trainers.encoded.generated import CLASSES, Generated

    root = folder / "images"
    for split, n in (("train", 300), ("test", CLASSES)):
        images = Generated(split, n, (48, 40))
        for i in range(n):
            there = root / split / f"c{i % CLASSES}"
            there.mkdir(parents=True, exist_ok=True)
            (there / f"{i:04}.jpg").write_bytes(images.read(i))
    own = {"name": "folder", "root": str(root), "cache": str(folder / "cache"), "encoded": True, "size": 16}
    changes = {f"data__{key}": value for key, value in own.items()} | {"data__augment": "resized-crop"}
    return training("mat, images that stay encoded", "mat", folder, **changes, loader__workers=1, batch_size=32)


def mirrored(folder: Path) -> Subject:
    """A run whose checkpoints are copied to a bucket."""
    bucket()
    plain = training("mirrored", "mat", folder)

    def commands(place: Path, again: bool) -> list[str]:
        return [*plain.commands(place, again), "--mirror", Bucket.uri(place)]

    def usually() -> float:
        return timed(commands, folder / "undisturbed" / "timed-with-mirror")

    def result(place: Path) -> Any:
        kept = place / "runs" / "a" / "checkpoints"
        here = {str(p.relative_to(kept)): p.read_bytes() for p in kept.glob("step-*/**/*") if p.is_file()}
        there = Bucket.content(place)
        newest = max(name.partition("/")[0] for name in here)
        copied = {name for name in here if name.startswith(newest)} <= set(there)
        return bytes_of(place / "runs" / "a"), copied and all(there[n] == here[n] for n in here if n in there)

    return replace(plain, commands=commands, result=result, expected=lambda: (plain.expected(), True), usually=usually)


def serving(folder: Path, *asked: str) -> Subject:
    """Two predictors under load."""
    models = folder / "models"
    published(models / "m")

    def commands(place: Path, again: bool) -> list[str]:
        script = [sys.executable, str(CLONE / "benchmarks" / "chaos_serving.py")]
        return [*script, str(models), str(place / "runs" / "a" / "answers.json"), *asked]

    def result(place: Path) -> Any:
        return json.loads((place / "runs" / "a" / "answers.json").read_text())

    return replace(alone("serve", folder, commands, result), within="sparring.py serve")


SUBJECTS: Mapping[str, Kind] = {
    "mat": Kind(ON_RAY, lambda folder: training("mat", "mat", folder)),
    "mat direct": Kind(ON_RAY, lambda folder: training("mat direct", "mat", folder, exchange="direct")),
    "mtard": Kind(ON_RAY, lambda folder: training("mtard", "mtard", folder)),
    "peeraid direct": Kind(ON_RAY, lambda folder: training("peeraid direct", "peeraid", folder, exchange="direct")),
    "encoded": Kind(WITH_LOADER, encoded),
    "evaluate": Kind(ON_RAY, evaluating),
    **{
        f"hosts {exchange}": Kind(ON_HOSTS, lambda folder, exchange=exchange: on_hosts(folder, exchange))
        for exchange in ("store", "direct")
        if possible()
    },
    "tune": Kind(tuple(f for f in ON_RAY if f != "no memory"), searching),  # which is a trial's own failure
    "pretrain": Kind(ON_RAY, pretraining),
    "serve": Kind(SERVING, serving),
    **({"mirrored": Kind(MIRRORED, mirrored)} if can_mirror() else {}),
}


@cache
def made(name: str, folder: Path) -> Subject:
    """A subject in a folder that all scenarios share."""
    return SUBJECTS[name].make(folder)
