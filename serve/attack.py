"""What the page shows: one image, attacked on one served model, within bounded steps and seconds."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serve.models import Served
from trainers.attacks import frozen, run
from trainers.config import Attack, Threat
from trainers.losses import cross_entropy
from trainers.rng import generator


class _OutOfTimeError(Exception):
    pass


def attack(
    served: Served, x: np.ndarray, *, eps: float, steps: int, seconds: float, label: int | None
) -> dict[str, Any]:
    """PGD on the cross entropy of one image, in the norm that the model was trained against.

    Args:
        x: [C, H, W] float32 in [0, 1].
        eps: radius in pixels of [0, 1]; 0: no attack.
        seconds: after which a shorter attack is tried, with half the steps, until one ends in time.
        label: the true class; default what the model says to the clean image.

    Returns:
        norm, steps taken, adversarial [C, H, W], and probabilities [K] before and after.
    """
    clean = torch.from_numpy(np.ascontiguousarray(x))[None]
    norm = Threat.parse(served.card["threats"][0]).norm if served.card["threats"] else "linf"
    deadline = time.monotonic() + seconds
    with frozen(served.model):
        with torch.no_grad():
            before = served.model(clean).softmax(1)
        y = before.argmax(1) if label is None else torch.tensor([label])
        adv, taken = clean, 0
        while eps > 0 and steps:
            chosen = Attack(norm=norm, eps=eps, steps=steps)
            try:
                adv = run(chosen, _in_time(served, y, deadline), clean, rng=generator(0, "attack"))
                taken = steps
                break
            except _OutOfTimeError:
                steps, deadline = steps // 2, time.monotonic() + seconds / 2
        with torch.no_grad():
            after = served.model(adv).softmax(1)
    return {
        "norm": norm,
        "steps": taken,
        "adversarial": adv[0].numpy(),
        "before": before[0].numpy(),
        "after": after[0].numpy(),
    }


def _in_time(served: Served, y: Tensor, deadline: float) -> Any:
    def loss(z: Tensor) -> Tensor:
        if time.monotonic() > deadline:
            raise _OutOfTimeError
        return cross_entropy(served.model(z), y)

    return loss
