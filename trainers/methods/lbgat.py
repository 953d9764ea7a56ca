"""LBGAT, learnable boundary guided adversarial training (Cui et al., ICCV 2021, arXiv 2011.11164).

A guide G learns clean images from scratch and lends its boundary to a robust student S that trains beside it:

    x' = argmax_{||x' - x|| <= eps} KL( sg S(x) || S(x') )    started at x + 0.001 N(0, 1), student in eval mode
    L  = mean over B * K of (S(x') - G(x))^2 + CE(G(x), y) + beta KL( S(x) || S(x') )

beta = 0 (LBGAT0) or 6 (LBGAT6). The first term compares logits; NOTHING is detached, so the guide feels it too. KL averaged
over the batch. Both networks step at once. Forward passes in train mode: x', x of the student; x of the guide.

Differences from the published code: none known. Inside the attack it computes the clean logits in every iteration; they do
not change, so they are computed once here. The authors' guide is ``resnet18_lbgat``: --agents.guide.network.
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
    """Train-mode logits [B, K]: with a graph at their owner, constants at the other."""

    clean: Tensor
    adv: Tensor | None = None  # the student's


@dataclass(frozen=True, kw_only=True)
class Lbgat(Method):
    """A robust student guided by a network for clean images."""

    beta: float = 0.0
    """Weight of the student's agreement with itself; the paper reports 0 and 6."""

    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "gaussian"}
    DEPLOY: ClassVar[tuple[str, ...]] = ("student",)
    SEARCH: ClassVar[Mapping[str, Space]] = {"method.beta": Uniform(0, 10)}

    def __post_init__(self) -> None:
        require(self.beta >= 0, f"method.beta = {self.beta} must be >= 0")

    def roles(self) -> dict[str, Role]:
        return {"student": LEARNER, "guide": LEARNER}

    def check(self, attacks: Mapping[str, Attack]) -> None:
        if attacks["train"].initial == "none":
            raise ValueError("lbgat needs a random start: the KL has no gradient at x; set --attack.start gaussian")

    def step(self, team: Team[Any], t: int) -> None:
        student, guide = team["student"], team["guide"]
        zg = guide.predict(t)  # while the student attacks
        zs = student.predict(t, adv=student.craft(t))
        student.learn(t, other=zg)
        guide.learn(t, other=zs)

    def objective(self, me: str, model: Model, batch: Batch) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            clean = model(batch.x)
        divergence = kl_from(clean)
        return lambda x: divergence(model(x))

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial | None = None) -> Passes:
        out = model(adv.x) if adv is not None else None
        return Passes(model(batch.x), out)

    def loss(self, me: str, own: Passes, batch: Batch, *, state: State, when: When, other: Passes) -> Loss:
        s, g = (own, other) if me == "student" else (other, own)
        assert s.adv is not None
        terms = {
            "guided": (s.adv - g.clean).square().mean(),
            "guide": cross_entropy(g.clean, batch.y).mean(),
            "self": self.beta * kl(s.clean, s.adv).mean(),
        }
        return Loss(terms, {"robust_accuracy": accuracy(s.adv, batch.y), "guide_accuracy": accuracy(g.clean, batch.y)})
