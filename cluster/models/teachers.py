"""How good the frozen networks of a run are, seen before its first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparring.agents import model_folder
from sparring.agents.checkpoint import load_model, sha256
from sparring.agents.robustness import Judging, correct, fitting_threads
from sparring.agents.spec import AgentSpec
from sparring.cluster.models import card
from sparring.cluster.models.trained import weights_file
from sparring.cluster.runs.folder import RunFolder
from sparring.trainers.config import Attack, Threat
from sparring.trainers.losses import scaled_cross_entropy

HELD_OUT, ATTACKED = 128, 64  # images on which a teacher is looked at before the first step: clean, and under attack
STEPS = 10  # of that attack, with the run's norm and radius


@dataclass(frozen=True, slots=True)
class Teacher:
    """A frozen network as env.json keeps it: ``Teacher("/runs/at-1/...", "resnet18", "5e88...", 0.97, 128, 10, [])``."""

    init: str  # folder of its weights
    network: str
    sha256: str  # of its file of weights
    held_out_accuracy: float  # in [0, 1], on n images held out of training
    n: int
    classes: int
    measured: list[dict[str, Any]]  # evaluations of these very weights, as on a card
    attacked_accuracy: float | None = (
        None  # right when clean and under attack; None for one that tells other classes apart
    )
    attack: str = ""  # as scaled-pgd-10, linf:0.15

    @property
    def guesses(self) -> bool:
        """Whether it is right about as often as chance."""
        return self.held_out_accuracy < 2 / self.classes

    @property
    def percent(self) -> str:
        clean = f"{100 * self.held_out_accuracy:.0f} % of {self.n} held-out images"
        if self.attacked_accuracy is None:
            return clean
        return f"{clean}, on {100 * self.attacked_accuracy:.0f} % of {min(self.n, ATTACKED)} under {self.attack}"


def looked_at(specs: Sequence[AgentSpec], folder: RunFolder) -> dict[str, Teacher]:
    """Every frozen network by name. A run that is continued has it noted.

    Args:
        specs: of the run's agents, their images decoded.
        folder: the run's.
    """
    spec = specs[0]
    roles = spec.make_method().roles()
    frozen = [n for n in spec.others if n not in roles or not roles[n].learns]
    if not frozen:
        return {}
    noted = _noted(folder)
    if {n: t.init for n, t in noted.items()} == {n: spec.others[n][1] for n in frozen}:
        return noted
    dataset = spec.images.load()
    _, held = dataset.held_out(spec.data.validation, seed=spec.seed, fraction=spec.data.fraction)
    some = held[torch.arange(min(HELD_OUT, len(held)))]
    few = held[torch.arange(min(ATTACKED, len(held)))]
    trained = spec.attacks["train"]
    attack = Attack(norm=trained.norm, eps=trained.eps, steps=STEPS)
    how = Judging(seed=0, device=torch.device("cpu"), loss=scaled_cross_entropy)
    result = {}
    for name in frozen:
        path = Path(str(spec.others[name][1]))
        model = load_model(path)
        held_up: float | None = None
        with fitting_threads(model):
            right = correct(model, some, None, how)
            if model.config.classes == len(dataset.classes):  # else these images have none of its labels to attack
                held_up = float((right[: len(few)] & correct(model, few, attack, how)).double().mean())
        result[name] = Teacher(
            init=str(path),
            network=model.config.spec,
            sha256=sha256(weights_file(path)),
            held_out_accuracy=float(right.double().mean()),
            n=len(some),
            classes=model.config.classes,
            measured=_measured(path),
            attacked_accuracy=held_up,
            attack=f"scaled-pgd-{STEPS}, {Threat(attack.norm, attack.eps)}",
        )
    return result


def _noted(folder: RunFolder) -> dict[str, Teacher]:
    noted = folder.environment.get("teachers", {})
    return {name: Teacher(**values) for name, values in noted.items()}


def _measured(path: Path) -> list[dict[str, Any]]:
    """Evaluations of these very weights: on a published model's card, or in the run that they are from."""
    if (path / "card.json").is_file():
        return list(model_folder.card(path)["evaluations"])
    folder = next((p for p in path.parents if (p / "config.yaml").is_file()), None)
    return card.evaluations(folder, sha256(weights_file(path))) if folder else []


def warnings(teachers: Mapping[str, Teacher]) -> list[str]:
    """One line per frozen network that guesses, and one where the robust teacher is weaker than the clean one."""
    said = [
        f"WARNING: {name} is right on {t.percent}, which is near chance; is it trained on other classes, or for normalised pixels?"
        for name, t in teachers.items()
        if t.guesses
    ]
    clean, robust = teachers.get("clean_teacher"), teachers.get("robust_teacher")
    if clean is None or robust is None or clean.attacked_accuracy is None or robust.attacked_accuracy is None:
        return said
    if robust.attacked_accuracy < clean.attacked_accuracy:
        said.append(
            f"WARNING: robust_teacher holds under {robust.attack} on {100 * robust.attacked_accuracy:.0f} %, clean_teacher on "
            f"{100 * clean.attacked_accuracy:.0f} %: are they swapped?"
        )
    return said


def lines(teachers: Mapping[str, Teacher]) -> list[str]:
    """One line per frozen network."""
    return [f"{name}: {t.network}, sha256 {t.sha256[:12]}, right on {t.percent}" for name, t in teachers.items()]
