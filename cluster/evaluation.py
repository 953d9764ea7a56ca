"""How robust a trained network is: accuracy on test images, clean and after attacks, worst case per example.

Attack names: ``cluster/named_attacks.py``. A threat is ``NORM:EPS``. Examples go in blocks of fixed size whose draws depend on
(seed, attack, block) only, so any number of workers gives the same files and numbers, and a killed evaluation goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agents.checkpoint import sha256, to_json, write
from agents.robustness import check_classifier, correct, fitting_threads
from cluster import blocks, named_attacks
from cluster.block import evaluate_block
from cluster.blocks import BROKEN, Job
from cluster.errors import DataError, UsageError
from cluster.evaluation_folder import Meter, claim, jobs_of, read_all
from cluster.masking import flagged
from cluster.models import load_agent, load_test
from cluster.named_attacks import Block
from cluster.results import Result, share, summarise, summary
from cluster.run_folder import RunFolder
from cluster.target import Target, of_run
from trainers.config import Threat
from trainers.data import Split
from trainers.datasets import corruptions

BLOCK = 64  # examples; part of an evaluation's settings, since the authors' code draws for a whole block
FORMAT = 1


def parse_attacks(names: Sequence[str], threat: Threat) -> list[str]:
    """The names without ``clean``, each checked.

    Raises:
        UsageError: no such attack.
    """
    try:
        for name in names:
            if name != "clean":
                named_attacks.parse(name, threat)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return [name for name in names if name != "clean"]


def evaluate_model(
    model: nn.Module,
    split: Split,
    *,
    attacks: Sequence[str],
    threats: Sequence[Threat],
    seed: int = 0,
    block: int = BLOCK,
    masking: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Result:
    """Evaluate ``model`` (images in [0, 1] -> logits) on ``split``; its mode and gradients stay as they were.

    Raises:
        UsageError: unknown attack.
        ValueError: the model returns probabilities or the wrong shape.
    """
    device = device_of(model)
    chosen = parse_attacks(attacks, threats[0])
    classes = check(model, split)
    columns: dict[str, dict[str, Tensor]] = {}
    for threat in threats:
        started, parts = time.perf_counter(), []
        for index, start in enumerate(range(0, len(split), block)):
            x, y = (a.to(device) for a in pixels(split, start, start + block))
            with fitting_threads(model):
                here = Block(x, y, index, seed)
                out = evaluate_block(model, here, attacks=chosen, threat=threat, witnesses=False)
            flags = {f"{BROKEN}{name}": broken for name, broken in out.broken.items()}
            parts.append({"label": out.label, "clean_prediction": out.clean_prediction, **flags})
        columns[str(threat)] = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
        progress(f"{threat} done ({time.perf_counter() - started:.1f} s)")
    result = summarise(columns, attacks=chosen, with_clean="clean" in attacks, classes=classes)
    return flagged(result, model, split, threats[0], seed=seed, masking=masking if chosen else 0)


def device_of(*models: nn.Module) -> torch.device:
    """Where the first of the networks is."""
    return next((p.device for model in models for p in model.parameters()), torch.device("cpu"))


def check(model: nn.Module, split: Split) -> int:
    """Refuse a network that is no classifier of these images; its number of classes."""
    device = device_of(model)
    some = split[torch.arange(min(16, len(split)))].pixels().to(device)
    check_classifier(model, some)
    with torch.no_grad():
        return int(model(some[:1]).shape[1])


def pixels(split: Split, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels of some consecutive examples."""
    part = split[torch.arange(start, min(stop, len(split)))]
    # one channel has many equal layouts, each with kernels of its own that round otherwise: always the plain one
    return part.pixels().clone(memory_format=torch.contiguous_format), part.all_labels()


def evaluate_run(
    folder: RunFolder, *, agents: Sequence[str] = (), checkpoint: str = "best", **options: Any
) -> dict[str, Any]:
    """Evaluate a run's products: :func:`evaluate_target` on them.

    Args:
        agents: roles, when others than the method's products are meant; ``ensemble``: all products as one network.
        checkpoint: ``best`` on the held-out images, or ``last``.
    """
    return evaluate_target(of_run(folder, agents, checkpoint=checkpoint), **options)


