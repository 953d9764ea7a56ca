"""AVG: adversarial training on the mean over several norms (Tramer and Boneh, NeurIPS 2019, arXiv 1904.13000).

    x_p = argmax_{||x_p - x||_p <= eps_p} CE(f(x_p), y)  for every norm p
    L   = 1/|P| sum_p CE(f(x_p), y)

Forward passes: one per norm, in the order of ``norms``.

Differences from the published codes: theirs trains on the examples of all attacks as one batch; that of MSD takes one SGD
step per norm. Here one step on the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.trainers.config import NORM_NAMES, require
from sparring.trainers.losses import accuracy, cross_entropy
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.types import LEARNER, Adversarial, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Train-mode logits [B, K] on the example of each norm."""

    adv: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Avg(Method):
    """Adversarial training of one network against several norms at once."""

    threats: tuple[str, ...] = NORM_NAMES
    """Norms p; each has its attack: --attacks.P."""

    def __post_init__(self) -> None:
        known = bool(self.threats) and set(self.threats) <= set(NORM_NAMES)
        require(known, f"method.threats = {self.threats} is not allowed; choose from {', '.join(NORM_NAMES)}")

    def norms(self) -> tuple[str, ...]:
        return self.threats

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        model = team["model"]
        model.learn(t, adv={p: model.craft(t, attack=p) for p in self.threats})

    def forward(self, me: str, model: Model, batch: Batch, adv: Mapping[str, Adversarial]) -> Passes:
        return Passes({p: model(adv[p].x) for p in self.threats})

    def loss(
        self, me: str, own: Passes, batch: Batch, *, state: State, when: When, adv: Mapping[str, Adversarial]
    ) -> Loss:
        terms = {p: cross_entropy(z, batch.y).mean() / len(own.adv) for p, z in own.adv.items()}
        right = torch.stack([z.argmax(1) == batch.y for z in own.adv.values()]).all(0)
        stats = {f"{p}_accuracy": accuracy(z, batch.y) for p, z in own.adv.items()}
        return Loss(terms, stats | {"robust_accuracy": right.to(batch.x.dtype).mean()})
