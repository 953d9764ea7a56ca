"""Adversarial training (Madry et al., ICLR 2018, arXiv 1706.06083, eq. 2.1).

    min_theta  E [ max_{d in S} CE(f(x + d), y) ]

The inner maximum is PGD with the network in eval mode; the outer step uses the adversarial examples alone. Of mixed images (mixup,
cutmix) CE is lam CE(., y) + (1 - lam) CE(., y2) in both.

Differences from the published code: that one is TensorFlow 1; batch norm is in eval mode inside the attack here (an
option of the attack, ``--attack.bn train``). Labels may be smoothed in the outer step, which the paper does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, cross_entropy, mixed
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.types import LEARNER, Adversarial, Answer, Batch, Loss, Role, State, Team, When


@dataclass(frozen=True, kw_only=True)
class At(Method):
    """Adversarial training of one network."""

    MIXED: ClassVar[bool] = True

    label_smoothing: float = 0.0
    """Share of every label that is spread evenly over all classes; the attack raises the plain loss. 0: none. Typical: 0.1."""

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, f"method.label_smoothing = {self.label_smoothing} must lie in [0, 1)")

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        model = team["model"]
        model.learn(t, adv=model.craft(t))

    def objective(self, me: str, model: Model, batch: Batch, **hints: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: mixed(cross_entropy, model(x), batch)

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial) -> Answer:
        return Answer(model(adv.x))

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When, adv: Adversarial) -> Loss:
        smoothed = partial(cross_entropy, smoothing=self.label_smoothing)
        hard = mixed(smoothed, own.logits, batch).mean()
        return Loss({"hard": hard}, {"robust_accuracy": mixed(accuracy, own.logits, batch)})
