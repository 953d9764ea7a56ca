"""How networks are compared on the held-out images, and on how many: counted in passes, so that no machine's speed decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sparring.cluster.config.settings import Settings
from sparring.trainers.config import Attack, Measure, Threat

FEWEST = 32  # held-out images, however short the run


def measure(config: Settings, threats: Sequence[Threat]) -> Measure:
    """``checkpoint.attack`` under every threat model; the union counts."""
    how = config.checkpoint
    asked = (Threat.parse(how.threat),) if how.threat else threats
    attacks = tuple(Attack(norm=t.norm, eps=t.eps, steps=how.attack_steps) for t in asked)
    by = Measure(attacks, how.attack)
    if how.looking == 0:
        return by
    steps = how.every if config.max_steps is None else min(how.every, config.max_steps)
    images = int(how.looking * steps * per_step(config) / per_image(by, config))
    return replace(by, images=max(FEWEST, images))


def per_image(by: Measure, config: Settings) -> int:
    """Passes that comparing costs per image: the clean one, and those of every attack, the run's own too."""
    return 1 + sum(a.iterations + 1 for a in (*by.attacks, config.attack))


def per_step(config: Settings) -> int:
    """Passes of an agent in one step, forwards and back: what its attack and the step after it take of a batch, at least."""
    return config.batch_size * (config.attack.iterations + 1)
