"""MART, misclassification aware adversarial training (Wang et al., ICLR 2020, eq. 11).

    x' = argmax_{||x' - x|| <= eps} CE(f(x'), y)                     started at x + 0.001 N(0, 1), network in eval mode
    L  = BCE(p(x'), y) + beta 1/B sum_i KL( p(x_i) || p(x'_i) ) (1 - p_{y_i}(x_i))
    BCE(p, y) = -log p_y - log(1.0001 - max_{k != y} p_k)

beta = 5. Forward passes: x first, then x', each on its own; nothing is detached.

Differences from the published code: it guards its logarithms of probabilities with 1e-12, here log-probabilities are
computed as such; its weight 1.0000001 - p is 1 - p here. No arrays were recorded from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, cross_entropy, kl
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import LEARNER, Adversarial, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Train-mode logits [B, K]."""

    clean: Tensor
    adv: Tensor


@dataclass(frozen=True, kw_only=True)
class Mart(Method):
    """One network that minds its mistakes more."""

    beta: float = 5.0
    """Weight of the KL."""

    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "gaussian"}
    SEARCH: ClassVar[Mapping[str, Space]] = {"method.beta": Uniform(1, 10)}

    def __post_init__(self) -> None:
        require(self.beta >= 0, f"method.beta = {self.beta} must be >= 0")

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        team["model"].learn(t, adv=team["model"].craft(t))

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial) -> Passes:
        return Passes(clean=model(batch.x), adv=model(adv.x))

    def loss(self, me: str, own: Passes, batch: Batch, *, state: State, when: When, adv: Adversarial) -> Loss:
        wrong = own.adv.softmax(1).scatter(1, batch.y[:, None], -torch.inf).amax(1)  # the likeliest wrong class
        sure = own.clean.softmax(1).gather(1, batch.y[:, None]).squeeze(1)
        terms = {
            "boosted": (cross_entropy(own.adv, batch.y) - (1.0001 - wrong).log()).mean(),
            "robust": self.beta * (kl(own.clean, own.adv) * (1 - sure)).mean(),
        }
        return Loss(
            terms, {"robust_accuracy": accuracy(own.adv, batch.y), "clean_accuracy": accuracy(own.clean, batch.y)}
        )
