"""Training batches as a pure function of (seed, step).

A batch of images in memory never travels: every agent holds them on its own device and computes the same batch from the same numbers.
Images that stay encoded are made by a node's loader, or here where there is none: the same bytes either way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sparring.trainers.augment import in_memory
from sparring.trainers.augment.draws import Draws
from sparring.trainers.augment.mixing import mix
from sparring.trainers.augment.shifting import augment
from sparring.trainers.config import DataConfig, require
from sparring.trainers.data import Split, to_pixels
from sparring.trainers.encoded.crops import Crops
from sparring.trainers.encoded.pixels import Pixels
from sparring.trainers.rng import generator
from sparring.trainers.types import Batch


class Steps(Protocol):
    """Who makes the images of steps in other processes."""

    def step(self, t: int) -> AbstractContextManager[np.ndarray]:
        """uint8 [B, H, W, C] of step ``t``, to be copied before the block ends."""


MakesSteps = Callable[[Crops, Callable[[int], tuple[int, ...]]], Steps]  # of images, and their numbers by step


class Batches:
    """The endless sequence of training batches of one run, on one device.

    Args:
        split: training images.
        config: augmentation; share of extra images.
        batch_size: examples per batch; without extra images the last batch of an epoch holds the rest, and a single image that
            would be left joins the batch before it, for batch norm has no variance of one.
        seed: the run's seed; order and augmentation depend on it and on the step alone.
        extra: generated images, of which every batch takes ``config.extra_fraction``.
        loader: who makes steps of images that stay encoded; None: this process does.
    """

    def __init__(
        self,
        split: Split,
        config: DataConfig,
        *,
        batch_size: int,
        seed: int,
        extra: Split | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        loader: MakesSteps | None = None,
    ) -> None:
        require(batch_size >= 1, f"batch_size = {batch_size} must be >= 1")
        if isinstance(split.images, Tensor):
            in_memory.check(split.images, config)
        self.config, self.batch_size, self.seed, self.dtype = config, batch_size, seed, dtype
        self.device = torch.device(device)
        self.sha256 = split.sha256 + (extra.sha256 if extra else "")
        self.split, self.extra = split.to(device), extra.to(device) if extra else None
        self.decoded = (0, 0.0)  # images that this process has decoded, and seconds that they took
        self._crops: Crops | None = None
        if isinstance(split.images, Pixels):
            most = batch_size + 1  # a single image that is left joins the batch before it
            self._crops = Crops(split.images.images, config, seed, split.images.size, most)
            self._loader = loader(self._crops, self._numbers) if loader else None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which as many images are seen as the training split has."""
        return steps_per_epoch(len(self.split), self.batch_size, mixed=self.extra is not None)

    def batch(self, t: int) -> Batch:
        """Batch of step ``t``: a pure function of (seed, t)."""
        if self._crops is not None:
            images, labels = self._decoded(t, self._crops)
        else:
            images, labels, index = self._mixed(t) if self.extra else self._plain(t)
            images = in_memory.each(images, index, self.config, seed=self.seed, step=t)
        images = augment(images, self.config, rng=generator(self.seed, t, "augment", device=self.device))
        batch = Batch(to_pixels(images, self.dtype), labels, epoch=t // self.steps_per_epoch)
        return mix(batch, self.config.transforms, Draws(self.seed, t, "mix"))

    def _at(self, t: int) -> Tensor:
        """Positions in the split of the images of step ``t``."""
        epoch, i = divmod(t, self.steps_per_epoch)
        order = _order(self.seed, "order", epoch, len(self.split))
        stop = len(order) if i + 1 == self.steps_per_epoch else (i + 1) * self.batch_size
        return order[i * self.batch_size : stop]

    def _plain(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        numbers = self.split.numbers(self._at(t))
        return *self.split.at(numbers), numbers

    def _numbers(self, t: int) -> tuple[int, ...]:
        return tuple(self.split.numbers(self._at(t)).tolist())

    def _decoded(self, t: int, crops: Crops) -> tuple[Tensor, Tensor]:
        labels = self.split.labels[self.split.numbers(self._at(t)).to(self.device)]
        if self._loader is None:
            started = time.perf_counter()
            made = np.stack([crops.image(t, number) for number in self._numbers(t)])
            images, seconds = self.decoded
            self.decoded = (images + len(made), seconds + time.perf_counter() - started)
            return torch.from_numpy(made).to(self.device), labels
        with self._loader.step(t) as seen:
            return torch.tensor(seen, device=self.device), labels

    def _mixed(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """The given share from the extra images, the rest from the training split, each a stream of its own."""
        assert self.extra is not None
        generated = round(self.config.extra_fraction * self.batch_size)
        parts = []
        for split, name, count, first in (
            (self.split, "order", self.batch_size - generated, 0),
            (self.extra, "extra", generated, len(self.split.images)),  # numbered after the data set's own
        ):
            numbers = split.numbers(_stream(self.seed, name, len(split), t * count, count))
            parts.append((*split.at(numbers), numbers + first))
        images, labels, index = (torch.cat(p) for p in zip(*parts, strict=True))
        return images, labels, index


def steps_per_epoch(n: int, batch_size: int, *, mixed: bool = False) -> int:
    """Batches in which ``n`` images are seen; one image that is left over makes none of its own.

    Example:
        >>> steps_per_epoch(64, 63), steps_per_epoch(65, 63)
        (1, 2)
    """
    if not mixed and n > batch_size > 1 and n % batch_size == 1:
        return n // batch_size
    return -(-n // batch_size)


def last_batch(n: int, batch_size: int) -> int:
    """Images of an epoch's last batch."""
    return n - (steps_per_epoch(n, batch_size) - 1) * batch_size


def _stream(seed: int, name: str, n: int, start: int, count: int) -> Tensor:
    """Positions ``start .. start + count`` of an endless sequence of permutations of n."""
    parts = []
    while count > 0:
        epoch, i = divmod(start, n)
        parts.append(_order(seed, name, epoch, n)[i : i + count])
        start, count = start + len(parts[-1]), count - len(parts[-1])
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


@lru_cache(maxsize=4)  # two epochs of two streams may meet inside the window of steps in flight
def _order(seed: int, name: str, epoch: int, n: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed, epoch, name))
