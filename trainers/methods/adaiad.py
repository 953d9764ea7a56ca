"""AdaIAD, AdaAD's attack with introspective distillation (Huang et al., CVPR 2023; Zhu et al., ICLR 2022).

    x'  = argmax_{||x' - x|| <= eps} KL( T(x') || S(x') )     the gradient goes through BOTH networks, both in eval mode;
                                                             started at x + 0.001 N(0, 1)
    A_i = T(x'_i)_{y_i} ^ b,  b = 0.1
    L   = a T^2 KL( T(x') || S(x') )_T + (1 - a) CE(S(x), y)
          + a 1/B sum_i (1 - A_i) KL( S(x_i) || S(x'_i) )     from epoch ``begin``; S(x) is not detached, A is

a = 1, T = 30, begin = 60. KL averaged over the batch. The teacher lives beside the student.
Forward passes of the student in train mode: x (unused), x', from ``begin`` on x for the self term, x for the labels.

Differences from the published code: none known; its unused pass is kept, because it moves batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, cross_entropy, kl
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import Adversarial, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Logits [B, K]: of the student in train mode, of the teacher in eval mode without a graph."""

    adv: Tensor
    clean: Tensor  # for the labels
    guide: Tensor | None  # on x, of the self term
    teacher: Tensor  # on x'


@dataclass(frozen=True, kw_only=True)
class Adaiad(Method):
    """A student whose attack drives it away from a teacher that it trusts less where that errs."""

    alpha: float = 1.0
    """Weight a of the soft labels; the hard ones have the rest."""
    temperature: float = 30.0
    """Temperature T of the soft labels."""
    trust: float = 0.1
    """Exponent b of the teacher's probability."""
    begin: int = 60
    """First epoch, counted from 0, in which the teacher is doubted."""

    DIGITS: ClassVar[Mapping[str, Any]] = {"begin": 12}  # of 40 epochs, as 60 of 200
    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "gaussian"}
    SEARCH: ClassVar[Mapping[str, Space]] = {
        "method.temperature": Uniform(1, 30),
        "method.trust": Uniform(0.05, 1, log=True),
    }

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, f"method.alpha = {self.alpha} must lie in [0, 1]")
        require(self.temperature > 0, f"method.temperature = {self.temperature} must be > 0")
        require(self.trust >= 0, f"method.trust = {self.trust} must be >= 0")

    def roles(self) -> dict[str, Role]:
        return {"student": Role(True, beside=("teacher",))}

    def step(self, team: Team[Any], t: int) -> None:
        team["student"].learn(t, adv=team["student"].craft(t))

    def objective(self, me: str, model: Model, batch: Batch) -> Callable[[Tensor], Tensor]:
        teacher = model.beside["teacher"]
        return lambda x: kl(teacher(x), model(x))

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial) -> Passes:
        with torch.no_grad():
            teacher = model.beside["teacher"](adv.x)
        _, again = model.twice(batch.x)
        out = model(adv.x)
        guide = again() if batch.epoch >= self.begin else None
        return Passes(out, again(), guide, teacher)

    def loss(self, me: str, own: Passes, batch: Batch, *, state: State, when: When, adv: Adversarial) -> Loss:
        t = self.temperature
        trust = own.teacher.softmax(1).gather(1, batch.y[:, None]).squeeze(1) ** self.trust
        terms = {
            "soft": self.alpha * t**2 * kl(own.teacher, own.adv, temperature=t).mean(),
            "hard": (1 - self.alpha) * cross_entropy(own.clean, batch.y).mean(),
        }
        if own.guide is not None:
            terms["self"] = self.alpha * ((1 - trust) * kl(own.guide, own.adv)).mean()
        return Loss(terms, {"robust_accuracy": accuracy(own.adv, batch.y), "trust": trust.mean()})
