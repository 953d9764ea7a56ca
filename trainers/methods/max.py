"""MAX: adversarial training on each image's worst norm (Tramer and Boneh, NeurIPS 2019, arXiv 1904.13000).

    x_p = argmax_{||x_p - x||_p <= eps_p} CE(f(x_p), y)  for every norm p
    x'  = per example the x_p of highest CE(f(x_p), y), f in eval mode
    L   = CE(f(x'), y)

Forward passes in train mode: x' alone.

Differences from the published code of MSD, which has this baseline too: that one lowers the linf step to 0.005 for it
(``--attacks.linf.step-size``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.trainers.attacks import spread
from sparring.trainers.config import NORM_NAMES, require
from sparring.trainers.losses import accuracy, cross_entropy
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.types import LEARNER, Adversarial, Answer, Batch, Loss, Role, State, Team, When


@dataclass(frozen=True, kw_only=True)
class Max(Method):
    """Adversarial training of one network on the worst of several norms."""

    threats: tuple[str, ...] = NORM_NAMES
    """Norms p; each has its attack: --attacks.P."""

    def __post_init__(self) -> None:
        known = bool(self.threats) and set(self.threats) <= set(NORM_NAMES)
        require(known, f"method.threats = {self.threats} is not allowed; choose from {', '.join(NORM_NAMES)}")

    def norms(self) -> tuple[str, ...]:
        return self.threats

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        model = team["model"]
        adv = {p: model.craft(t, attack=p) for p in self.threats}
        model.learn(t, adv=adv, said=model.answer(t, adv))

    def forward(
        self, me: str, model: Model, batch: Batch, adv: Mapping[str, Adversarial], said: Mapping[str, Answer]
    ) -> Answer:
        return Answer(model(worst(batch.y, adv, said)))

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When, **seen: Any) -> Loss:
        hard = cross_entropy(own.logits, batch.y).mean()
        return Loss({"hard": hard}, {"robust_accuracy": accuracy(own.logits, batch.y)})


def worst(y: Tensor, adv: Mapping[str, Adversarial], said: Mapping[str, Answer]) -> Tensor:
    """Per example, the one of ``adv`` whose logits in ``said`` have the highest cross entropy; [B, C, H, W]."""
    names = list(adv)
    highest = torch.stack([cross_entropy(said[p].logits, y) for p in names]).argmax(0)
    chosen = adv[names[0]].x
    for i, p in enumerate(names[1:], start=1):
        chosen = torch.where(spread(highest == i, chosen), adv[p].x, chosen)
    return chosen
