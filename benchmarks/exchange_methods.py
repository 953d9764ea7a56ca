"""Two networks that hand each other their adversarial examples and do nothing with them: the exchange alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparring.trainers.methods.at import At
from sparring.trainers.methods.base import Model
from sparring.trainers.types import LEARNER, Adversarial, Answer, Batch, Loss, Role, State, Team, When


@dataclass(frozen=True, kw_only=True)
class Handed(At):
    """Adversarial training of two networks, each beside the other's examples."""

    def roles(self) -> dict[str, Role]:
        return {"left": LEARNER, "right": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        left, right = team["left"].craft(t), team["right"].craft(t)
        team["left"].learn(t, adv=left, theirs=right)
        team["right"].learn(t, adv=right, theirs=left)

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial, theirs: Adversarial) -> Answer:
        return super().forward(me, model, batch, adv)

    def loss(
        self,
        me: str,
        own: Answer,
        batch: Batch,
        *,
        state: State,
        when: When,
        adv: Adversarial,
        theirs: Adversarial | None = None,
    ) -> Loss:
        return super().loss(me, own, batch, state=state, when=when, adv=adv)
