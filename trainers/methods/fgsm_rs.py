"""Fast adversarial training: FGSM from a random start (Wong, Rice, Kolter, ICLR 2020, arXiv 2001.03994, algorithm 3).

    d  ~ U(-eps, eps)                                            x + d clipped to [0, 1]
    d  = clip( d + step * eps * sign grad_d CE(f(x + d), y), -eps, eps )          step = 1.25, network in train mode
    L  = CE(f(x + d), y)                                         x + d clipped to [0, 1]

One gradient for the attack and one for the weights: about two plain steps. With a large eps or a long schedule the network
may learn to fool this one step ("catastrophic overfitting"); a monitor says so at the next checkpoint.

Differences from the published code: none known in the step; its cyclic learning rate is a matter of the recipe
(``--optim.schedule triangle`` comes near), and its early stop when training under PGD collapses is the monitor's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Generator

from sparring.trainers.config import Attack, require
from sparring.trainers.methods.at import At
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import State, When


@dataclass(frozen=True, kw_only=True)
class FgsmRs(At):
    """Adversarial training on one step from a random start."""

    step_length: float = 1.25
    """Length of the step in units of eps, unless --attack.step-size is given."""

    ATTACK: ClassVar[Mapping[str, Any]] = {"kind": "fgsm", "start": "uniform", "step_size": None, "bn": "train"}
    SEARCH: ClassVar[Mapping[str, Space]] = {
        "method.step_length": Uniform(0.5, 2),
        "optim.lr": Uniform(0.01, 0.3, log=True),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.step_length > 0, f"method.step_length = {self.step_length} must be > 0")

    def check(self, attacks: Mapping[str, Attack]) -> None:
        one_step(attacks["train"], "fgsm_rs")

    def attack(
        self, me: str, name: str, attacks: Mapping[str, Attack], *, state: State, when: When, rng: Generator
    ) -> Attack:
        chosen = attacks[name]
        return replace(chosen, step_size=chosen.step_size or self.step_length * chosen.eps)


def one_step(attack: Attack, method: str) -> None:
    """Refuse an attack of several steps.

    Raises:
        ValueError: the attack is not of kind fgsm.
    """
    if attack.kind != "fgsm":
        raise ValueError(
            f"{method} attacks with one step, attack.kind = {attack.kind!r} takes {attack.iterations}; set --attack.kind fgsm, "
            "or train with several steps: sparring train at"
        )
