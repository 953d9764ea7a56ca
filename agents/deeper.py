"""A look whether a network that trains against one step has only learnt to fool that step: catastrophic overfitting.

Source: Wong, Rice, Kolter, arXiv 2001.03994, section 5.4, who watch the accuracy under PGD on a training batch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from sparring.trainers import attacks
from sparring.trainers.config import Attack
from sparring.trainers.losses import accuracy, cross_entropy, mixed
from sparring.trainers.methods.base import Model
from sparring.trainers.types import Batch

SHALLOW = 2  # steps of a training attack up to which it is looked at
STEPS = 5  # of the deeper attack
EVERY = 100  # steps between looks at least: seven passes more in a hundred steps of two or three
FEWEST = 32  # images that make a look


def due(t: int, steps_per_epoch: int, attack: Attack) -> bool:
    """Whether step ``t`` looks: at the end of every epoch, of short epochs every ``EVERY`` steps."""
    return attack.iterations <= SHALLOW and (t + 1) % max(steps_per_epoch, EVERY) == 0


def look(model: Model, batch: Batch, attack: Attack, rng: Generator) -> dict[str, Tensor]:
    """Accuracies of a network in eval mode on its batch, under its training attack and under PGD with as large an eps.

    Of a mixed batch both labels count by their weights, in the attacks as in the accuracies: what such a network trains on.
    """
    deeper = replace(attack, kind="pgd", steps=STEPS, step_size=None, start="uniform", bn="eval")

    def right(chosen: Attack) -> Tensor:
        adv = attacks.run(chosen, lambda x: mixed(cross_entropy, model(x), batch), batch.x, rng=rng)
        with torch.no_grad():
            return mixed(accuracy, model(adv), batch)

    return {"shallow_accuracy": right(replace(attack, bn="eval")), "deeper_accuracy": right(deeper)}
