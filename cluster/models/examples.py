"""The test images of an evaluation: which ones, and whether they are still those that the run began with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparring.cluster.errors import DataError, UsageError
from sparring.cluster.runs import images
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Dataset, Split, evaluation_order
from sparring.trainers.datasets import Prepared, cache, stored


@dataclass(frozen=True, slots=True)
class Examples:
    """Which test images: ``100``, in the order in which every prefix has the classes' proportions, or ``first:100`` of the file."""

    count: int
    first: bool = False

    @classmethod
    def parse(cls, text: str | int) -> Examples:
        """From a flag.

        Raises:
            UsageError: neither N nor first:N.
        """
        kind, colon, number = str(text).rpartition(":")
        if (colon and kind != "first") or not number.isdigit():
            raise UsageError(
                f"--examples {text} is not allowed; expected a number, or first:N for the first N of the file"
            )
        return cls(int(number), first=bool(colon))

    def __str__(self) -> str:
        return f"first:{self.count}" if self.first else str(self.count)


@dataclass(frozen=True, slots=True)
class Taken:
    """Test images as they are taken."""

    split: Split  # the chosen ones
    classes: tuple[str, ...]  # names of the data set's
    note: str | None = None  # said where they are not those of the run's start


def take(
    data: DataConfig,
    examples: Examples | int | None = None,
    *,
    started: Mapping[str, str] | None = None,
    others: bool = False,
) -> Taken:
    """Test images of a data set, all or some.

    Args:
        examples: which; a number is the prefix of the data set's one stratified order (``evaluation_order``).
        started: hashes of the images with which a run began (``images`` of its env.json); None: nothing is known.
        others: take them also when they are no longer those.

    Raises:
        DataError: the data set is unknown or cannot be read, or its test images are others.
        Infrastructure: a URI did not answer.
        UsageError: fewer images than asked for.
    """
    dataset = images.prepare(data, quiet=True).load()
    note = None
    if started is not None and dataset.test.sha256 != started["test"]:
        note = f"the test images of {data.name} in {data.root} are not those of the run's start: {_difference(dataset, data, started)}"
        if not others:
            raise DataError(
                f"{note}. Bring the same images back (--data.root DIR), or add --allow-other-images to evaluate on these"
            )
    return Taken(chosen(dataset.test, examples), dataset.classes, note)


def load_test(data: DataConfig, examples: Examples | int | None = None) -> Split:
    """Test images of a data set, all or some; see :func:`take`."""
    return take(data, examples).split


def chosen(split: Split, examples: Examples | int | None) -> Split:
    """All rows, or those of a prefix of the stratified order.

    Raises:
        UsageError: fewer images than asked for.
    """
    if examples is None:
        return split
    some = examples if isinstance(examples, Examples) else Examples(examples)
    if not 1 <= some.count <= len(split):
        raise UsageError(f"--examples {some} is not allowed; the test split has 1 to {len(split)}")
    order = torch.arange(len(split)) if some.first else evaluation_order(split.all_labels())
    return split[order[: some.count]]


def _difference(now: Dataset, data: DataConfig, started: Mapping[str, str]) -> str:
    """How many there were and are, and how many of these the run learnt from, if its images are still in the cache."""
    if stored.stays_encoded(data):
        return f"{len(now.test)} now"
    entry = Path(data.cache).expanduser() / started.get("cache", "")
    if cache.problems(entry):
        return f"{len(now.test)} now (which of them were training images cannot be said: {entry} is gone)"
    before = Prepared(str(entry.parent), entry.name).load()
    assert isinstance(before.train.images, Tensor)
    assert isinstance(now.test.images, Tensor)
    trained = {image.tobytes() for image in before.train.images.numpy()}
    seen = sum(image.tobytes() in trained for image in now.test.images.numpy())
    return f"{len(before.test)} then, {len(now.test)} now, and {seen} of these were training images"
