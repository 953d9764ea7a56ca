"""Data sets by name. ``prepare`` decodes once per node into the cache; ``load`` maps what it made.

A source is a function of the configuration that returns the fingerprint of its files and what decodes them.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparring.trainers import encoded, uris, user
from sparring.trainers.config import DataConfig, require
from sparring.trainers.data import Dataset, Split
from sparring.trainers.datasets import arrays, cache, cifar, folders, stored
from sparring.trainers.datasets.cache import Decoded, Progress, silent
from sparring.trainers.encoded.checked import Lost

Source = Callable[[DataConfig], tuple[object, Callable[[Progress], Decoded]]]


def digits(config: DataConfig) -> tuple[object, Callable[[Progress], Decoded]]:
    """1,797 handwritten digits of 8x8 grey pixels that ship with scikit-learn; every fifth of a class is the test split."""

    def decode(progress: Progress) -> Decoded:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = bunch.target.astype(np.int64)
        test = np.zeros(len(labels), dtype=bool)
        for k in range(10):
            test[np.flatnonzero(labels == k)[::5]] = True
        return Decoded(tuple("0123456789"), (images[~test], labels[~test]), (images[test], labels[test]))

    return importlib.metadata.version("scikit-learn"), decode


SOURCES: dict[str, Source] = {
    "digits": digits,
    "cifar10": cifar.source,
    "cifar100": cifar.source,
    "tiny-imagenet": folders.tiny_imagenet,
    "mini-imagenet": folders.mini_imagenet,
    "folder": folders.folder,
}
LICENSES = {  # what those who give the images say of their use, for cards; docs/licences.md
    "digits": "CC-BY-4.0 (UCI repository)",
    "cifar10": "none stated; for research",
    "cifar100": "none stated; for research",
    "tiny-imagenet": "ImageNet's terms: research that is not commercial",
    "mini-imagenet": "ImageNet's terms: research that is not commercial",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """Cache entries of a run's images: any process of this node maps them without looking at the sources again."""

    cache: str
    key: str
    extra: str | None = None
    stored: DataConfig | None = (
        None  # images that stay encoded: every node reads them where they lie, by an index of its own; of a URI by the one made first
    )
    lost: Lost = ()  # of those, what is left out, on every node the same

    @property
    def keys(self) -> list[str]:
        """All entries that a node without them is sent."""
        if self.stored is not None and uris.uri_of(self.stored.root) is None:
            return []
        return [self.key, *([self.extra] if self.extra else [])]

    def load(self) -> Dataset:
        """The data set."""
        if self.stored is None:
            return cache.read(Path(self.cache) / self.key)
        return stored.dataset(self.stored, key=self.key, lost=self.lost)[0]

    def load_extra(self) -> Split | None:
        """Generated training images."""
        return cache.read(Path(self.cache) / self.extra).train if self.extra else None


def check_name(name: str) -> None:
    """Refuse a name that means nothing.

    Raises:
        ValueError: unknown, with the nearest name.
    """
    if not encoded.is_name(name):
        source_of(name)


def source_of(name: str) -> Source:
    """The source of a name whose images are decoded once.

    Raises:
        ValueError: unknown, with the nearest name.
    """
    if user.is_function(name):
        user.function(name)
        return arrays.function
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        allowed = ", ".join(dict.fromkeys([*SOURCES, *encoded.NAMES]))
        raise ValueError(f"data.name = {name!r} is unknown; {hint}allowed: {allowed}, or file.py:function")
    return SOURCES[name]


def prepare(
    config: DataConfig, *, progress: Progress = silent, notice: Callable[[str], None] = lambda text: None
) -> Prepared:
    """Decode the images into the cache unless they are there and whole.

    Args:
        progress: called with what is decoded, images done and images in all.
        notice: told about a damaged entry that is made again, and what in a folder is no class.

    Raises:
        ValueError: unknown name, missing files, an image that cannot be read.
        OSError: a store did not answer.
    """
    folder = Path(config.cache).expanduser().resolve()
    if stored.stays_encoded(config):
        require(config.extra is None, f"data.extra = {config.extra!r} and images that stay encoded do not go together")
        config = replace(config, cache=str(folder))  # whatever folder an agent's process begins in
        _, key, lost = stored.dataset(config, notice=notice)
        return Prepared(str(folder), key, stored=config, lost=lost)
    uri = None if config.name == "digits" or user.is_function(config.name) else uris.uri_of(config.root)
    require(
        uri is None,
        f"data.root = {uri!r}: {config.name} is decoded from a folder of this machine; copy it there and name the folder. Read by "
        "URI are images that stay encoded: --data.name tar, parquet or imagenet, or folder with --data.encoded",
    )
    require(
        config.middle == 1,
        f"data.middle = {config.middle:g} is of images that stay encoded ({', '.join(encoded.NAMES)}), and {config.name} does not; a "
        "folder does with --data.encoded",
    )

    def entry(name: str, made: tuple[object, Callable[[Progress], Decoded]]) -> str:
        fingerprint, decode = made

        def decoded() -> Decoded:
            beside = folders.left_out(Path(config.root) / "train") if name == "folder" else []
            if beside:
                notice(f"data: no classes, since they are hidden or hold no image: {', '.join(beside)}")
            return decode(progress)

        key = cache.key_of(name, fingerprint)
        for line in cache.ensure(folder, key, name, decoded):
            notice(f"cache: {line}; made again")
        return key

    key = entry(config.name, source_of(config.name)(config))
    if config.extra is None:
        return Prepared(str(folder), key)
    dataset = cache.read(folder / key)
    shape = tuple(dataset.train.images.shape[1:])
    return Prepared(
        str(folder), key, entry("extra", arrays.extra(Path(config.extra), shape, len(dataset.classes), config.cache))
    )


def load(config: DataConfig) -> Dataset:
    """Prepare and map a data set."""
    return prepare(config).load()
