"""What attacks need to know of a network and of images: where it is, how many classes it tells, pixels of some examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.agents.robustness import check_classifier
from sparring.trainers.data import Split


def device_of(*models: nn.Module) -> torch.device:
    """Where the first of the networks is."""
    return next((p.device for model in models for p in model.parameters()), torch.device("cpu"))


def check(model: nn.Module, split: Split) -> int:
    """Refuse a network that is no classifier of these images; its number of classes.

    Raises:
        ValueError: it returns probabilities or another shape.
    """
    device = device_of(model)
    some = split[torch.arange(min(16, len(split)))].pixels().to(device)
    check_classifier(model, some)
    with torch.no_grad():
        return int(model(some[:1]).shape[1])


def pixels(split: Split, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels of some consecutive examples."""
    part = split[torch.arange(start, min(stop, len(split)))]
    # one channel has many equal layouts, each with kernels of its own that round otherwise: always the plain one
    return part.pixels().clone(memory_format=torch.contiguous_format), part.all_labels()
