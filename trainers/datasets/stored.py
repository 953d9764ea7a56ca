"""Data sets whose images stay encoded, as a data set like any other: its pixels are decoded when they are asked for."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import numpy as np
import torch

from sparring.trainers import encoded
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Dataset, Split
from sparring.trainers.encoded import checked, glance
from sparring.trainers.encoded.checked import Bad, Lost
from sparring.trainers.encoded.images import Encoded, Stored
from sparring.trainers.encoded.pixels import Pixels

SIZE = 224  # of images whose size is not asked for


def stays_encoded(config: DataConfig) -> bool:
    """Whether the images are decoded anew whenever they are seen: a folder's where that is asked for, other sets' by their names."""
    return encoded.is_name(config.name) and (config.name != "folder" or config.encoded)


def dataset(
    config: DataConfig,
    *,
    key: str | None = None,
    lost: Lost | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> tuple[Dataset, str, Lost]:
    """The data set, the name of its index in the cache, which is made where this machine has none, and what is left out of it.

    Args:
        key: of the index that the run was begun with.
        lost: images that the run leaves out; None: those that are known to be bad here.

    Raises:
        ValueError: the images are not there, or some that were found to be bad are not to be left out.
        OSError: a store did not answer.
    """
    found = encoded.opened(config, key=key, notice=notice)
    if lost is None:
        lost = checked.lost(found, _bad(found, config, notice), config.bad)
    usable = checked.usable(found, lost)
    side = config.size or SIZE
    seen = f"{side}" if config.middle == 1 else f"{side} {config.middle}"

    def split(images: Encoded, chosen: np.ndarray | None) -> Split:
        pixels = Pixels(images, (side, side), beside=found.place, middle=config.middle)
        labels = torch.from_numpy(np.array(images.labels))
        rows = None if chosen is None else torch.from_numpy(chosen)
        return Split(pixels, labels, rows, source=f"{images.sha256} {seen}")

    whole = Dataset(found.name, found.classes, split(found.train, usable["train"]), split(found.test, usable["test"]))
    whole.statistics  # noqa: B018  # measured once, before several processes want them
    return whole, found.place.name, lost


def _bad(found: encoded.EncodedDataset, config: DataConfig, notice: Callable[[str], None]) -> tuple[Bad, ...]:
    """The images that are known to be bad: by a check of all, else by a look at the ends of their files where that costs little."""
    known = checked.known_bad(found)
    if known is not None or not isinstance(found.train, Stored):
        return known or ()
    looked = glance.possible(found)
    known = glance.found(found) if looked else ()
    seen = "; only the first and last bytes of each were looked at" if looked else ""
    cache = "" if config.cache == DataConfig().cache else f" --data.cache {shlex.quote(config.cache)}"
    notice(
        f"data: not every image was decoded before training{seen}. One that turns out to be bad will end the run by its name; "
        f"look at all first: sparring data check {config.name} --data.root {shlex.quote(config.root)}{cache}"
    )
    return known
