"""AKD2, adversarial distillation from two teachers (Chen et al., ICLR 2021), as IAD's published code implements it.

    x' = argmax_{||x' - x|| <= eps} CE(S(x'), y)      uniform start, not clipped; student in TRAIN mode: batch norm moves
    L  = (1 - a1 - a2) CE(S(x'), y) + a1 T^2 KL( R(x') || S(x') )_T + a2 T^2 KL( N(x') || S(x') )_T

R is a robust, N a naturally trained teacher, both on x'. KL averaged over the batch; a1 = 0.5, a2 = 0.25, T = 1.
Forward passes in train mode: ten in the attack, then x'.

Differences from the published code: none known. The paper's own code adds stochastic weight averaging (``--optim.swa``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, cross_entropy, kl
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import FROZEN, LEARNER, Adversarial, Answer, Batch, Loss, Role, State, Team, When


@dataclass(frozen=True, kw_only=True)
class Akd2(Method):
    """A student between a robust and a naturally trained teacher, all on adversarial examples."""

    alpha1: float = 0.5
    """Weight of the robust teacher."""
    alpha2: float = 0.25
    """Weight of the naturally trained teacher; hard labels have the rest."""
    temperature: float = 1.0
    """Temperature T of all soft labels."""

    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "unclipped", "bn": "train"}
    SEARCH: ClassVar[Mapping[str, Space]] = {
        "method.alpha1": Uniform(0, 0.6),
        "method.alpha2": Uniform(0, 0.4),
        "method.temperature": Uniform(1, 10),
    }

    def __post_init__(self) -> None:
        weights = min(self.alpha1, self.alpha2, 1 - self.alpha1 - self.alpha2)
        require(
            weights >= 0, f"method.alpha1 = {self.alpha1} and alpha2 = {self.alpha2} must be >= 0 and sum to at most 1"
        )
        require(self.temperature > 0, f"method.temperature = {self.temperature} must be > 0")

    def roles(self) -> dict[str, Role]:
        return {"student": LEARNER, "teacher": FROZEN, "clean_teacher": FROZEN}

    def step(self, team: Team[Any], t: int) -> None:
        adv = team["student"].craft(t)
        robust, clean = team["teacher"].answer(t, adv), team["clean_teacher"].answer(t, adv)
        team["student"].learn(t, adv=adv, robust=robust, clean=clean)

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial, **teachers: Answer) -> Answer:
        return Answer(model(adv.x))

    def loss(
        self,
        me: str,
        own: Answer,
        batch: Batch,
        *,
        state: State,
        when: When,
        robust: Answer,
        clean: Answer,
        **seen: Any,
    ) -> Loss:
        t = self.temperature
        terms = {
            "hard": (1 - self.alpha1 - self.alpha2) * cross_entropy(own.logits, batch.y).mean(),
            "robust": self.alpha1 * t**2 * kl(robust.logits, own.logits, temperature=t).mean(),
            "clean": self.alpha2 * t**2 * kl(clean.logits, own.logits, temperature=t).mean(),
        }
        return Loss(terms, {"robust_accuracy": accuracy(own.logits, batch.y)})
