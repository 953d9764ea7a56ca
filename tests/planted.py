"""A method whose reported quality is a known function of two settings and the step: what a search should find is known.

    final(a, b) = exp(-((a - 0.3)^2 + (b - 0.7)^2) / 0.08)          at most 1, at a = 0.3, b = 0.7
    quality(t)  = (1 - w) final + w (1 - final),  w = exp(-t / (0.1 length))

At first the order of trials is reversed, so the best ones are slow starters; the curves cross at 0.07 of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Any, ClassVar

from torch import tensor

from sparring.trainers.losses import cross_entropy
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import LEARNER, Answer, Batch, Loss, Role, State, Team, When

BEST = (0.3, 0.7)


def final(a: float, b: float) -> float:
    """What a trial with these settings comes to."""
    return exp(-((a - BEST[0]) ** 2 + (b - BEST[1]) ** 2) / 0.08)


@dataclass(frozen=True, kw_only=True)
class Planted(Method):
    """Clean training that reports ``quality``."""

    SEARCH: ClassVar[Mapping[str, Space]] = {"method.a": Uniform(0, 1), "method.b": Uniform(0, 1)}

    a: float = 0.5
    """Searched."""
    b: float = 0.5
    """Searched."""
    length: int = 18
    """Steps of the run, which set the pace of the curves."""

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        team["model"].learn(t)

    def forward(self, me: str, model: Model, batch: Batch) -> Answer:
        return Answer(model(batch.x))

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When) -> Loss:
        hard = cross_entropy(own.logits, batch.y).mean()
        slow, good = exp(-(when.t + 1) / (0.1 * self.length)), final(self.a, self.b)
        return Loss({"hard": hard}, {"quality": tensor((1 - slow) * good + slow * (1 - good))})
