"""What the page shows: one image, attacked on one served model, within bounded steps and seconds."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.agents.robustness import judged
from sparring.serve.models import Served
from sparring.trainers.attacks import run
from sparring.trainers.config import Attack, Threat
from sparring.trainers.losses import cross_entropy
from sparring.trainers.rng import generator


class _OutOfTimeError(Exception):
    pass


def attack(
    served: Served, x: np.ndarray, *, eps: float, steps: int, seconds: float, label: int | None
) -> dict[str, Any]:
    """PGD on the cross entropy of one image, in the norm that the model was trained against.

    Args:
        x: [C, H, W] float32 in [0, 1].
        eps: radius in pixels of [0, 1]; 0: no attack.
        seconds: after which the attack ends with what it has.
        label: the true class; default what the model says to the clean image.

    Returns:
        norm, steps taken, adversarial [C, H, W], and probabilities [K] before and after.
    """
    clean = torch.from_numpy(np.ascontiguousarray(x))[None]
    norm = Threat.parse(served.card["threats"][0]).norm if served.card["threats"] else "linf"
    seen: list[Tensor] = []
    deadline = time.monotonic() + seconds
    with judged(served.model):
        with torch.no_grad():
            before = served.model(clean).softmax(1)
        y = before.argmax(1) if label is None else torch.tensor([label])

        def loss(z: Tensor) -> Tensor:
            if seen and time.monotonic() > deadline:
                raise _OutOfTimeError
            seen.append(z.detach())
            return cross_entropy(served.model(z), y)

        adv = clean
        if eps > 0:
            try:
                adv = run(Attack(norm=norm, eps=eps, steps=steps), loss, clean, rng=generator(0, "attack"))
            except _OutOfTimeError:
                adv, steps = seen[-1], len(seen) - 1  # every point that the attack looks at lies in the ball
        with torch.no_grad():
            after = served.model(adv).softmax(1)
    return {
        "norm": norm,
        "steps": steps if eps > 0 else 0,
        "adversarial": adv[0].numpy(),
        "before": before[0].numpy(),
        "after": after[0].numpy(),
    }
