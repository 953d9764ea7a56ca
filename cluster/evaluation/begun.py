"""An evaluation that has begun: everything that its numbers depend on, gathered once and checked before the first attack."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparring.agents.checkpoint import to_json, write
from sparring.agents.robustness import Lenient
from sparring.cluster.errors import DataError, Exists, UsageError
from sparring.cluster.evaluation.attacking import Job, jobs_of
from sparring.cluster.evaluation.direct import block_for, canonical, once, parse_attacks
from sparring.cluster.evaluation.subjects import check
from sparring.cluster.models.examples import LISTED, Examples, Listed, Taken, Which, take
from sparring.cluster.models.resolve import single
from sparring.cluster.models.target import Elsewhere, Target
from sparring.cluster.runs.folder import NAME
from sparring.trainers.config import Threat
from sparring.trainers.data import Split

LIST = "examples.txt"  # in the folder of an evaluation of images that a list names: the list
FORMAT = 2  # 1, until version 0.1: the first test images of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an evaluation is to do."""

    attacks: Sequence[str]  # named_attacks.py; with or without clean
    threats: Sequence[str] = ()  # NORM:EPS; the target's own when empty. The worst case over several is their union
    examples: Which = None  # which test images
    name: str | None = None  # of the evaluation; the next number when None
    cross: bool = False  # add the accuracy of every network on the examples crafted on every other
    corruption_root: Path | None = (
        None  # corrupted test images (trainers/datasets/corruptions.py); adds the accuracy under each
    )
    allow_other_images: bool = False  # also when the test images are not those of the run's start
    workers: int = 0  # Ray actors that attack blocks at the same time; 0: this process
    block: int | None = None  # examples per block; by the size of the images when None
    masking: int = 256  # examples on which signs of masked gradients are looked for; 0: none
    nan_is_wrong: bool = False  # answers that are no numbers count as wrong, instead of ending the evaluation

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacks", tuple(map(canonical, self.attacks)))


@dataclass(frozen=True, slots=True)
class Begun:
    """An evaluation with its folder claimed."""

    target: Target
    asked: Asked
    threats: tuple[Threat, ...]
    attacks: tuple[str, ...]  # without clean
    taken: Taken
    models: dict[str, nn.Module]  # by agent, on their device
    sources: dict[str, nn.Module]  # on which transfer attacks craft
    place: Path  # the evaluation's folder
    jobs: tuple[Job, ...]  # every block

    @property
    def split(self) -> Split:
        """The test images."""
        return self.taken.split

    def kept(self) -> tuple[str, str]:
        """What is not lost when the disk is full, and the command that goes on."""
        done = sum(job.path.exists() for job in self.jobs)
        return f"{done} of {len(self.jobs)} blocks of the evaluation are in {self.place}", "the same command again"

    def jobs_of(self, agent: str, threat: Threat) -> list[Job]:
        """The blocks of one network under one threat."""
        return [job for job in self.jobs if (job.agent, job.threat) == (agent, threat)]


def begin(target: Target, asked: Asked) -> Begun:
    """Gather and check everything, then claim the folder.

    Raises:
        UsageError: no such attack, no threat, a network for other images or classes.
        DataError: the test images cannot be read, or are not those of the run's start.
        Exists: a finished evaluation of that name, or one of other settings.
    """
    threats = once([Threat.parse(t) for t in asked.threats]) or target.threats
    if not threats:
        raise UsageError("a network from elsewhere has no threat model of its own; add for example --threat linf:8/255")
    attacks = tuple(parse_attacks(asked.attacks, threats[0]))
    taken = take(target.data, asked.examples, started=target.images, others=asked.allow_other_images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = {agent: subject.model.to(device) for agent, subject in target.subjects.items()}
    if asked.nan_is_wrong:
        models = {agent: Lenient(model) for agent, model in models.items()}
    sources = {net: single(net, Elsewhere(run=target.data))[1].model.to(device) for net in _transferred(attacks)}
    for name, model in [*models.items(), *((f"transfer:{spec}", model) for spec, model in sources.items())]:
        check(model, taken.split, classes=len(taken.classes), name=name)
    size = asked.block or block_for(taken.split)
    asked = replace(asked, block=size)
    target.keep()
    place = _claim(target.path, asked.name, _settings(target, asked, threats, taken))
    if isinstance(asked.examples, Listed):
        write(place / LIST, asked.examples.content)
    jobs = tuple(jobs_of(place, list(models), threats, len(taken.split), size))
    return Begun(target, asked, threats, attacks, taken, models, sources, place, jobs)


def _transferred(attacks: Sequence[str]) -> list[str]:
    """The network of every transfer attack, by any of its names."""
    return [name.removeprefix("transfer:") for name in attacks if name.startswith("transfer:")]


def _settings(target: Target, asked: Asked, threats: Sequence[Threat], taken: Taken) -> dict[str, Any]:
    """As settings.json keeps it."""
    return {
        "format": FORMAT,
        "attacks": list(asked.attacks),
        "threats": [str(t) for t in threats],
        "eps": [t.eps for t in threats],
        "agents": {agent: subject.record for agent, subject in target.subjects.items()},
        "examples": None if asked.examples is None else str(asked.examples),
        "n": len(taken.split),
        "data": {"name": target.data.name, "sha256": taken.split.sha256},
        "trained_on": None if target.images is None else dict(target.images),
        "seed": target.seed,
        "block": asked.block,
        **({"nan": "wrong"} if asked.nan_is_wrong else {}),
    }


def examples_of(place: Path, settings: Mapping[str, Any]) -> Which:
    """Which images a recorded evaluation took; version 0.1 took the first ones of the file.

    Raises:
        DataError: its list of images is not there, or is another.
    """
    if settings["format"] == 1:
        return Examples(settings["n"], first=True)
    taken = settings["examples"]
    if taken is None or not str(taken).startswith(LISTED):
        return None if taken is None else Examples.parse(taken)
    if not (place / LIST).is_file() or str(listed := Listed.read(place / LIST)) != taken:
        raise DataError(
            f"{place / LIST} is not the list of images of the evaluation (sha256 {taken.removeprefix(LISTED)})"
        )
    return listed


def _claim(owner: Path, name: str | None, settings: Mapping[str, Any]) -> Path:
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
        try:
            write(target / "settings.json", content)
        except OSError:
            target.rmdir()  # the name is free again
            raise
        return target


def _difference(path: Path, settings: Mapping[str, Any]) -> str:
    if not path.exists():
        return ""
    before = json.loads(path.read_bytes())
    differing = [k for k in settings if before.get(k) != json.loads(to_json(settings[k]))]
    return f" (other {', '.join(differing)})" if differing else " (finished)"
