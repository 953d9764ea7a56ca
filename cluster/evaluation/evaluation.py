"""How robust a trained network is: accuracy on test images, clean and after attacks, worst case per example.

    target, asked --begin--> Begun (images, networks, folder, blocks) --attack--> a file per block --report--> report.json

Attack names: ``cluster/evaluation/named_attacks.py``. A threat is ``NORM:EPS``. Examples go in blocks of fixed size whose draws depend on
(seed, attack, block) only, so any number of workers gives the same files and numbers, and a killed evaluation goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.agents.cascade import Cascade
from sparring.agents.checkpoint import sha256, to_json, write
from sparring.agents.detection import IMAGES, detector
from sparring.agents.ensemble import Ensemble
from sparring.agents.robustness import Judging, Lenient, correct, fitting_threads, judged, wilson
from sparring.cluster.errors import DataError, disk
from sparring.cluster.evaluation import analysis, attacking
from sparring.cluster.evaluation.attacking import Attacking, Images, Job, Meter, read_all
from sparring.cluster.evaluation.begun import Asked, Begun, begin
from sparring.cluster.evaluation.masking import flagged
from sparring.cluster.evaluation.named_attacks import left_out
from sparring.cluster.evaluation.results import share, summarise, summary
from sparring.cluster.evaluation.subjects import device_of, pixels
from sparring.cluster.models.examples import Listed
from sparring.cluster.models.target import Target, of_run
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.terminal import duration
from sparring.trainers.attacks import NoGradient
from sparring.trainers.data import Split, evaluation_order
from sparring.trainers.datasets import corruptions

SLOW = 30.0  # seconds from which on an evaluation says how long it may take

__all__ = ["Asked", "evaluate_run", "evaluate_target"]


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
        DataError: the test images cannot be read, or are not those of the run's start.
    """
    begun = begin(target, asked)
    for note in (*target.notes, *([begun.taken.note] if begun.taken.note else [])):
        progress(note)
    with disk(begun.kept):
        with fitting_threads(*begun.models.values()):
            _attack(begun, progress)
        report = _report(begun)
        path = begun.place / "report.json"
        write(path, to_json(report))
    return {**report, "report": str(path)}


def _attack(begun: Begun, progress: Callable[[str], None]) -> None:
    """Every block that has no file yet."""
    left = [job for job in begun.jobs if not job.path.exists()]
    if len(left) < len(begun.jobs):
        progress(f"going on: {len(begun.jobs) - len(left)} of {len(begun.jobs)} blocks are done")

    def images(job: Job) -> tuple[Tensor, Tensor]:
        return pixels(begun.split, job.start, job.stop)

    work = Attacking(begun.models, begun.sources, begun.attacks, begun.target.seed)
    workers = min(begun.asked.workers, len(left))
    if left and begun.attacks:
        seconds = _about(work, left, images) / max(1, workers)
        if seconds > SLOW:
            progress(f"{sum(job.stop - job.start for job in left)} images to attack: up to {duration(seconds)}")
    done = Meter(len(left), progress).done
    if workers == 0:
        attacking.run(work, left, images, done)
        return
    from sparring.cluster.evaluation import workers as actors  # late: this process alone needs no ray

    actors.run(work, left, images, done, workers=workers)


def _about(work: Attacking, jobs: Sequence[Job], images: Images) -> float:
    """Seconds, where the network has a gradient; without one only Square goes on."""
    try:
        return attacking.about(work, jobs, images)
    except NoGradient:
        return 0.0


def _report(begun: Begun) -> dict[str, Any]:
    """What report.json says, from the blocks' files."""
    results = {agent: _result(begun, agent) for agent in begun.models}
    report = {
        **summary(results),
        "run": str(begun.target.path),
        **({} if begun.target.hub is None else {"hub": begun.target.hub}),
        "data": begun.target.data.name,
        **_listed(begun),
        "seed": begun.target.seed,
        "block": begun.asked.block,
        "blocks": {str(job.path.relative_to(begun.place)): sha256(job.path) for job in begun.jobs},
        "agents": results,
    }
    if begun.asked.cross:
        report["cross"] = analysis.cross(begun.models, begun.split, begun.threats[0], seed=begun.target.seed)
    return report


def _listed(begun: Begun) -> dict[str, Any]:
    """Which list named the images, where one did."""
    examples = begun.asked.examples
    return {"examples": {"sha256": examples.sha256, "n": len(begun.split)}} if isinstance(examples, Listed) else {}


def _result(begun: Begun, agent: str) -> dict[str, Any]:
    """One network's entry in the report."""
    asked, model = begun.asked, begun.models[agent]
    columns = {str(t): read_all(begun.jobs_of(agent, t)) for t in begun.threats}
    with_clean, classes = "clean" in asked.attacks, len(begun.taken.classes)
    size = tuple(begun.split.images.shape[1:3])
    notes = [*([begun.taken.note] if begun.taken.note else []), *left_out(begun.attacks, begun.threats, size)]
    result = summarise(columns, attacks=begun.attacks, with_clean=with_clean, classes=classes, notes=notes)
    masking = asked.masking if begun.attacks else 0
    result = flagged(result, model, begun.split, begun.threats[0], seed=begun.target.seed, masking=masking)
    entry = {"checkpoint": begun.target.subjects[agent].record["step"], **result.to_dict()}
    network = model.network if isinstance(model, Lenient) else model
    if isinstance(network, Cascade):
        entry["cascade"] = {"width": network.width, "asked": _asked(network, begun.split)}
    if isinstance(network, Ensemble) and masking:
        with suppress(NoGradient):
            some = begun.split[evaluation_order(begun.split.all_labels())[: min(IMAGES, len(begun.split))]]
            x, y = (a.to(device_of(network)) for a in pixels(some, 0, len(some)))
            found = detector(network, x, y, begun.threats[0], seed=begun.target.seed)
            entry |= {} if found is None else {"detector": found}
    if asked.corruption_root is not None:
        entry["corruptions"] = _corruptions(model, asked.corruption_root, begun.split)
    return entry


def _asked(model: Cascade, split: Split) -> float:
    """Share of the clean images about which the large network of a cascade is asked."""
    asked = 0
    with judged(model), torch.no_grad():
        for start in range(0, len(split), 256):
            x = pixels(split, start, start + 256)[0].to(device_of(model))
            asked += int(model.decide(x)[1].sum())
    return asked / len(split)


def _corruptions(model: nn.Module, root: Path, split: Split) -> dict[str, dict[str, Any]]:
    """Per corruption its accuracy: mean over the severities, interval of a proportion of n images, and at each severity."""
    how, found = Judging(seed=0, device=device_of(model)), {}
    try:
        for name, severities in corruptions.load(root, split):
            each = [share(correct(model, images, None, how)) for images in severities]
            accuracy, n = sum(each) / len(each), len(severities[0])
            found[name] = {"accuracy": accuracy, "ci95": wilson(accuracy * n, n), "n": n, "by_severity": each}
    except ValueError as error:
        raise DataError(str(error)) from error
    return found
