"""How robust a trained network is: accuracy on test images, clean and after attacks, worst case per example.

Attack names: ``cluster/evaluation/named_attacks.py``. A threat is ``NORM:EPS``. Examples go in blocks of fixed size whose draws depend on
(seed, attack, block) only, so any number of workers gives the same files and numbers, and a killed evaluation goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.agents.checkpoint import sha256, to_json, write
from sparring.agents.robustness import Judging, correct, fitting_threads
from sparring.cluster.errors import DataError, UsageError
from sparring.cluster.evaluation import analysis, attacking
from sparring.cluster.evaluation.attacking import Attacking, Job
from sparring.cluster.evaluation.direct import BLOCK, once, parse_attacks
from sparring.cluster.evaluation.folder import Meter, claim, jobs_of, read_all
from sparring.cluster.evaluation.masking import flagged
from sparring.cluster.evaluation.results import share, summarise, summary
from sparring.cluster.evaluation.subjects import check, device_of, pixels
from sparring.cluster.models.target import Target, of_run
from sparring.cluster.models.trained import Examples, load_agent, load_classes, load_test
from sparring.cluster.runs.folder import RunFolder
from sparring.trainers.config import Threat
from sparring.trainers.data import Split
from sparring.trainers.datasets import corruptions

FORMAT = 2  # 1, until version 0.1: the first test images of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an evaluation is to do."""

    attacks: Sequence[str]  # see the module; with or without clean
    threats: Sequence[str] = ()  # NORM:EPS; the target's own when empty. The worst case over several is their union
    examples: Examples | int | None = None  # which test images; all when None
    name: str | None = None  # of the evaluation; the next number when None
    cross: bool = False  # add the accuracy of every network on the examples crafted on every other
    corruption_root: Path | None = (
        None  # corrupted test images (trainers/datasets/corruptions.py); adds accuracy under each
    )
    workers: int = 0  # Ray actors that attack blocks at the same time; 0: this process
    block: int = BLOCK  # examples per block
    masking: int = 256  # examples on which signs of masked gradients are looked for; 0: none


@dataclass(frozen=True, slots=True)
class _Under:
    """An evaluation under way: everything that its numbers depend on, gathered once."""

    target: Target
    asked: Asked
    threats: tuple[Threat, ...]
    attacks: tuple[str, ...]  # without clean
    split: Split
    classes: int
    device: torch.device

    @property
    def settings(self) -> dict[str, Any]:
        """As settings.json keeps it."""
        return {
            "format": FORMAT,
            "attacks": list(self.asked.attacks),
            "threats": [str(t) for t in self.threats],
            "eps": [t.eps for t in self.threats],
            "agents": {agent: subject.record for agent, subject in self.target.subjects.items()},
            "examples": None if self.asked.examples is None else str(self.asked.examples),
            "n": len(self.split),
            "data": {"name": self.target.data.name, "sha256": self.split.sha256},
            "seed": self.target.seed,
            "block": self.asked.block,
        }


def evaluate_run(
    folder: RunFolder,
    *,
    agents: Sequence[str] = (),
    checkpoint: str = "best",
    progress: Callable[[str], None] = lambda text: None,
    **asked: Any,
) -> dict[str, Any]:
    """Evaluate a run's products: :func:`evaluate_target` on them.

    Args:
        agents: roles, when others than the method's products are meant; ``ensemble``: all products as one network.
        checkpoint: ``best`` on the held-out images, or ``last``.
        asked: fields of :class:`Asked`.
    """
    return evaluate_target(of_run(folder, agents, checkpoint=checkpoint), Asked(**asked), progress)


