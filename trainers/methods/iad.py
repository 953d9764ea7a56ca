"""IAD, introspective adversarial distillation: trust the teacher where it is right (Zhu et al., ICLR 2022, arXiv 2106.04928).

    x'  = argmax_{||x' - x|| <= eps} CE(S(x'), y)     uniform start, not clipped; student in TRAIN mode: batch norm moves
    A_i = R(x'_i)_{y_i} ^ b,  b = 0.1                 how far the teacher R is trusted on example i

I:   L = alpha T^2 KL( R(x) || S(x') )_T + alpha 1/B sum_i (1 - A_i) KL( S(x_i) || S(x'_i) ) + (1 - alpha) CE(S(x), y)
II:  L = (1 - a1 - a2) CE(S(x'), y) + a2 T^2 KL( N(x') || S(x') )_T
         + a1 T^2 1/B sum_i [ A_i KL( R(x'_i) || S(x'_i) )_T + (1 - A_i) KL( S(x_i) || S(x'_i) ) ]

Before epoch ``begin`` A = 1, so the student's own part is absent. KL averaged over the batch; the student's clean side is
not detached and at temperature 1. In I the teacher's part is not multiplied by A. alpha = 1, T = 1, begin = 60 (I);
a1 = 0.5, a2 = 0.25, begin = 40 (II). N is a naturally trained teacher (II only).
Forward passes in train mode: ten in the attack, then
I:   x', x' again (unused), from ``begin`` on x for the self term, x for the labels;   II:  x', from ``begin`` on x.

Differences from the published code: none known; its unused pass is kept, because it moves batch norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, cross_entropy, kl
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import FROZEN, LEARNER, Adversarial, Answer, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Train-mode logits [B, K] of the student."""

    adv: Tensor
    clean: Tensor | None  # for the labels (I)
    guide: Tensor | None  # on x, of the self term


@dataclass(frozen=True, kw_only=True)
class Iad(Method):
    """A student that trusts its teacher less where the teacher errs."""

    variant: Literal["I", "II"] = "I"
    """I: one teacher. II: a naturally trained one besides."""
    alpha: float = 1.0
    """I: weight of the soft labels; the hard ones have the rest."""
    alpha1: float = 0.5
    """II: weight of the robust teacher and of the student itself."""
    alpha2: float = 0.25
    """II: weight of the naturally trained teacher."""
    temperature: float = 1.0
    """Temperature T of the teachers' soft labels."""
    trust: float = 0.1
    """Exponent b of the teacher's probability."""
    begin: int | None = None
    """First epoch, counted from 0, in which the teacher is doubted; default 60 (I) or 40 (II) of the authors' 200."""

    DIGITS: ClassVar[Mapping[str, Any]] = {"begin": 12}  # of 40 epochs, as 60 of 200
    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "unclipped", "bn": "train"}
    DEPLOY: ClassVar[tuple[str, ...]] = ("student",)
    SEARCH: ClassVar[Mapping[str, Space]] = {
        "method.temperature": Uniform(1, 10),
        "method.trust": Uniform(0.05, 1, log=True),
    }

    def __post_init__(self) -> None:
        for name in ("alpha", "alpha1", "alpha2"):
            require(0 <= getattr(self, name) <= 1, f"method.{name} = {getattr(self, name)} must lie in [0, 1]")
        require(self.alpha1 + self.alpha2 <= 1, "method.alpha1 + method.alpha2 must be at most 1")
        require(self.temperature > 0, f"method.temperature = {self.temperature} must be > 0")
        require(self.trust >= 0, f"method.trust = {self.trust} must be >= 0")

    def roles(self) -> dict[str, Role]:
        clean = {"clean_teacher": FROZEN} if self.variant == "II" else {}
        return {"student": LEARNER, "teacher": FROZEN, **clean}

    @property
    def first_doubt(self) -> int:
        """begin, the variant's unless given."""
        return self.begin if self.begin is not None else 60 if self.variant == "I" else 40

    def step(self, team: Team[Any], t: int) -> None:
        student, teacher = team["student"], team["teacher"]
        soft = {"soft": teacher.answer(t)} if self.variant == "I" else {}  # while the student attacks
        adv = student.craft(t)
        clean = {"clean": team["clean_teacher"].answer(t, adv)} if self.variant == "II" else {}
        student.learn(t, adv=adv, guide=teacher.answer(t, adv), **soft, **clean)

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial, **teachers: Answer) -> Passes:
        out, again = model.twice(adv.x)
        if self.variant == "I":
            again()
        if batch.epoch < self.first_doubt:
            return Passes(out, model(batch.x) if self.variant == "I" else None, None)
        guide, again = model.twice(batch.x)
        return Passes(out, again() if self.variant == "I" else None, guide)

    def loss(
        self,
        me: str,
        own: Passes,
        batch: Batch,
        *,
        state: State,
        when: When,
        adv: Adversarial,
        guide: Answer,
        soft: Answer | None = None,
        clean: Answer | None = None,
    ) -> Loss:
        t, doubts = self.temperature, own.guide is not None
        trust = guide.logits.softmax(1).gather(1, batch.y[:, None]).squeeze(1) ** self.trust
        myself = kl(own.guide, own.adv) if own.guide is not None else torch.zeros_like(trust)
        if self.variant == "I":
            assert own.clean is not None
            assert soft is not None
            terms = {
                "soft": self.alpha * t**2 * kl(soft.logits, own.adv, temperature=t).mean(),
                "self": self.alpha * ((1 - trust) * myself).mean(),
                "hard": (1 - self.alpha) * cross_entropy(own.clean, batch.y).mean(),
            }
        else:
            assert clean is not None
            weight = trust if doubts else torch.ones_like(trust)
            terms = {
                "soft": self.alpha1 * t**2 * (weight * kl(guide.logits, own.adv, temperature=t)).mean(),
                "self": self.alpha1 * t**2 * ((1 - weight) * myself).mean(),
                "clean": self.alpha2 * t**2 * kl(clean.logits, own.adv, temperature=t).mean(),
                "hard": (1 - self.alpha1 - self.alpha2) * cross_entropy(own.adv, batch.y).mean(),
            }
        return Loss(terms, {"robust_accuracy": accuracy(own.adv, batch.y), "trust": trust.mean()})
