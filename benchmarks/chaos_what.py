"""What runs in a scenario: commands on digits of some seconds, and what can happen to each."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from chaos_bucket import Bucket, bucket
from chaos_bucket import possible as can_mirror
from chaos_faults import ENCODED_ON_HOSTS, MIRRORED, ON_HOSTS, ON_RAY, SERVING, TRAINING, WITH_LOADER
from chaos_hosts import Cluster, possible
from chaos_subject import COMMON, QUIET, SPARRING, Subject, alone, timed, training
from common import CLONE

from sparring.cluster.config import run_config
from sparring.cluster.config.recipes import recipe
from sparring.cluster.training import launch
from tests.helpers import bytes_of
from tests.serve.made import published

MOMENTS = ("uniform", "saving", "recovering")
LATE = 0.9  # of the undisturbed duration: what is drawn later would come too late


@dataclass(frozen=True)
class Kind:
    """What a subject is made of: faults that can happen to it, and how it is prepared in a folder."""

    faults: tuple[str, ...]
    make: Callable[[Path], Subject]


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
    name = "mat on hosts, encoded" if "data__root" in more else f"mat on hosts, {exchange}"
    return training(name, "mat", folder, cluster, **changes)


def encoded_on_hosts(folder: Path) -> Subject:
    """With images that every host decodes for itself."""
    return on_hosts(folder, "store", **images(folder / "hosts"))


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


def images(folder: Path) -> dict[str, Any]:
    """Settings of a run on images that stay encoded, which a loader decodes."""
    from sparring.trainers.encoded.generated import CLASSES, Generated

    root = folder / "images"
    for split, n in (("train", 300), ("test", CLASSES)):
        made = Generated(split, n, (48, 40))
        for i in range(n):
            there = root / split / f"c{i % CLASSES}"
            there.mkdir(parents=True, exist_ok=True)
            (there / f"{i:04}.jpg").write_bytes(made.read(i))
    own = {"name": "folder", "root": str(root), "encoded": True, "size": 16, "augment": "resized-crop"}
    return {f"data__{key}": value for key, value in own.items()} | {"loader__workers": 1, "batch_size": 32}


def encoded(folder: Path) -> Subject:
    """On one machine."""
    cache = str(folder / "cache")
    return training("mat, images that stay encoded", "mat", folder, data__cache=cache, **images(folder / "one"))


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
        lacking = sorted({name for name in here if name.startswith(newest)} - set(there))
        return bytes_of(place / "runs" / "a"), lacking, [n for n in here if n in there and there[n] != here[n]]

    return replace(
        plain, commands=commands, result=result, expected=lambda: (plain.expected(), [], []), usually=usually
    )


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
    "mat": Kind(TRAINING, lambda folder: training("mat", "mat", folder)),
    "mat direct": Kind(TRAINING, lambda folder: training("mat direct", "mat", folder, exchange="direct")),
    "mtard": Kind(TRAINING, lambda folder: training("mtard", "mtard", folder)),
    "peeraid direct": Kind(ON_RAY, lambda folder: training("peeraid direct", "peeraid", folder, exchange="direct")),
    "encoded": Kind(WITH_LOADER, encoded),
    "evaluate": Kind(ON_RAY, evaluating),
    **{
        f"hosts {exchange}": Kind(ON_HOSTS, lambda folder, exchange=exchange: on_hosts(folder, exchange))
        for exchange in ("store", "direct")
        if possible()
    },
    **({"hosts encoded": Kind(ENCODED_ON_HOSTS, encoded_on_hosts)} if possible() else {}),
    "tune": Kind(tuple(f for f in ON_RAY if f != "no memory"), searching),  # which is a trial's own failure
    "pretrain": Kind(ON_RAY, pretraining),
    "serve": Kind(SERVING, serving),
    **({"mirrored": Kind(MIRRORED, mirrored)} if can_mirror() else {}),
}


@cache
def made(name: str, folder: Path) -> Subject:
    """A subject in a folder that all scenarios share."""
    return SUBJECTS[name].make(folder)


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a scenario."""

    fault: str
    moment: str
    share: float  # of the undisturbed duration, before which it does not happen
    lasts: float  # seconds, of those that end again


def drawn(seed: int, names: list[str]) -> tuple[str, list[Planned]]:
    """What runs, and what happens to it."""
    draw = random.Random(seed)
    what = draw.choice(names)
    possible = SUBJECTS[what].faults
    count = draw.choice((1, 1, 2, 3))
    return what, [
        Planned(
            draw.choice(possible),
            draw.choice(MOMENTS if i else MOMENTS[:2]),
            draw.uniform(0.0, LATE),
            draw.uniform(0.5, 6.0),
        )
        for i in range(count)
    ]
