"""E-AT, extreme-norm adversarial training (Croce and Hein, ICML 2022, arXiv 2105.12508).

One norm p per batch, linf or l1 only, since robustness to both implies a good deal of it in between:

    P(p) proportional to 1 - acc_p, the running robust error under p
    x'   = argmax_{||x' - x||_p <= eps_p} CE(f(x'), y)
    L    = CE(f(x'), y)
    acc_p <- m acc_p + (1 - m) accuracy of this batch          for the drawn norm alone

``uniform`` draws each norm with equal probability, which the authors call SAT.

Differences from the published code: that one attacks with APGD and keeps the running errors over an epoch; here PGD and an
exponential average. The draw of a step depends on the seed and the step alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator

from sparring.trainers.config import NORM_NAMES, Attack, require
from sparring.trainers.losses import accuracy, cross_entropy
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.rng import generator
from sparring.trainers.types import LEARNER, Adversarial, Answer, Batch, Loss, Role, State, Team, When


@dataclass(frozen=True, kw_only=True)
class Eat(Method):
    """Adversarial training of one network, one norm per batch."""

    threats: tuple[str, ...] = ("linf", "l1")
    """Norms p; each has its attack: --attacks.P."""
    uniform: bool = False
    """Draw all norms equally often (SAT)."""
    memory: float = 0.9
    """Weight m of the past in the running accuracies."""

    def __post_init__(self) -> None:
        known = bool(self.threats) and set(self.threats) <= set(NORM_NAMES)
        require(known, f"method.threats = {self.threats} is not allowed; choose from {', '.join(NORM_NAMES)}")
        require(0 <= self.memory < 1, f"method.memory = {self.memory} must lie in [0, 1)")

    def norms(self) -> tuple[str, ...]:
        return self.threats

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def start_state(self, me: str) -> State:
        return {f"acc_{p}": 0.0 for p in self.threats}

    def step(self, team: Team[Any], t: int) -> None:
        model = team["model"]
        model.learn(t, adv=model.craft(t))

    def drawn(self, state: State, when: When) -> str:
        """The norm of this step."""
        error = torch.tensor([1.0 if self.uniform else 1.0 - float(state[f"acc_{p}"]) for p in self.threats])  # type: ignore[arg-type]
        rng = generator(when.seed, when.t, "norm")
        return self.threats[int(torch.multinomial(error.clamp_min(1e-6), 1, generator=rng))]

    def attack(
        self, me: str, name: str, attacks: Mapping[str, Attack], *, state: State, when: When, rng: Generator
    ) -> Attack:
        return attacks[self.drawn(state, when)]

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial) -> Answer:
        return Answer(model(adv.x))

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When, adv: Adversarial) -> Loss:
        hard = cross_entropy(own.logits, batch.y).mean()
        return Loss({"hard": hard}, {"robust_accuracy": accuracy(own.logits, batch.y)})

    def balance(self, me: str, means: dict[str, float], state: State, when: When) -> tuple[dict[str, float], State]:
        key = f"acc_{self.drawn(state, when)}"
        seen = self.memory * float(state[key]) + (1 - self.memory) * means["robust_accuracy"]  # type: ignore[arg-type]
        return {}, {**state, key: seen}
