"""What attacks need to know of a network and of images: where it is, how many classes it tells, pixels of some examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.agents.robustness import check_classifier
from sparring.cluster.errors import of_agent
from sparring.trainers import user
from sparring.trainers.data import Split
from sparring.trainers.encoded.decoding import Unanswered, Undecodable


def device_of(*models: nn.Module) -> torch.device:
    """Where the first of the networks is."""
    return next((p.device for model in models for p in model.parameters()), torch.device("cpu"))


def check(model: nn.Module, split: Split, *, classes: int | None = None, name: str = "the network") -> int:
    """Refuse a network that is no classifier of these images; its number of classes.

    Args:
        classes: that the data set has; None: whatever the network tells.
        name: of the network, for the error.

    Raises:
        ValueError: it returns probabilities or another shape, or tells other classes than there are.
    """
    device = device_of(model)
    some = split[torch.arange(min(16, len(split)))].pixels().to(device)
    try:
        told = check_classifier(model, some)
    except Exception as error:  # whatever a user's forward raises
        if isinstance(error, ValueError) and user.placed(error) is error:
            raise
        raise ValueError(f"{name}: {user.told(error)}") from error
    known = classes if classes is not None else int(split.all_labels().max()) + 1
    if told < known or (classes is not None and told != classes):
        raise ValueError(f"{name} tells {told} classes apart, the data set has {known}: it is for other images")
    return told


def pixels(split: Split, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels of some consecutive examples.

    Raises:
        DataError: an image that stays encoded cannot be decoded.
        Infrastructure: its store did not answer.
    """
    part = split[torch.arange(start, min(stop, len(split)))]
    try:
        x = part.pixels()
    except (Undecodable, Unanswered) as error:
        raise of_agent(error, None) from error
    # one channel has many equal layouts, each with kernels of its own that round otherwise: always the plain one
    return x.clone(memory_format=torch.contiguous_format), part.all_labels()
