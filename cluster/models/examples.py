"""The test images of an evaluation: which ones, and whether they are still those that the run began with."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from sparring.cluster.errors import DataError, UsageError
from sparring.cluster.runs import images
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Dataset, Split, evaluation_order
from sparring.trainers.datasets import Prepared, cache, stored
from sparring.trainers.encoded.pixels import Pixels

LISTED = "listed:"  # before the sha256 of a list, where an evaluation says which images it took


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
class Listed:
    """Test images by the names of their files. They are taken in the data set's order, whatever the order of the list."""

    content: bytes  # of the list, one name a line
    names: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Listed:
        """From a file.

        Raises:
            UsageError: it cannot be read, or names nothing.
        """
        try:
            content = path.read_bytes()
            names = tuple(line.strip() for line in content.decode().splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the list of images {path} cannot be read: {error}") from error
        if not names:
            raise UsageError(f"the list of images {path} is empty; expected the name of a file on each line")
        return cls(content, names)

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def __str__(self) -> str:
        return f"{LISTED}{self.sha256}"

    def rows(self, split: Split) -> list[int]:
        """Positions in a split, rising.

        A name is that of the image whose last part, without its ending, is the same; where several have it, of the one with which it
        has the most last parts in common.

        Raises:
            UsageError: the images have no names; or a name that no image has, that several have, or that comes twice.
        """
        if not isinstance(split.images, Pixels):
            raise UsageError(
                "--examples-from names files, and the images of this data set were decoded once and have no names; data sets that stay "
                "encoded have them: imagenet, tar, parquet, folder with --data.encoded"
            )
        files = [split.images.images.file(i) for i in split.numbers(torch.arange(len(split))).tolist()]
        by_stem: dict[str, list[int]] = {}
        for row, file in enumerate(files):
            by_stem.setdefault(_parts(file)[-1], []).append(row)
        found = [_nearest(name, by_stem.get(_parts(name)[-1], []), files) for name in self.names]
        times = Counter(rows[0] for rows in found if len(rows) == 1)
        pairs = list(zip(self.names, found, strict=True))
        _refuse("have no image", [name for name, rows in pairs if not rows], files)
        _refuse("are names of several images", [name for name, rows in pairs if len(rows) > 1], files)
        _refuse("are images that come twice", [name for name, rows in pairs if times[rows[0]] > 1], files)
        return sorted(times)


def _parts(file: str) -> list[str]:
    """``val/n01440764/a.0.JPEG`` -> ``[val, n01440764, a.0]``."""
    *folders, last = file.split("/")
    stem, _, _ = last.rpartition(".")
    return [*folders, stem or last]


def _nearest(name: str, rows: Sequence[int], files: Sequence[str]) -> list[int]:
    """Those of several rows whose files have the most last parts in common with a name."""
    if len(rows) < 2:
        return list(rows)

    def common(row: int) -> int:
        pairs = zip(reversed(_parts(name)), reversed(_parts(files[row])), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    most = max(map(common, rows))
    return [row for row in rows if common(row) == most]


def _refuse(what: str, names: Sequence[str], files: Sequence[str]) -> None:
    if names:
        raise UsageError(
            f"--examples-from: {len(names)} names {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; the data set has "
            f"{len(files)} test images, such as {files[0]}"
        )


Which: TypeAlias = Examples | Listed | int | None  # None: all


@dataclass(frozen=True, slots=True)
class Taken:
    """Test images as they are taken."""

    split: Split  # the chosen ones
    classes: tuple[str, ...]  # names of the data set's
    note: str | None = None  # said where they are not those of the run's start


def take(
    data: DataConfig,
    examples: Which = None,
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


def load_test(data: DataConfig, examples: Which = None) -> Split:
    """Test images of a data set, all or some; see :func:`take`."""
    return take(data, examples).split


def chosen(split: Split, examples: Which) -> Split:
    """All rows, those of a prefix of the stratified order, or those of a list of names.

    Raises:
        UsageError: fewer images than asked for, or a name that means none or several.
    """
    if examples is None:
        return split
    if isinstance(examples, Listed):
        return split[torch.tensor(examples.rows(split))]
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
