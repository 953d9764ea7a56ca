"""Data sets whose images stay encoded, as a data set like any other: its pixels are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sparring.trainers import encoded
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Dataset, Split
from sparring.trainers.encoded import checked
from sparring.trainers.encoded.images import Encoded
from sparring.trainers.encoded.pixels import Pixels

SIZE = 224  # of images whose size is not asked for


def stays_encoded(config: DataConfig) -> bool:
    """Whether the images are decoded anew whenever they are seen: a folder's where that is asked for, other sets' by their names."""
    return encoded.is_name(config.name) and (config.name != "folder" or config.encoded)


def dataset(
    config: DataConfig, *, key: str | None = None, notice: Callable[[str], None] = lambda text: None
) -> tuple[Dataset, str]:
    """The data set, and the name of its index in the cache, which is made where this machine has none.

    Args:
        key: of the index that the run was begun with.

    Raises:
        ValueError: the images are not there, or some that were found to be bad are not to be left out.
    """
    found = encoded.opened(config, key=key, notice=notice)
    usable = checked.usable(found, config.bad)
    side = config.size or SIZE
    seen = f"{side}" if config.middle == 1 else f"{side} {config.middle}"

    def split(images: Encoded, chosen: np.ndarray | None) -> Split:
        pixels = Pixels(images, (side, side), beside=found.place, middle=config.middle)
        labels = torch.from_numpy(np.array(images.labels))
        rows = None if chosen is None else torch.from_numpy(chosen)
        return Split(pixels, labels, rows, source=f"{images.sha256} {seen}")

    whole = Dataset(found.name, found.classes, split(found.train, usable["train"]), split(found.test, usable["test"]))
    whole.statistics  # noqa: B018  # measured once, before several processes want them
    return whole, found.place.name
