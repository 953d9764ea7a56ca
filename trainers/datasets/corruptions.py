"""Corrupted test images in the layout of CIFAR-10-C (Hendrycks and Dietterich, arXiv 1903.12261): an .npy file per corruption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from sparring.trainers.data import Split
from sparring.trainers.datasets.arrays import check


def load(root: Path, *, shape: tuple[int, int, int]) -> Iterator[tuple[str, Split]]:
    """Name and images of every corruption: ``NAME.npy`` (uint8 [N, H, W, C]) and ``labels.npy`` [N], mapped from disk.

    Args:
        shape: (channels, height, width) of the data set.

    Raises:
        ValueError: files are missing or of another shape; says which.
    """
    files = sorted(f for f in root.glob("*.npy") if f.stem != "labels")
    if not files or not (root / "labels.npy").is_file():
        raise ValueError(f"{root.resolve()} holds no corruptions: expected NAME.npy files and labels.npy")
    labels = np.load(root / "labels.npy", allow_pickle=False)
    c, h, w = shape
    for file in files:
        images = np.load(file, mmap_mode="c", allow_pickle=False)
        repeated = np.tile(labels, len(images) // max(len(labels), 1)) if len(labels) < len(images) else labels
        check(images, repeated, where=str(file), shape=(h, w, c))
        yield file.stem, Split(torch.from_numpy(images), torch.from_numpy(repeated.astype(np.int64)))
