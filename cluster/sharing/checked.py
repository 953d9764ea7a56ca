"""An exported program held against its network: the same images, and adversarial examples made on the network, through both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.agents.attacked import attacked
from sparring.cluster.errors import SparringError
from sparring.cluster.sharing.programs import Runs
from sparring.trainers.config import Attack, Threat

IMAGES = 256
STEPS = 20  # of PGD
CLOSE = 1e-3  # of the largest logit: as far as float32 in another order of operations may lead


@dataclass(frozen=True)
class Checked:
    """What was seen."""

    images: int
    largest_difference: float  # of logits, on clean and adversarial images
    same_class: float  # share of clean images
    clean_accuracy: float  # of the network
    clean_accuracy_exported: float
    attack: str
    broken: int  # images that the network has right until they are attacked
    also_broken: int  # of these, the ones whose adversarial example also fools the program

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def checked(model: nn.Module, runs: Runs, x: Tensor, y: Tensor, *, threat: Threat, exact: bool) -> Checked:
    """Run both.

    Args:
        runs: the program.
        x: [B, C, H, W] in [0, 1]; y: [B] classes.
        exact: the program computes in float32 too, and has to answer the same.

    Raises:
        SparringError: it does not.
    """
    how = Attack(norm=threat.norm, eps=threat.eps, steps=STEPS)
    adversarial = attacked(model, x, y, how).detach()
    with torch.no_grad():
        own = [model(images).numpy() for images in (x, adversarial)]
    theirs = [runs(images.contiguous().numpy()) for images in (x, adversarial)]
    apart = max(float(np.abs(a - b).max()) for a, b in zip(own, theirs, strict=True))
    largest = max(float(np.abs(a).max()) for a in own)
    if exact and not apart <= CLOSE * max(1.0, largest):
        raise SparringError(f"the exported program answers otherwise than the network: logits up to {apart:.3g} apart")
    labels = y.numpy()
    right, right_exported = (answers[0].argmax(1) == labels for answers in (own, theirs))
    broken = right & (own[1].argmax(1) != labels)
    return Checked(
        images=len(x),
        largest_difference=apart,
        same_class=float((own[0].argmax(1) == theirs[0].argmax(1)).mean()),
        clean_accuracy=float(right.mean()),
        clean_accuracy_exported=float(right_exported.mean()),
        attack=f"pgd-{STEPS} {threat}",
        broken=int(broken.sum()),
        also_broken=int((broken & (theirs[1].argmax(1) != labels)).sum()),
    )
