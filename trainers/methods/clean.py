"""Clean training: cross entropy on clean images, no attack. The undefended baseline, and the usual clean teacher.

L = CE(f(x), y), of mixed images lam CE(f(x), y) + (1 - lam) CE(f(x), y2)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, cross_entropy, mixed
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.types import LEARNER, Answer, Batch, Loss, Role, State, Team, When


@dataclass(frozen=True, kw_only=True)
class Clean(Method):
    """Clean training of one network."""

    MIXED: ClassVar[bool] = True

    label_smoothing: float = 0.0
    """Share of every label that is spread evenly over all classes; 0: none. Typical: 0.1."""

    METRIC: ClassVar[Literal["clean"]] = "clean"

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, f"method.label_smoothing = {self.label_smoothing} must lie in [0, 1)")

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        team["model"].learn(t)

    def forward(self, me: str, model: Model, batch: Batch) -> Answer:
        return Answer(model(batch.x))

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When) -> Loss:
        smoothed = partial(cross_entropy, smoothing=self.label_smoothing)
        hard: Tensor = mixed(smoothed, own.logits, batch).mean()
        return Loss({"hard": hard}, {"clean_accuracy": mixed(accuracy, own.logits, batch)})
