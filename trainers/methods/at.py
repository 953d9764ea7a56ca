"""Adversarial training (Madry et al., ICLR 2018, arXiv 1706.06083, eq. 2.1).

    min_theta  E [ max_{d in S} CE(f(x + d), y) ]

The inner maximum is PGD with the network in eval mode; the outer step uses the adversarial examples alone.

Differences from the published code: that one is TensorFlow 1; batch norm is in eval mode inside the attack here (an
option of the attack, ``--attack.bn train``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparring.trainers.losses import accuracy, cross_entropy
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.types import LEARNER, Adversarial, Answer, Batch, Loss, Role, State, Team, When


@dataclass(frozen=True, kw_only=True)
class At(Method):
    """Adversarial training of one network."""

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        model = team["model"]
        model.learn(t, adv=model.craft(t))

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial) -> Answer:
        return Answer(model(adv.x))

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When, adv: Adversarial) -> Loss:
        hard = cross_entropy(own.logits, batch.y).mean()
        return Loss({"hard": hard}, {"robust_accuracy": accuracy(own.logits, batch.y)})
