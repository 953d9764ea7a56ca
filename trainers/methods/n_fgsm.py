"""N-FGSM (de Jorge et al., NeurIPS 2022, arXiv 2202.01181, algorithm 1): FGSM from strong noise, without a projection.

    z  = x + U(-noise * eps, noise * eps)                        noise = 2, clipped to [0, 1]
    x' = z + step * eps * sign grad_z CE(f(z), y)                step = 1, clipped to [0, 1] but NOT to the ball
    L  = CE(f(x'), y)                                            network in train mode throughout

The noise augments the clean image: |x' - x| may reach (noise + step) * eps. As cheap as fgsm_rs, and the paper sees no
catastrophic overfitting where that one shows it (eps up to 16/255). linf only.

Differences from the published code: none known in the step; its cyclic learning rate is a matter of the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from sparring.trainers.config import Attack, NoiseStep, require
from sparring.trainers.methods.at import At
from sparring.trainers.methods.fgsm_rs import one_step
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import State, When


@dataclass(frozen=True, kw_only=True)
class NFgsm(At):
    """Adversarial training on one step from strong noise."""

    noise: float = 2.0
    """Half width of the noise in units of eps."""
    step_length: float = 1.0
    """Length of the step in units of eps, unless --attack.step-size is given."""

    ATTACK: ClassVar[Mapping[str, Any]] = {"kind": "fgsm", "start": None, "step_size": None, "bn": "train"}
    SEARCH: ClassVar[Mapping[str, Space]] = {"method.noise": Uniform(0, 3), "optim.lr": Uniform(0.01, 0.3, log=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.noise >= 0, f"method.noise = {self.noise} must be >= 0")
        require(self.step_length > 0, f"method.step_length = {self.step_length} must be > 0")

    def check(self, attacks: Mapping[str, Attack]) -> None:
        one_step(attacks["train"], "n_fgsm")
        if attacks["train"].norm != "linf":
            raise ValueError(f"n_fgsm is defined for linf, attack.norm = {attacks['train'].norm!r} is not allowed")

    def attack(
        self, me: str, name: str, attacks: Mapping[str, Attack], *, state: State, when: When, rng: Generator
    ) -> NoiseStep:
        a = attacks[name]
        return NoiseStep(noise=self.noise * a.eps, step_size=a.step_size or self.step_length * a.eps, bn=a.bn)
