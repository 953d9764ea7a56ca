"""RSLAD, robust soft label adversarial distillation (Zi et al., ICCV 2021, arXiv 2108.07969).

    t  = softmax(T(x))                                              teacher, eval mode, clean image; no hard label anywhere
    x' = argmax_{||x' - x|| <= eps} KL( t || p_S(x') )              started at x + 0.001 N(0, 1), student in eval mode
    L  = 5/6 c k(x') + 1/6 c k(x),   k(x) = mean over B * K of t (log(t + 1e-5) - log p_S(x))

c = 1 on 10 classes; the published script for CIFAR-100 multiplies both terms by 10 (``scale``; default K / 10).
Forward passes: x' first, then x, each on its own.

Differences from the published code: none known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, kl_from, kl_offset
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import FROZEN, LEARNER, Adversarial, Answer, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Train-mode logits [B, K] of the student."""

    adv: Tensor
    nat: Tensor


@dataclass(frozen=True, kw_only=True)
class Rslad(Method):
    """A student that learns a robust teacher's soft labels on clean and adversarial images."""

    weight: float = 5 / 6
    """Weight of the adversarial term; the clean one has the rest."""
    scale: float | None = None
    """Factor c of both terms; default K / 10."""

    SEARCH: ClassVar[Mapping[str, Space]] = {"method.weight": Uniform(0.5, 1)}
    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "gaussian"}

    def __post_init__(self) -> None:
        require(0 <= self.weight <= 1, f"method.weight = {self.weight} must lie in [0, 1]")
        require(self.scale is None or self.scale > 0, f"method.scale = {self.scale} must be > 0")

    def roles(self) -> dict[str, Role]:
        return {"student": LEARNER, "teacher": FROZEN}

    def step(self, team: Team[Any], t: int) -> None:
        soft = team["teacher"].answer(t)
        team["student"].learn(t, adv=team["student"].craft(t, guide=soft), soft=soft)

    def objective(self, me: str, model: Model, batch: Batch, guide: Answer) -> Callable[[Tensor], Tensor]:
        divergence = kl_from(guide.logits)
        return lambda x: divergence(model(x))

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial, soft: Answer) -> Passes:
        return Passes(adv=model(adv.x), nat=model(batch.x))

    def loss(
        self, me: str, own: Passes, batch: Batch, *, state: State, when: When, adv: Adversarial, soft: Answer
    ) -> Loss:
        c = soft.logits.shape[1] / 10 if self.scale is None else self.scale
        q = soft.logits.softmax(1)
        terms = {"adv": self.weight * c * kl_offset(q, own.adv), "nat": (1 - self.weight) * c * kl_offset(q, own.nat)}
        return Loss(
            terms, {"robust_accuracy": accuracy(own.adv, batch.y), "clean_accuracy": accuracy(own.nat, batch.y)}
        )
