"""Every image decoded once before any training: which cannot be, how large they are, which are the same file.

    CACHE/KEY.checked/{train,test}.npy   one record for each image: state, height, width, sha256; written as it goes, so that it goes on
    CACHE/KEY.checked/bad.json           split, row, name and reason of every bad image; written when all have been looked at

KEY is that of the index: where a file changes there is another index, and nothing is known of its images.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sparring.trainers import decoder
from sparring.trainers.encoded.images import Encoded, EncodedDataset
from sparring.trainers.files import to_json, write

RECORD = np.dtype([("state", "u1"), ("height", "u4"), ("width", "u4"), ("sha256", "u1", 32)])
UNSEEN, GOOD, BAD = 0, 1, 2
SHOWN = 20  # bad images that a refusal names
Lost = tuple[tuple[str, int], ...]  # split and row of images that are left out
BLOCK = 256  # images that a worker looks at before it reports


@dataclass(frozen=True)
class Bad:
    """An image that cannot be trained on."""

    split: str
    row: int
    name: str
    reason: str


def look(images: Encoded, rows: range) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Read and decode some images: a record for each, and the row and reason of those that are bad."""
    records, bad = np.zeros(len(rows), RECORD), []
    for record, i in zip(records, rows, strict=True):
        try:
            content = images.read(i)
            record["sha256"] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
            if not content:
                raise decoder.Refused("a file of 0 bytes")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, of metadata; what matters is refused
                record["height"], record["width"], _ = decoder.pixels(content).shape
            record["state"] = GOOD
        except (OSError, ValueError) as error:
            if (
                isinstance(error, OSError) and error.errno is None
            ):  # a store that did not answer, which says nothing of the image
                raise
            record["state"] = BAD
            bad.append((i, str(error)))
    return records, bad


class Record:
    """What is known of a data set's images, on disk while they are looked at."""

    def __init__(self, dataset: EncodedDataset, *, again: bool = False) -> None:
        self.dataset, self.folder = dataset, beside(dataset)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.complete = (self.folder / "bad.json").is_file() and not again
        if again:
            (self.folder / "bad.json").unlink(missing_ok=True)
        self.splits = {name: self._mapped(name, len(images), again) for name, images in dataset.splits.items()}
        self._bad: list[Bad] = []

    def _mapped(self, split: str, count: int, again: bool) -> np.ndarray:
        path = self.folder / f"{split}.npy"
        if path.is_file() and not again:
            try:
                found = np.load(path, mmap_mode="r+")
                if found.dtype == RECORD and found.shape == (count,):
                    return np.asarray(found) if self.complete else found
            except (OSError, ValueError):
                pass  # torn when the machine went down: begun anew
        self.complete = False
        return np.lib.format.open_memmap(path, mode="w+", dtype=RECORD, shape=(count,))

    def left(self) -> Iterator[tuple[str, range]]:
        """Blocks in which an image has not been looked at, or was bad, so that its reason is told again."""
        for split, records in self.splits.items():
            for start in range(0, len(records), BLOCK):
                rows = range(start, min(start + BLOCK, len(records)))
                if (records["state"][rows.start : rows.stop] != GOOD).any():
                    yield split, rows

    def add(self, split: str, rows: range, records: np.ndarray, bad: list[tuple[int, str]]) -> list[Bad]:
        """Keep what was seen of a block; its bad images."""
        self.splits[split][rows.start : rows.stop] = records
        images = self.dataset.splits[split]
        found = [Bad(split, row, images.name(row), reason) for row, reason in bad]
        self._bad += found
        return found

    def close(self) -> list[Bad]:
        """All have been looked at: the bad ones, which are written down."""
        if self.complete:
            return list(known_bad(self.dataset) or ())
        found = sorted(self._bad, key=lambda bad: (bad.split != "train", bad.row))
        write(self.folder / "bad.json", to_json([asdict(bad) for bad in found]))
        self.complete = True
        return found


def known_bad(dataset: EncodedDataset) -> tuple[Bad, ...] | None:
    """The images that a whole check found bad; None where none was made of these files."""
    try:
        return tuple(Bad(**bad) for bad in json.loads((beside(dataset) / "bad.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def lost(dataset: EncodedDataset, known: Sequence[Bad], bad: Literal["refuse", "skip"] = "refuse") -> Lost:
    """The images that a run leaves out.

    Args:
        known: to be bad.

    Raises:
        ValueError: they are not to be left out; names them.
    """
    if known and bad == "refuse":
        shown = [f"  {one.name}: {one.reason}" for one in known[:SHOWN]]
        more = [f"  and {len(known) - SHOWN} more"] if len(known) > SHOWN else []
        raise ValueError(
            "\n".join(
                [
                    f"{len(known)} of {len(dataset.train) + len(dataset.test):,} images cannot be decoded:",
                    *shown,
                    *more,
                    f"Look at every image, and show all that are bad: sparring data check {dataset.name}. Mend or remove them, or leave them "
                    "out: --data.bad skip",
                ]
            )
        )
    return tuple((one.split, one.row) for one in known)


def usable(dataset: EncodedDataset, lost: Lost = ()) -> dict[str, np.ndarray | None]:
    """Rows of each split without those that are left out, int64; None: all."""
    rows: dict[str, np.ndarray | None] = {}
    for split, images in dataset.splits.items():
        out = [row for of, row in lost if of == split]
        rows[split] = np.delete(np.arange(len(images), dtype=np.int64), out) if out else None
    return rows


def beside(dataset: EncodedDataset) -> Path:
    """Where what is known of a data set's images is kept."""
    return dataset.place.with_name(f"{dataset.place.name}.checked")
