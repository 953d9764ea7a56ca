"""Adversarial training with smoothed labels: what soft labels do without a peer that gives them (Szegedy et al., arXiv 1512.00567)."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn import functional as F

from sparring.trainers.losses import accuracy
from sparring.trainers.methods.at import At
from sparring.trainers.types import Adversarial, Answer, Batch, Loss, State, When


@dataclass(frozen=True, kw_only=True)
class Smoothed(At):
    """Adversarial training of one network on smoothed labels; the attack raises the plain cross entropy."""

    smoothing: float = 0.1
    """Share of every label that is spread over all classes."""

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When, adv: Adversarial) -> Loss:
        smoothed = F.cross_entropy(own.logits, batch.y, label_smoothing=self.smoothing)
        return Loss({"smoothed": smoothed}, {"robust_accuracy": accuracy(own.logits, batch.y)})
