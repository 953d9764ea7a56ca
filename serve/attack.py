"""What the page shows: one image, attacked on one served model, within bounded steps and seconds."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.agents.cascade import Cascade, Smooth
from sparring.agents.robustness import judged
from sparring.serve import background
from sparring.serve.models import Models
from sparring.serve.settings import Settings
from sparring.serve.versions import Served
from sparring.trainers.attacks import run
from sparring.trainers.config import Attack, Threat
from sparring.trainers.losses import cross_entropy
from sparring.trainers.rng import generator

NICE = 19  # predictions go first


class _OutOfTimeError(Exception):
    pass


class Attacker:
    """Attacks one image at a time, on one thread of a process of its own, which this makes."""

    def __init__(self, settings: Settings) -> None:
        background.log_lines()
        os.nice(NICE)
        torch.set_num_threads(1)
        self._models = Models(settings.model_copy(update={"gpus": 0.0}))
        self._models.poll()
        background.every(settings.poll, self._models.poll)

    def attack(self, name: str, version: int | None, x: np.ndarray, **options: Any) -> dict[str, Any]:
        """``version``, and what :func:`attack` finds.

        Raises:
            NotFound: no such version is served.
        """
        number, served = self._models.get(name, version, x.shape)
        return {"version": number, **attack(served, x, **options)}


def attack(
    served: Served, x: np.ndarray, *, eps: float, steps: int, seconds: float, label: int | None
) -> dict[str, Any]:
    """PGD on the cross entropy of one image, in the norm that the model was trained against; of a cascade through both its forms.

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

        def loss(z: Tensor, by: nn.Module) -> Tensor:
            if seen and time.monotonic() > deadline:
                raise _OutOfTimeError
            seen.append(z.detach())
            return cross_entropy(by(z), y)

        adv = clean
        for followed in _followed(served.model) if eps > 0 else ():
            seen.clear()
            try:
                how, rng = Attack(norm=norm, eps=eps, steps=steps), generator(0, "attack")
                adv = run(how, lambda z, by=followed: loss(z, by), clean, rng=rng)  # type: ignore[misc]
            except _OutOfTimeError:
                adv, steps = seen[-1], len(seen) - 1  # every point that the attack looks at lies in the ball
                break
            with torch.no_grad():
                if served.model(adv).argmax(1) != y:
                    break
        with torch.no_grad():
            after = served.model(adv).softmax(1)
    return {
        "norm": norm,
        "steps": steps if eps > 0 else 0,
        "adversarial": adv[0].numpy(),
        "before": before[0].numpy(),
        "after": after[0].numpy(),
    }


def _followed(model: nn.Module) -> tuple[nn.Module, ...]:
    """See ``agents.cascade.forms``; a faster form is not worth making for one image, and tracing one is nothing for a process of threads."""
    return (model, Smooth(model).eval()) if isinstance(model, Cascade) else (model,)
