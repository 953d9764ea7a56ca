"""Random images in the shapes of the data sets, for checking recipes where the data sets are not at hand."""

from __future__ import annotations

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _make(side: int, classes: int) -> Arrays:
    rng = np.random.default_rng(0)
    n = max(classes, 20)
    x = rng.integers(0, 256, (n + 4, side, side, 3), dtype=np.uint8)
    return x[:n], np.arange(n) % classes, x[n:], np.arange(4)


def cifar10() -> Arrays:
    return _make(32, 10)


def cifar100() -> Arrays:
    return _make(32, 100)


def tiny_imagenet() -> Arrays:
    return _make(64, 200)


def mini_imagenet() -> Arrays:
    return _make(84, 100)
