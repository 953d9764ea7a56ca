"""MSD, multi steepest descent (Maini, Wong, Kolter, ICML 2020, arXiv 1909.04068, algorithm 1).

    d_0 = 0;  in every step one candidate per norm p from the same gradient, with that norm's steepest step and projection;
    per example the candidate of highest CE goes on;  x' = x + the best d seen, which lies in the union of the balls
    L   = CE(f(x'), y)

Forward passes in train mode: x' alone.

Differences from the published code: it attacks in train mode (``--attacks.linf.bn train``), in which every forward pass
moves the batch-norm statistics; eval is the default here, as for the other methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Generator

from sparring.trainers.config import NORM_NAMES, Attack, Msd, require
from sparring.trainers.losses import accuracy, cross_entropy
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.types import LEARNER, Adversarial, Answer, Batch, Loss, Role, State, Team, When


@dataclass(frozen=True, kw_only=True)
class MultiSteepestDescent(Method):
    """Adversarial training of one network on the union of several balls."""

    threats: tuple[str, ...] = NORM_NAMES
    """Norms p; --attacks.P gives each its ball and length of a step."""
    steps: int | None = None
    """Steps of the attack; default the most of any norm's attack. The authors take 50 on CIFAR-10."""

    def __post_init__(self) -> None:
        known = bool(self.threats) and set(self.threats) <= set(NORM_NAMES)
        require(known, f"method.threats = {self.threats} is not allowed; choose from {', '.join(NORM_NAMES)}")

    def norms(self) -> tuple[str, ...]:
        return self.threats

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        model = team["model"]
        model.learn(t, adv=model.craft(t))

    def attack(
        self, me: str, name: str, attacks: Mapping[str, Attack], *, state: State, when: When, rng: Generator
    ) -> Msd:
        each = tuple(attacks[p] for p in self.threats)
        return Msd(each, self.steps if self.steps is not None else max(a.iterations for a in each))

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial) -> Answer:
        return Answer(model(adv.x))

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When, adv: Adversarial) -> Loss:
        hard = cross_entropy(own.logits, batch.y).mean()
        return Loss({"hard": hard}, {"robust_accuracy": accuracy(own.logits, batch.y)})