def evaluate_target(
    target: Target,
    *,
    attacks: Sequence[str],
    threats: Sequence[str] = (),
    examples: int | None = None,
    name: str | None = None,
    cross: bool = False,
    corruption_root: Path | None = None,
    workers: int = 0,
    block: int = BLOCK,
    masking: int = 256,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Evaluate networks on the test images and write ``evaluation/NAME/report.json``.

    Args:
        attacks: see the module.
        threats: ``NORM:EPS``; the target's own when empty. The worst case over several is their union.
        examples: the first so many test images; all when None.
        name: of the evaluation; the next number when None.
        corruption_root: folder of corrupted test images (see ``trainers/datasets/corruptions.py``); adds accuracy under each.
        workers: Ray actors that attack blocks at the same time; 0: this process.
        block: examples per block.
        masking: examples on which signs of masked gradients are looked for; 0: none.
        cross: add the accuracy of every network on the examples crafted on every other.

    Returns:
        The report: the keys of :class:`Result` (means over the networks, when there are several) and each one's own.
    """
    parsed = [Threat.parse(t) for t in threats] or list(target.threats)
    if not parsed:
        raise UsageError("a network from elsewhere has no threat model of its own; add for example --threat linf:8/255")
    chosen = parse_attacks(attacks, parsed[0])
    split = load_test(target.data, examples)
    models = {agent: model for agent, (model, _) in target.subjects.items()}
    weights = {agent: facts for agent, (_, facts) in target.subjects.items()}
    place = claim(target.path, name, _settings(attacks, parsed, weights, split, target, block))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classes = {agent: check(model.to(device), split) for agent, model in models.items()}
    everything = jobs_of(place, list(models), parsed, len(split), block)
    with fitting_threads(*models.values()):
        _attack(everything, models, split, chosen, seed=target.seed, workers=workers, progress=progress)
    results: dict[str, dict[str, Any]] = {}
    for agent, model in models.items():
        columns = {str(t): read_all([j for j in everything if j.agent == agent and j.threat == t]) for t in parsed}
        result = summarise(columns, attacks=chosen, with_clean="clean" in attacks, classes=classes[agent])
        result = flagged(result, model, split, parsed[0], seed=target.seed, masking=masking if chosen else 0)
        results[agent] = {"checkpoint": weights[agent]["step"], **result.to_dict()}
        results[agent] |= {"corruptions": _corruptions(model, corruption_root, split)} if corruption_root else {}
    files = {str(job.path.relative_to(place)): sha256(job.path) for job in everything}
    facts = {"run": str(target.path), "data": target.data.name, "seed": target.seed, "block": block, "blocks": files}
    extra = {"cross": _cross(models, split, parsed[0], target.seed)} if cross else {}
    report = {**summary(results), **facts, "agents": results, **extra}
    write(place / "report.json", to_json(report))
    return {**report, "report": str(place / "report.json")}


def _settings(
    attacks: Sequence[str],
    threats: Sequence[Threat],
    weights: Mapping[str, Any],
    split: Split,
    target: Target,
    block: int,
) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    return {
        "format": FORMAT,
        "attacks": list(attacks),
        "threats": [str(t) for t in threats],
        "eps": [t.eps for t in threats],
        "agents": dict(weights),
        "n": len(split),
        "data": {"name": target.data.name, "sha256": split.sha256},
        "seed": target.seed,
        "block": block,
    }


def _attack(
    jobs: Sequence[Job],
    models: dict[str, nn.Module],
    split: Split,
    attacks: Sequence[str],
    *,
    seed: int,
    workers: int,
    progress: Callable[[str], None],
) -> None:
    """Every block that has no file yet."""
    left = [job for job in jobs if not job.path.exists()]
    if len(left) < len(jobs):
        progress(f"going on: {len(jobs) - len(left)} of {len(jobs)} blocks are done")
    blocks.run_blocks(
        left,
        models,
        partial(pixels, split),
        seed=seed,
        attacks=attacks,
        sources={name: source.to(device_of(*models.values())) for name, source in _sources(attacks).items()},
        workers=min(workers, len(left)),
        done=Meter(len(left), progress).done,
    )


def _sources(attacks: Sequence[str]) -> dict[str, nn.Module]:
    """The networks on which transfer attacks craft."""
    sources = {}
    for name in attacks:
        if name.startswith("transfer:"):
            path, _, agent = name.removeprefix("transfer:").partition("@")
            sources[name.removeprefix("transfer:")] = load_agent(RunFolder.open(Path(path)), agent or None)[0]
    return sources


def _corruptions(model: nn.Module, root: Path, split: Split) -> dict[str, float]:
    height, width, channels = split.images.shape[1:]
    device = device_of(model)
    try:
        found = corruptions.load(root, shape=(channels, height, width))
        return {name: share(correct(model, images, None, seed=0, device=device)) for name, images in found}
    except ValueError as error:
        raise DataError(str(error)) from error


def _cross(models: dict[str, nn.Module], split: Split, threat: Threat, seed: int) -> dict[str, Any]:
    from cluster import analysis

    adversarial = {name: analysis.craft(model, split, threat, seed=seed) for name, model in models.items()}
    return {
        "threat": str(threat),
        "attack": f"pgd-{analysis.STEPS}",
        **analysis.cross_matrix(models, split, adversarial),
    }
