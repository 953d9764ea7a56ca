"""A stand-in for a data set of any size: images made from their number, for benchmarks and tests. No disk, no memory for each.

``generated:N`` are N training images of 64x64 pixels and N // 10 test images, of ten classes; ``generated:N:500x375`` are as large as
ImageNet's are on average. A class is a pattern of stripes; the picture of an image is one of eight of its class, and its number stands in the
file as a comment, so that no two files are the same.
"""

from __future__ import annotations

import hashlib
import io
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from sparring.trainers.encoded.images import Encoded, EncodedDataset

CLASSES, DRAWN = 10, 8  # and pictures of each class
NAME = re.compile(r"generated:(\d+)(?::(\d+)x(\d+))?")


class Generated(Encoded):
    """``count`` images of ``size`` (width, height)."""

    def __init__(self, split: str, count: int, size: tuple[int, int]) -> None:
        self.split, self.count, self.size = split, count, size
        drawn = hashlib.sha256(b"".join(_drawn(k, v, size) for k in range(CLASSES) for v in range(DRAWN)))
        self.sha256 = hashlib.sha256(f"{split} {count} {drawn.hexdigest()}".encode()).hexdigest()

    @property
    def labels(self) -> np.ndarray:
        return np.arange(self.count, dtype=np.int64) % CLASSES

    def __len__(self) -> int:
        return self.count

    def read(self, i: int) -> bytes:
        comment = self.name(i).encode()
        jpeg = _drawn(i % CLASSES, i // CLASSES % DRAWN, self.size)
        return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]

    def name(self, i: int) -> str:
        if not 0 <= i < self.count:
            raise IndexError(f"image {i} of {self.count}")
        return f"generated {self.split} image {i}"


@lru_cache(maxsize=2 * CLASSES * DRAWN)
def _drawn(label: int, variant: int, size: tuple[int, int]) -> bytes:
    """A JPEG of stripes across at the class's angle, shifted and with noise by the variant."""
    from PIL import Image

    width, height = size
    y, x = np.mgrid[:height, :width]
    angle = np.pi * label / CLASSES
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (16 * np.pi / width) + variant)
    noise = np.random.default_rng((label, variant)).normal(0, 12, (height, width, 3))
    picture = np.clip(128 + 90 * wave[..., None] * (1, 0.6, 0.3) + noise, 0, 255).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "JPEG", quality=85)
    return sink.getvalue()


def opened(name: str, folder: Path) -> EncodedDataset:
    """The data set of a name.

    Raises:
        ValueError: the name says no number of images.
    """
    match = NAME.fullmatch(name)
    if match is None or int(match[1]) < CLASSES or (match[2] and not 8 <= min(int(match[2]), int(match[3])) <= 8192):
        raise ValueError(
            f"data.name = {name!r}: expected generated:N with N >= {CLASSES} images, or generated:N:WIDTHxHEIGHT, such as "
            "generated:1000000:500x375"
        )
    size = (int(match[2]), int(match[3])) if match[2] else (64, 64)
    train, test = Generated("train", int(match[1]), size), Generated("test", max(1, int(match[1]) // 10), size)
    key = hashlib.sha256(f"{train.sha256} {test.sha256}".encode()).hexdigest()[:24]
    return EncodedDataset(name, tuple(f"stripes {k}" for k in range(CLASSES)), train, test, folder / key)