def evaluate_target(
    target: Target, asked: Asked, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Evaluate networks on the test images and write ``evaluation/NAME/report.json``.

    Returns:
        The report: the keys of :class:`Result` (means over the networks, when there are several) and each one's own.

    Raises:
        UsageError: no such attack, no threat.
    """
    under = _begin(target, asked)
    models = {agent: subject.model.to(under.device) for agent, subject in target.subjects.items()}
    for agent, model in models.items():
        check(model, under.split, classes=under.classes, name=agent)
    sources = _sources(under)
    place = claim(target.path, asked.name, under.settings)
    jobs = jobs_of(place, list(models), under.threats, len(under.split), asked.block)
    with fitting_threads(*models.values()):
        _attack(under, models, sources, jobs, progress)
    results = {agent: _result(under, agent, model, jobs) for agent, model in models.items()}
    report = {
        **summary(results),
        "run": str(target.path),
        "data": target.data.name,
        "seed": target.seed,
        "block": asked.block,
        "blocks": {str(job.path.relative_to(place)): sha256(job.path) for job in jobs},
        "agents": results,
    }
    if asked.cross:
        report["cross"] = _cross(models, under.split, under.threats[0], target.seed)
    write(place / "report.json", to_json(report))
    return {**report, "report": str(place / "report.json")}


def _begin(target: Target, asked: Asked) -> _Under:
    threats = once([Threat.parse(t) for t in asked.threats]) or target.threats
    if not threats:
        raise UsageError("a network from elsewhere has no threat model of its own; add for example --threat linf:8/255")
    attacks = tuple(parse_attacks(asked.attacks, threats[0]))
    split, classes = load_test(target.data, asked.examples), load_classes(target.data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _Under(target, asked, threats, attacks, split, classes, device)


def _attack(
    under: _Under,
    models: dict[str, nn.Module],
    sources: dict[str, nn.Module],
    jobs: Sequence[Job],
    progress: Callable[[str], None],
) -> None:
    """Every block that has no file yet."""
    left = [job for job in jobs if not job.path.exists()]
    if len(left) < len(jobs):
        progress(f"going on: {len(jobs) - len(left)} of {len(jobs)} blocks are done")

    def images(job: Job) -> tuple[Tensor, Tensor]:
        return pixels(under.split, job.start, job.stop)

    work, done = Attacking(models, sources, under.attacks, under.target.seed), Meter(len(left), progress).done
    workers = min(under.asked.workers, len(left))
    if workers == 0:
        attacking.run(work, left, images, done)
        return
    from sparring.cluster.evaluation import workers as actors  # late: this process alone needs no ray

    actors.run(work, left, images, done, workers=workers)


def _sources(under: _Under) -> dict[str, nn.Module]:
    """The networks on which transfer attacks craft, each for these images and classes."""
    sources = {}
    for name in under.attacks:
        if name.startswith("transfer:"):
            path, _, agent = name.removeprefix("transfer:").partition("@")
            model = load_agent(RunFolder.open(Path(path)), agent or None)[0].to(under.device)
            check(model, under.split, classes=under.classes, name=name)
            sources[name.removeprefix("transfer:")] = model
    return sources


def _result(under: _Under, agent: str, model: nn.Module, jobs: Sequence[Job]) -> dict[str, Any]:
    """One network's entry in the report, from its blocks."""
    own = [job for job in jobs if job.agent == agent]
    columns = {str(t): read_all([job for job in own if job.threat == t]) for t in under.threats}
    result = summarise(columns, attacks=under.attacks, with_clean="clean" in under.asked.attacks, classes=under.classes)
    masking = under.asked.masking if under.attacks else 0
    result = flagged(result, model, under.split, under.threats[0], seed=under.target.seed, masking=masking)
    entry = {"checkpoint": under.target.subjects[agent].record["step"], **result.to_dict()}
    if under.asked.corruption_root is not None:
        entry["corruptions"] = _corruptions(model, under.asked.corruption_root, under.split)
    return entry


def _corruptions(model: nn.Module, root: Path, split: Split) -> dict[str, float]:
    height, width, channels = split.images.shape[1:]
    device = device_of(model)
    try:
        found = corruptions.load(root, shape=(channels, height, width))
        return {name: share(correct(model, images, None, Judging(seed=0, device=device))) for name, images in found}
    except ValueError as error:
        raise DataError(str(error)) from error


def _cross(models: dict[str, nn.Module], split: Split, threat: Threat, seed: int) -> dict[str, Any]:
    adversarial = {name: analysis.craft(model, split, threat, seed=seed) for name, model in models.items()}
    return {
        "threat": str(threat),
        "attack": f"pgd-{analysis.STEPS}",
        **analysis.cross_matrix(models, split, adversarial),
    }
