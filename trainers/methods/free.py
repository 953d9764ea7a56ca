"""Free adversarial training (Shafahi et al., NeurIPS 2019, arXiv 1904.12843, algorithm 1).

    every batch is seen in ``replays`` = m consecutive steps; d is carried from step to step, over batches too, 0 at the start
    L  = CE(f(x + d), y)                                         x + d clipped to [0, 1], network in train mode
    one backward pass gives both:   theta <- theta - lr grad_theta L,     d <- clip( d + eps sign grad_d L, -eps, eps )

So a step costs what a plain one does. Epochs count optimiser steps here: one epoch sees a share of 1 / m of the training
images m times, as the paper divides its epochs by m.

Differences from the published code: d belongs to the agent and is part of its checkpoint, so a run that is continued ends in
the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparring.trainers.config import Attack, require
from sparring.trainers.losses import accuracy, cross_entropy
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import LEARNER, Answer, Batch, Loss, Role, State, Team, When


class Perturbation(nn.Module):
    """The perturbation of a batch [B, C, H, W], which every backward pass moves. Empty before the first step."""

    delta: Tensor

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("delta", torch.empty(0))

    def on(self, x: Tensor) -> Tensor:
        """``x`` + d in the box. The gradient that comes back moves d by eps within the ball."""
        if len(self.delta) < len(x):  # a first or a larger batch: new places start at 0
            grown = torch.zeros_like(x)
            if self.delta.numel():
                grown[: len(self.delta)] = self.delta
            self.delta = grown
        own = torch.empty_like(x).copy_(self.delta[: len(x)]).requires_grad_(torch.is_grad_enabled())
        if own.requires_grad:
            own.register_hook(self._move)  # type: ignore[no-untyped-call]
        return (x + own).clamp(0, 1)

    def _move(self, gradient: Tensor) -> None:
        moved = torch.add(self.delta[: len(gradient)], gradient.sign(), alpha=self.eps)
        self.delta[: len(gradient)] = moved.clamp(-self.eps, self.eps)

    def _load_from_state_dict(self, state: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        self.delta = state[f"{prefix}delta"].to(self.delta.device, copy=True)  # of any size


@dataclass(frozen=True, kw_only=True)
class Free(Method):
    """Adversarial training for the price of plain training."""

    replays: int = 8
    """Consecutive steps m on the same batch."""

    ATTACK: ClassVar[Mapping[str, Any]] = {"kind": "fgsm", "start": None, "step_size": None}
    WHOLE: ClassVar[bool] = True
    SEARCH: ClassVar[Mapping[str, Space]] = {"optim.lr": Uniform(0.01, 0.3, log=True)}

    def __post_init__(self) -> None:
        require(self.replays >= 1, f"method.replays = {self.replays} must be >= 1")

    def roles(self) -> dict[str, Role]:
        return {"model": LEARNER}

    def steps_on_a_batch(self) -> int:
        return self.replays

    def check(self, attacks: Mapping[str, Attack]) -> None:
        if attacks["train"].norm != "linf":
            raise ValueError(f"free is defined for linf, attack.norm = {attacks['train'].norm!r} is not allowed")

    def carried_tensors(self, me: str, attacks: Mapping[str, Attack]) -> nn.Module:
        return Perturbation(attacks["train"].eps)

    def step(self, team: Team[Any], t: int) -> None:
        team["model"].learn(t)

    def forward(self, me: str, model: Model, batch: Batch) -> Answer:
        assert isinstance(model.helpers, Perturbation)
        return Answer(model(model.helpers.on(batch.x)))

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When) -> Loss:
        hard = cross_entropy(own.logits, batch.y).mean()
        return Loss({"hard": hard}, {"robust_accuracy": accuracy(own.logits, batch.y)})
