"""What can go wrong in adversarial training without an error: named when it happens.

All thresholds are in units of the noise of the held-out accuracy or of the run's own past, never absolute losses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from sparring.trainers.types import HeldOut, Metrics, Share

WINDOW = 20  # steps over which a training figure is averaged
GAP = 0.15  # least difference between the training attack's steps and the measure's that counts as catastrophic overfitting
DROP = 0.05  # least loss of held-out robust accuracy that counts as robust overfitting
GROWTH = 3.0  # factor by which a loss explodes
FAINT = 0.02  # share of a term in the gradient, over the whole run, below which it changes nothing
PATIENCE = 0.25  # share of the run before an accuracy at chance level means something


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something is wrong with one agent."""

    name: str
    agent: str
    t: int
    text: str
    collapse: bool  # going on is pointless


class Monitors:
    """Looks at every step and checkpoint of a run.

    Args:
        classes: number of classes.
        total: steps of the run.
    """

    def __init__(self, *, classes: int, total: int) -> None:
        self.classes, self.total = classes, total
        self.forget()

    def forget(self) -> None:
        """Begin anew: the run went back."""
        self._losses: dict[str, deque[float]] = {}
        self._train: dict[str, deque[float]] = {}
        self._calmest: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._best: dict[str, tuple[float, float]] = {}  # held-out robust accuracy, training robust accuracy then
        self._shares: dict[tuple[str, str], list[Share]] = {}  # by agent and term
        self._raised: set[tuple[str, str]] = set()

    def step(self, t: int, metrics: Mapping[str, Metrics]) -> list[Alarm]:
        """After step ``t``."""
        found = []
        for agent, m in metrics.items():
            for term, share in m.shares.items():
                self._shares.setdefault((agent, term), []).append(share)
            if "total" not in m.values:
                continue
            if "deeper_accuracy" in m.values:
                found += self._fooled(agent, t, m.values["shallow_accuracy"], m.values["deeper_accuracy"], GAP)
            losses = self._losses.setdefault(agent, deque(maxlen=WINDOW))
            losses.append(m.values["total"])
            if "robust_accuracy" in m.values:
                self._train.setdefault(agent, deque(maxlen=WINDOW)).append(m.values["robust_accuracy"])
            if len(losses) == WINDOW:
                now = fmean(losses)
                calmest = self._calmest[agent] = min(now, self._calmest.get(agent, now))
                first = self._first.setdefault(agent, now)
                if (
                    now > GROWTH * calmest and now > first
                ):  # small losses may well double; worse than at the start is worse
                    text = (
                        f"the loss is {now:.3g}, {now / calmest:.1f} times its lowest mean of {WINDOW} steps and above the "
                        f"{first:.3g} it began with"
                    )
                    found += self._raise("exploding loss", agent, t, text, collapse=True)
        return found + (self._faint(t) if t == self.total - 1 else [])

    def _faint(self, t: int) -> list[Alarm]:
        """At the end: terms that had next to no part in what was learnt."""
        found = []
        for (agent, term), shares in self._shares.items():
            gradient, loss = fmean(s.gradient for s in shares), fmean(s.loss for s in shares)
            if gradient < FAINT:
                text = (
                    f"{term} was {gradient:.1%} of the gradient and {loss:.1%} of the loss (means of {len(shares)} measured "
                    "steps): without it the result would be nearly the same. Raise its weight, or leave it out"
                )
                found += self._raise(f"faint term {term}", agent, t, text, collapse=False)
        return found

    def checkpoint(self, t: int, validation: Mapping[str, HeldOut]) -> list[Alarm]:
        """After the checkpoint of step ``t``."""
        found = []
        for agent, v in validation.items():
            robust, clean, n = v.robust, v.clean, v.n
            noise = sqrt(0.25 / n)
            found += self._fooled(agent, t, v.own_attack, robust, max(GAP, 3 * noise))
            chance = 1 / self.classes
            if t >= PATIENCE * self.total and clean <= chance + 3 * sqrt(chance * (1 - chance) / n):
                text = f"{clean:.1%} right on clean images, chance is {chance:.1%}. Lower the learning rate or eps"
                found += self._raise("chance level", agent, t, text, collapse=True)
            train = fmean(self._train[agent]) if self._train.get(agent) else 0.0
            best, train_then = self._best.get(agent, (-1.0, 0.0))
            if robust > best:
                self._best[agent] = (robust, train)
            elif best - robust > max(DROP, 2.5 * noise) and train > train_then:
                text = (
                    f"held-out robust accuracy fell from {best:.1%} to {robust:.1%} while training accuracy under attack rose "
                    f"from {train_then:.1%} to {train:.1%}; best.json keeps the better checkpoint"
                )
                found += self._raise("robust overfitting", agent, t, text, collapse=False)
        return found

    def _fooled(self, agent: str, t: int, own: float, more: float, least: float) -> list[Alarm]:
        """Right under the training attack, wrong under more steps."""
        if own - more <= least:
            return []
        text = (
            f"{own:.1%} right under the training attack's steps, {more:.1%} under more of them: the network has learnt "
            "to mask its gradient, not to be robust. Use more attack steps, or a random start"
        )
        return self._raise("catastrophic overfitting", agent, t, text, collapse=True)

    def _raise(self, name: str, agent: str, t: int, text: str, *, collapse: bool) -> list[Alarm]:
        if (name, agent) in self._raised:
            return []
        self._raised.add((name, agent))
        return [Alarm(name, agent, t, text, collapse)]
