"""TRADES (Zhang et al., ICML 2019, arXiv 1901.08573, eq. 5).

    x' = argmax_{||x' - x|| <= eps} KL( sg p(x) || p(x') )          started at x + 0.001 N(0, 1), network in eval mode
    L  = CE(f(x), y) + beta KL( p(x) || p(x') )                      beta = 6; the clean side is NOT detached

Forward passes, as in the published code: x for the cross entropy, x', and x once more for the KL, each on its own. The
third equals the first in value and moves the batch-norm statistics again. KL averaged over the batch.

Differences from the published code: inside the attack it computes the clean logits in every iteration; they do not
change, so they are computed once here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparring.trainers.config import Attack, require
from sparring.trainers.losses import accuracy, cross_entropy, kl, kl_from
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import LEARNER, Adversarial, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Train-mode logits [B, K]."""

    clean: Tensor
    adv: Tensor
    target: Tensor  # on x again


@dataclass(frozen=True, kw_only=True)
class Trades(Method):
    """One network that trades clean for robust accuracy."""

    beta: float = 6.0
    """Weight of the KL."""

    SEARCH: ClassVar[Mapping[str, Space]] = {"method.beta": Uniform(1, 10)}
    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "gaussian"}

    def __post_init__(self) -> None:
        require(self.beta >= 0, f"method.beta = {self.beta} must be >= 0")

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def check(self, attacks: Mapping[str, Attack]) -> None:
        if attacks["train"].initial == "none":
            raise ValueError("trades needs a random start: the KL has no gradient at x; set --attack.start gaussian")

    def step(self, team: Team[Any], t: int) -> None:
        team["model"].learn(t, adv=team["model"].craft(t))

    def objective(self, me: str, model: Model, batch: Batch) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            clean = model(batch.x)
        divergence = kl_from(clean)
        return lambda x: divergence(model(x))

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial) -> Passes:
        clean, again = model.twice(batch.x)
        return Passes(clean=clean, adv=model(adv.x), target=again())

    def loss(self, me: str, own: Passes, batch: Batch, *, state: State, when: When, adv: Adversarial) -> Loss:
        terms = {
            "clean": cross_entropy(own.clean, batch.y).mean(),
            "robust": self.beta * kl(own.target, own.adv).mean(),
        }
        return Loss(
            terms, {"robust_accuracy": accuracy(own.adv, batch.y), "clean_accuracy": accuracy(own.clean, batch.y)}
        )
