"""AdaAD, adaptive adversarial distillation (Huang et al., CVPR 2023).

    x' = argmax_{||x' - x|| <= eps} KL( T(x') || S(x') )      the gradient goes through BOTH networks, both in eval mode;
                                                             started at x + 0.001 N(0, 1)
    L  = a D( T(x') || S(x') ) + (1 - a) D( T(x) || S(x) )

a = 1. D averages the KL over B * K elements in the authors' CIFAR-10 script and over B in that for CIFAR-100
(``reduction``). The attack needs the teacher's gradient at every iterate, so the teacher lives beside the student.
Forward passes of the student in train mode: x, then x'.

Differences from the published code: none known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, kl
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import Adversarial, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Logits [B, K]: of the student in train mode, of the teacher in eval mode without a graph."""

    clean: Tensor
    adv: Tensor
    teacher_clean: Tensor
    teacher_adv: Tensor


@dataclass(frozen=True, kw_only=True)
class Adaad(Method):
    """A student whose attack drives it away from its teacher."""

    weight: float = 1.0
    """Weight a of the adversarial term; the clean one has the rest."""
    reduction: Literal["elements", "batch"] = "elements"
    """Average of the KL over images and classes, or over images."""

    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "gaussian"}
    SEARCH: ClassVar[Mapping[str, Space]] = {"method.weight": Uniform(0, 1)}

    def __post_init__(self) -> None:
        require(0 <= self.weight <= 1, f"method.weight = {self.weight} must lie in [0, 1]")

    def roles(self) -> dict[str, Role]:
        return {"student": Role(True, beside=("teacher",))}

    def step(self, team: Team[Any], t: int) -> None:
        team["student"].learn(t, adv=team["student"].craft(t))

    def objective(self, me: str, model: Model, batch: Batch) -> Callable[[Tensor], Tensor]:
        teacher = model.beside["teacher"]
        return lambda x: kl(teacher(x), model(x))

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial) -> Passes:
        with torch.no_grad():
            clean, hard = (model.beside["teacher"](x) for x in (batch.x, adv.x))
        return Passes(model(batch.x), model(adv.x), clean, hard)

    def loss(self, me: str, own: Passes, batch: Batch, *, state: State, when: When, adv: Adversarial) -> Loss:
        scale = 1 / own.adv.shape[1] if self.reduction == "elements" else 1.0
        terms = {
            "adv": self.weight * scale * kl(own.teacher_adv, own.adv).mean(),
            "nat": (1 - self.weight) * scale * kl(own.teacher_clean, own.clean).mean(),
        }
        return Loss(
            terms, {"robust_accuracy": accuracy(own.adv, batch.y), "clean_accuracy": accuracy(own.clean, batch.y)}
        )
