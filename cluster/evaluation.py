"""How robust a trained network is: accuracy on test images, clean and after attacks, worst case per example.

An attack is written as in the papers: ``clean``, ``fgsm``, ``pgd-20`` (cross entropy, uniform start, step 2.5 eps/steps),
``pgd-20x5`` (5 restarts), ``margin-pgd-30`` (the Carlini-Wagner margin). A threat is ``NORM:EPS``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agents.checkpoint import to_json, write
from agents.robustness import ExampleLoss, check_classifier, correct, wilson
from cluster.errors import DataError, Exists, UsageError
from cluster.models import chosen_agents, load_agent, load_test
from cluster.run_folder import NAME, RunFolder
from trainers.config import Attack, Threat
from trainers.data import Split
from trainers.datasets import corruptions
from trainers.losses import cross_entropy, margin

ATTACKS = "clean, fgsm, pgd-K, pgd-KxR (R restarts), margin-pgd-K"
_PGD = re.compile(r"(?P<margin>margin-)?pgd-(?P<steps>[1-9]\d*)(x(?P<restarts>[1-9]\d*))?")


@dataclass(frozen=True, slots=True)
class Result:
    """Robustness of one network. Accuracies in [0, 1]."""

    clean_accuracy: float
    clean_ci95: tuple[float, float]
    robust_accuracy: float | None  # right on the clean image and after every attack under every threat
    ci95: tuple[float, float] | None  # of robust_accuracy (Wilson); both None when there was no attack
    n: int
    threats: dict[str, dict[str, Any]]  # "linf:0.15" -> robust_accuracy, ci95, attacks {name: accuracy}

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def parse_attack(name: str, threat: Threat) -> tuple[Attack, ExampleLoss]:
    """``"pgd-20"`` under a threat -> the attack and what it raises.

    Raises:
        UsageError: no such attack.
    """
    if name == "fgsm":
        return Attack(kind="fgsm", norm=threat.norm, eps=threat.eps), cross_entropy
    match = _PGD.fullmatch(name)
    if match is None:
        raise UsageError(f"attack {name!r} is unknown; allowed: {ATTACKS}")
    attack = Attack(norm=threat.norm, eps=threat.eps, steps=int(match["steps"]), restarts=int(match["restarts"] or 1))
    return attack, margin if match["margin"] else cross_entropy


def evaluate_model(
    model: nn.Module,
    split: Split,
    *,
    attacks: Sequence[str],
    threats: Sequence[Threat],
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Result:
    """Evaluate ``model`` (images in [0, 1] -> logits) on ``split``; its mode and gradients stay as they were.

    Raises:
        UsageError: unknown attack.
        ValueError: the model returns probabilities or the wrong shape.
    """
    parsed = {str(t): {a: parse_attack(a, t) for a in attacks if a != "clean"} for t in threats}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    check_classifier(model, split[torch.arange(min(16, len(split)))].pixels().to(device))
    clean = correct(model, split, None, seed=seed, device=device)
    if all(a == "clean" for a in attacks):
        return Result(_share(clean), _interval(clean), None, None, len(clean), {})
    everything, report = clean, {}
    for threat, chosen in parsed.items():
        worst, each = clean, {"clean": _share(clean)} if "clean" in attacks else {}
        for name, (attack, loss) in chosen.items():
            started = time.perf_counter()
            hits = clean & correct(model, split, attack, seed=seed, loss=loss, device=device)
            each[name] = _share(hits)
            worst = worst & hits
            progress(f"{threat} {name}: {each[name]:.1%} right ({time.perf_counter() - started:.1f} s)")
        report[threat] = {"robust_accuracy": _share(worst), "ci95": _interval(worst), "attacks": each}
        everything = everything & worst
    return Result(_share(clean), _interval(clean), _share(everything), _interval(everything), len(clean), report)


def evaluate_run(
    folder: RunFolder,
    *,
    attacks: Sequence[str],
    threats: Sequence[str] = (),
    agents: Sequence[str] = (),
    checkpoint: str = "best",
    examples: int | None = None,
    name: str | None = None,
    cross: bool = False,
    corruption_root: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Evaluate a run's product agents on the test images and write ``evaluation/NAME/report.json``.

    Args:
        attacks: see the module.
        threats: ``NORM:EPS``; the run's own when empty. The worst case over several is their union.
        agents: roles, when others than the method's products are meant.
        checkpoint: ``best`` on the held-out images, or ``last``.
        examples: the first so many test images; all when None.
        name: of the evaluation; the next number when None.
        corruption_root: folder of corrupted test images (see ``trainers/datasets/corruptions.py``); adds accuracy under each.
        cross: add the accuracy of every agent on the examples crafted on every other.

    Returns:
        The report: the keys of :class:`Result` (means over the agents, when there are several) and each agent's own.
    """
    config = folder.config
    parsed = [Threat.parse(t) for t in threats] or list(config.threats)
    for attack in attacks:
        if attack != "clean":
            parse_attack(attack, parsed[0])
    split = load_test(config.data, examples)
    chosen = chosen_agents(folder, agents)
    target = _claim(folder, name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = {agent: load_agent(folder, agent, checkpoint=checkpoint) for agent in chosen}
    results: dict[str, dict[str, Any]] = {}
    for agent, (model, step) in models.items():
        result = evaluate_model(
            model.to(device),
            split,
            attacks=attacks,
            threats=parsed,
            seed=config.seed,
            progress=partial(_prefixed, progress, agent),
        )
        results[agent] = {"checkpoint": step, **result.to_dict()}
        if corruption_root is not None:
            results[agent]["corruptions"] = _corruptions(model, corruption_root, split)
    facts = {"run": str(folder.path), "data": config.data.name, "seed": config.seed}
    report = {**summary(results), **facts, "agents": results}
    if cross:
        report["cross"] = _cross({a: m for a, (m, _) in models.items()}, split, parsed[0], config.seed)
    write(target / "report.json", to_json(report))
    return {**report, "report": str(target / "report.json")}


def _prefixed(progress: Callable[[str], None], agent: str, text: str) -> None:
    progress(f"{agent}  {text}")


def summary(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One agent's result, or the mean of several; an interval then is that of a proportion of n examples."""
    keys = ("clean_accuracy", "clean_ci95", "robust_accuracy", "ci95", "n", "threats")
    first = next(iter(results.values()))
    if len(results) == 1:
        return {k: first[k] for k in keys}
    n = first["n"]
    mean = {k: _mean([r[k] for r in results.values()]) for k in ("clean_accuracy", "robust_accuracy", "threats")}
    for entry in (mean, *mean["threats"].values()):
        entry["ci95"] = None if entry["robust_accuracy"] is None else wilson(entry["robust_accuracy"] * n, n)
    return {**mean, "clean_ci95": wilson(mean["clean_accuracy"] * n, n), "n": n, "mean_of": list(results)}


def _mean(values: Sequence[Any]) -> Any:
    """Mean of numbers, key by key in mappings; what is neither is left out."""
    if isinstance(values[0], Mapping):
        return {k: _mean([v[k] for v in values]) for k in values[0] if not isinstance(values[0][k], tuple | list)}
    return None if values[0] is None else sum(values) / len(values)


def _corruptions(model: nn.Module, root: Path, split: Split) -> dict[str, float]:
    height, width, channels = split.images.shape[1:]
    device = next(model.parameters()).device
    try:
        found = corruptions.load(root, shape=(channels, height, width))
        return {name: _share(correct(model, images, None, seed=0, device=device)) for name, images in found}
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


def _claim(run: RunFolder, name: str | None) -> Path:
    """A folder of this evaluation's own, made now: another one at the same moment takes another."""
    base = run.path / "evaluation"
    base.mkdir(exist_ok=True)
    if name is not None and not NAME.fullmatch(name):
        raise UsageError(f"--name {name!r} is not allowed; use letters, digits, '.', '_' and '-'")
    while True:
        taken = [int(p.name) for p in base.glob("*") if p.name.isdigit()]
        target = base / (name or str(max(taken, default=0) + 1))
        try:
            target.mkdir()
        except FileExistsError:
            if name is not None:
                raise Exists(f"evaluation {target} exists and is never overwritten; choose another --name") from None
            continue
        return target


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


def _interval(hits: Tensor) -> tuple[float, float]:
    return wilson(int(hits.sum()), len(hits))
