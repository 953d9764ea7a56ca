"""ARD, adversarially robust distillation (Goldblum et al., AAAI 2020, arXiv 1905.09747, eq. 2).

    x' = argmax_{||x' - x|| <= eps} CE(S(x'), y)      uniform start, not clipped; student in TRAIN mode: batch norm moves
    L  = alpha T^2 KL( softmax(R(x) / T) || softmax(S(x') / T) ) + (1 - alpha) CE(S(x), y)

The teacher R answers on the clean image. T = 30, alpha = 1. ``reduction = elements`` divides the KL by B * K, as the
authors' code; ``batch`` by B, as IAD's code (with T = 1), K times larger.
Forward passes in train mode: ten in the attack, x', then x, which happens even where alpha = 1.

Differences from the published code: none known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, cross_entropy, kl
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import FROZEN, LEARNER, Adversarial, Answer, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Train-mode logits [B, K] of the student."""

    adv: Tensor
    clean: Tensor


@dataclass(frozen=True, kw_only=True)
class Ard(Method):
    """A student of a robust teacher's soft labels."""

    alpha: float = 1.0
    """Weight of the soft labels; the hard ones have the rest."""
    temperature: float = 30.0
    """Temperature T of both sides."""
    reduction: Literal["elements", "batch"] = "elements"
    """Average of the KL over images and classes, or over images."""

    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "unclipped", "bn": "train"}
    SEARCH: ClassVar[Mapping[str, Space]] = {"method.temperature": Uniform(1, 30), "method.alpha": Uniform(0, 1)}

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, f"method.alpha = {self.alpha} must lie in [0, 1]")
        require(self.temperature > 0, f"method.temperature = {self.temperature} must be > 0")

    def roles(self) -> dict[str, Role]:
        return {"student": LEARNER, "teacher": FROZEN}

    def step(self, team: Team[Any], t: int) -> None:
        soft = team["teacher"].answer(t)  # while the student attacks
        team["student"].learn(t, adv=team["student"].craft(t), soft=soft)

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial, soft: Answer) -> Passes:
        return Passes(adv=model(adv.x), clean=model(batch.x))

    def loss(
        self, me: str, own: Passes, batch: Batch, *, state: State, when: When, adv: Adversarial, soft: Answer
    ) -> Loss:
        divergence = kl(soft.logits, own.adv, temperature=self.temperature).mean()
        if self.reduction == "elements":
            divergence = divergence / own.adv.shape[1]
        terms = {
            "soft": self.alpha * self.temperature**2 * divergence,
            "hard": (1 - self.alpha) * cross_entropy(own.clean, batch.y).mean(),
        }
        return Loss(
            terms, {"robust_accuracy": accuracy(own.adv, batch.y), "clean_accuracy": accuracy(own.clean, batch.y)}
        )
