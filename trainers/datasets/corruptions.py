"""Corrupted test images in the layout of CIFAR-10-C (Hendrycks and Dietterich, arXiv 1903.12261): an .npy file per corruption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from sparring.trainers.data import Split
from sparring.trainers.datasets.arrays import check
from sparring.trainers.datasets.decode import reading


def load(root: Path, test: Split) -> Iterator[tuple[str, list[Split]]]:
    """Name of every corruption and the images of ``test`` at each of its severities.

    ``NAME.npy`` (uint8 [N, H, W, C]) holds the whole test split in its order, once per severity; ``labels.npy`` [N] or one
    severity's. A file of another number of images is taken whole, as one severity, if no test images were chosen.

    Args:
        test: all test images, or the chosen ones.

    Raises:
        ValueError: files are missing, of another shape, or not of these test images; says which.
    """
    files = sorted(f for f in root.glob("*.npy") if f.stem != "labels")
    if not files or not (root / "labels.npy").is_file():
        raise ValueError(f"{root.resolve()} holds no corruptions: expected NAME.npy files and labels.npy")
    with reading(root / "labels.npy"):
        labels = np.load(root / "labels.npy", allow_pickle=False)
    for file in files:
        with reading(file):
            images = np.load(file, mmap_mode="c", allow_pickle=False)
        repeated = np.tile(labels, len(images) // max(len(labels), 1)) if len(labels) < len(images) else labels
        check(images, repeated, where=str(file), shape=tuple(test.images.shape[1:]))
        yield (
            file.stem,
            _severities(Split(torch.from_numpy(images), torch.from_numpy(repeated.astype(np.int64))), test, file),
        )


def _severities(images: Split, test: Split, file: Path) -> list[Split]:
    whole = len(test.labels)
    if len(images) % whole:
        if test.rows is None:
            return [images]
        raise ValueError(
            f"{file} holds {len(images)} images; the chosen ones can be found when it holds the {whole} of the test split once "
            "per severity. Leave --examples out to take all of the file"
        )
    rows = torch.arange(whole) if test.rows is None else test.rows
    parts = [images[rows + start] for start in range(0, len(images), whole)]
    for severity, part in enumerate(parts, 1):
        other = (part.all_labels() != test.all_labels()).nonzero().flatten().tolist()
        if other:
            i = other[0]
            raise ValueError(
                f"{file.parent / 'labels.npy'} gives image {int(rows[i])} of {file.stem}, severity {severity}, the label "
                f"{int(part.all_labels()[i])}, the test split {int(test.all_labels()[i])}: they are of other images, or in another order"
            )
    return parts
