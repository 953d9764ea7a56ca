"""The AutoAttack authors' own code (pyautoattack), on one block of images with one seed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparring.trainers.autoattack import TARGETED_DLR_CLASSES
from sparring.trainers.config import Threat

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def reference(model: nn.Module, x: Tensor, y: Tensor, *, threat: Threat, seed: int) -> tuple[Tensor, list[str]]:
    """Examples [n, C, H, W] of the standard version, and the warnings that their code gave.

    With fewer than 4 classes only what the losses allow runs, with fewer than 10 fewer targets, and without Square where its squares
    do not fit the images (:func:`squares_laid`): such numbers are not comparable with published ones.

    Args:
        x: [n, C, H, W] float32 in [0, 1]; all go in one batch, since their code draws for a whole one.
        y: [n] labels.
    """
    from pyautoattack import AutoAttack

    with undisturbed(), _messages() as messages, torch.no_grad():
        classes = model(x[:1]).shape[1]
        made = AutoAttack(
            model, norm=NORMS[threat.norm], eps=threat.eps, seed=seed, version="standard", device=x.device
        )
        if classes < TARGETED_DLR_CLASSES:
            made.attacks_to_run = [a for a in made.attacks_to_run or [] if a in {"apgd-ce", "fab-t", "square"}]
        laid = squares_laid(threat.norm, tuple(x.shape[-2:]))
        if laid is None:
            made.attacks_to_run = [a for a in made.attacks_to_run or [] if a != "square"]
        elif laid == "transposed":
            _transposed(made.square, model)
        for attack in (made.apgd_targeted, made.fab):
            attack.n_target_classes = min(attack.n_target_classes, classes - 1)
        adv, _ = made.run_standard_evaluation(x, y, batch_size=len(x))
    found: Tensor = adv.detach()
    return found, messages


def squares_laid(norm: str, size: tuple[int, ...]) -> str | None:
    """How their Square's first pattern fits images of (height, width): ``as it is``, ``transposed``, or None where it cannot.

    Linf starts with stripes, which fit any image. For l2 and l1 pyautoattack 0.2 lays squares of a fifth of the height, more of
    them where an image is wider: with fewer than 5 rows there is none, and where the last one leaves the image it fails.
    """

    def fits(height: int, width: int) -> bool:
        side = height // 5
        start = (height - 5 * side) // 2
        ends = [start + (length // side) * side for length in (height, width)] if side else []
        return side == 1 or (side > 1 and ends[0] <= height and ends[1] <= width)

    height, width = size
    return "as it is" if norm == "linf" or fits(height, width) else "transposed" if fits(width, height) else None


def _transposed(attack: Any, model: nn.Module) -> None:
    """Let Square see images with rows and columns exchanged."""
    perturb = attack.perturb
    attack.predict = lambda x: model(x.mT)
    attack.perturb = lambda x, y: perturb(x.mT.contiguous(), y).mT.contiguous()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Give back what other people's code sets: random states, the trace function."""
    trace = sys.gettrace()
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        sys.settrace(trace)


@contextmanager
def _messages() -> Iterator[list[str]]:
    """What the authors' code has to say, instead of on the screen."""
    logger, seen = logging.getLogger("auto-attack"), []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    handler, propagate = Keep(logging.WARNING), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield seen
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
