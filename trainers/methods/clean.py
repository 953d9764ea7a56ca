"""Clean training: cross entropy on clean images, no attack. The undefended baseline, and the usual clean teacher.

L = CE(f(x), y)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from sparring.trainers.losses import accuracy, cross_entropy
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.types import LEARNER, Answer, Batch, Loss, Role, State, Team, When


@dataclass(frozen=True, kw_only=True)
class Clean(Method):
    """Clean training of one network."""

    METRIC: ClassVar[Literal["clean"]] = "clean"

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        team["model"].learn(t)

    def forward(self, me: str, model: Model, batch: Batch) -> Answer:
        return Answer(model(batch.x))

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When) -> Loss:
        hard: Tensor = cross_entropy(own.logits, batch.y).mean()
        return Loss({"hard": hard}, {"clean_accuracy": accuracy(own.logits, batch.y)})
