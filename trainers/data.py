"""Data sets in memory and batches as a pure function of (seed, step).

A batch never travels: every agent holds the images on its own device and computes the same batch from the same numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from sparring.trainers.config import DataConfig, require
from sparring.trainers.rng import generator
from sparring.trainers.types import Batch


@dataclass(frozen=True)
class Split:
    """Images and labels, all or the chosen rows of them; choosing copies no pixel."""

    images: Tensor  # [N, H, W, C] uint8, perhaps mapped from a file; a caller's own may be pixels in [0, 1]
    labels: Tensor  # [N] int64
    rows: Tensor | None = None  # [n] int64, into the N; None: all
    source: str | None = None  # sha256 of the file that images and labels came from

    def __len__(self) -> int:
        return len(self.labels if self.rows is None else self.rows)

    def __getitem__(self, index: Tensor) -> Split:
        return replace(self, rows=index if self.rows is None else self.rows[index])

    def take(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images [b, H, W, C] and labels [b] of the given positions."""
        at = index if self.rows is None else self.rows[index]
        return self.images[at], self.labels[at]

    def to(self, device: torch.device | str) -> Split:
        """The same on a device."""
        rows = None if self.rows is None else self.rows.to(device)
        return Split(self.images.to(device), self.labels.to(device), rows, self.source)

    @cached_property
    def sha256(self) -> str:
        """Hash of the images, labels and their order; all rows in their order are the same images as no choice at all."""
        h = hashlib.sha256(repr((tuple(self.images.shape), len(self))).encode())
        if self.source is None:
            h.update(self.images.cpu().contiguous().numpy().data)
            h.update(self.labels.cpu().contiguous().numpy().data)
        else:
            h.update(self.source.encode())
        if self.rows is not None and not torch.equal(self.rows.cpu(), torch.arange(len(self.labels))):
            h.update(self.rows.cpu().contiguous().numpy().data)
        return h.hexdigest()

    def all_labels(self) -> Tensor:
        """Labels in order: [n]."""
        return self.take(slice(None))[1]

    def pixels(self, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """All images as [n, C, H, W] in [0, 1]."""
        return to_pixels(self.take(slice(None))[0], dtype)


@dataclass(frozen=True)
class Dataset:
    """A data set: class names, training and test images. The test split is never trained on nor used for selection."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, h, w, c = self.train.images.shape
        return c, h, w

    def held_out(self, share: float, *, seed: int, fraction: float = 1.0) -> tuple[Split, Split]:
        """Training images without, and with only, a share drawn by the seed.

        Args:
            fraction: share of the remaining training images that is used, the same of every class.
        """
        n = len(self.train)
        count = max(1, round(share * n))
        require(count < n, f"data.validation = {share} leaves no training image of {n}")
        order = torch.randperm(n, generator=generator(seed, "validation"))
        held, rest = self.train[order[:count].sort().values], self.train[order[count:].sort().values]
        return (rest if fraction == 1 else rest[stratified(rest.all_labels(), fraction, seed=seed)]), held

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel of the training pixels in [0, 1], exact for bytes."""
        means, stds = [], []
        levels = torch.arange(256, dtype=torch.float64) / 255
        for c in range(self.train.images.shape[-1]):
            counts = torch.zeros(256, dtype=torch.float64)
            for start in range(0, len(self.train.images), 4096):
                chunk = self.train.images[start : start + 4096, ..., c]
                counts += torch.bincount(chunk.flatten(), minlength=256)
            p = counts / counts.sum()
            mean = (p * levels).sum()
            means.append(mean.item())
            stds.append(max((p * (levels - mean) ** 2).sum().sqrt().item(), 1e-6))
        return means, stds


def stratified(labels: Tensor, fraction: float, *, seed: int) -> Tensor:
    """Positions, rising, of the same share of every class (at least one image each)."""
    chosen = []
    for k in sorted(set(labels.tolist())):
        at = (labels == k).nonzero().squeeze(1)
        order = torch.randperm(len(at), generator=generator(seed, "fraction", k))
        chosen.append(at[order[: max(1, round(fraction * len(at)))]])
    return torch.cat(chosen).sort().values


def evaluation_order(labels: Tensor) -> Tensor:
    """Positions [N] in the one order in which test images are taken when not all are: every prefix holds the classes in the
    proportions of the whole, as nearly as whole numbers can. It depends on the labels alone, on no run and no seed.

    Example:
        >>> evaluation_order(torch.tensor([0, 0, 0, 0, 1, 1])).shape
        torch.Size([6])
    """
    place = torch.empty(len(labels), dtype=torch.float64)
    for k in sorted(set(labels.tolist())):
        at = (labels == k).nonzero().squeeze(1)
        drawn = at[torch.randperm(len(at), generator=generator("evaluation order", k))]
        place[drawn] = (torch.arange(len(at), dtype=torch.float64) + 0.5) / len(at)
    return torch.argsort(place, stable=True)


class Batches:
    """The endless sequence of training batches of one run, on one device.

    Args:
        split: training images.
        config: augmentation; share of extra images.
        batch_size: examples per batch; without extra images the last batch of an epoch holds the rest, and a single image that
            would be left joins the batch before it, for batch norm has no variance of one.
        seed: the run's seed; order and augmentation depend on it and on the step alone.
        extra: generated images, of which every batch takes ``config.extra_fraction``.
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
    ) -> None:
        require(batch_size >= 1, f"batch_size = {batch_size} must be >= 1")
        self.config, self.batch_size, self.seed, self.dtype = config, batch_size, seed, dtype
        self.device = torch.device(device)
        self.sha256 = split.sha256 + (extra.sha256 if extra else "")
        self.split, self.extra = split.to(device), extra.to(device) if extra else None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which as many images are seen as the training split has."""
        return steps_per_epoch(len(self.split), self.batch_size, mixed=self.extra is not None)

    def batch(self, t: int) -> Batch:
        """Batch of step ``t``: a pure function of (seed, t)."""
        images, labels = self._mixed(t) if self.extra else self._plain(t)
        images = augment(images, self.config, rng=generator(self.seed, t, "augment", device=self.device))
        return Batch(to_pixels(images, self.dtype), labels, epoch=t // self.steps_per_epoch)

    def _plain(self, t: int) -> tuple[Tensor, Tensor]:
        epoch, i = divmod(t, self.steps_per_epoch)
        order = _order(self.seed, "order", epoch, len(self.split))
        stop = len(order) if i + 1 == self.steps_per_epoch else (i + 1) * self.batch_size
        return self.split.take(order[i * self.batch_size : stop].to(self.device))

    def _mixed(self, t: int) -> tuple[Tensor, Tensor]:
        """The given share from the extra images, the rest from the training split, each a stream of its own."""
        assert self.extra is not None
        generated = round(self.config.extra_fraction * self.batch_size)
        parts = []
        for split, name, count in (
            (self.split, "order", self.batch_size - generated),
            (self.extra, "extra", generated),
        ):
            at = _stream(self.seed, name, len(split), t * count, count)
            parts.append(split.take(at.to(self.device)))
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


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


def to_pixels(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[N, H, W, C], bytes or already in [0, 1] -> contiguous [N, C, H, W] in [0, 1]."""
    if images.is_floating_point():
        return images.permute(0, 3, 1, 2).contiguous().to(dtype)
    return images.permute(0, 3, 1, 2).contiguous().to(dtype) / 255


def augment(images: Tensor, config: DataConfig, *, rng: torch.Generator) -> Tensor:
    """Random crop after zero padding, and flip, drawn per image for the whole batch at once: [B, H, W, C] -> the same."""
    if config.augment == "none":
        return images
    b, h, w, _ = images.shape
    p, device = config.padding, images.device
    padded = torch.nn.functional.pad(images, (0, 0, p, p, p, p))
    top, left = torch.randint(0, 2 * p + 1, (2, b), generator=rng, device=device)
    windows = padded.unfold(1, h, 1).unfold(2, w, 1)  # [B, 2p + 1, 2p + 1, C, H, W], a view
    crops = windows[torch.arange(b, device=device), top, left]
    if config.augment == "crop-flip":
        flip = torch.rand(b, generator=rng, device=device) < 0.5
        crops = torch.where(flip[:, None, None, None], crops.flip(3), crops)
    return crops.permute(0, 2, 3, 1)
