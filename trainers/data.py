"""Data sets: images and labels, training and test, and which of them are chosen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.encoded.pixels import Pixels
from sparring.trainers.rng import generator


@dataclass(frozen=True)
class Split:
    """Images and labels, all or the chosen rows of them; choosing copies no pixel."""

    images: (
        Tensor | Pixels
    )  # [N, H, W, C] uint8, perhaps mapped from a file, or still encoded; a caller's own may be pixels in [0, 1]
    labels: Tensor  # [N] int64
    rows: Tensor | None = None  # [n] int64, into the N; None: all
    source: str | None = None  # sha256 of the file that images and labels came from

    def __len__(self) -> int:
        return len(self.labels if self.rows is None else self.rows)

    def __getitem__(self, index: Tensor) -> Split:
        return replace(self, rows=index if self.rows is None else self.rows[index])

    def numbers(self, index: Tensor) -> Tensor:
        """Places in the whole data set [b] of the given positions."""
        return index if self.rows is None else self.rows[index]

    def take(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images [b, H, W, C] and labels [b] of the given positions."""
        return self.at(index if self.rows is None else self.rows[index])

    def at(self, numbers: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The same of places in the whole data set, which come to the device where the images are."""
        here = numbers.to(self.labels.device) if isinstance(numbers, Tensor) else numbers
        return self.images[here], self.labels[here]

    def to(self, device: torch.device | str) -> Split:
        """The same on a device. Which images they are stays known here: no batch waits for the device to be told."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    @cached_property
    def sha256(self) -> str:
        """Hash of the images, labels and their order; all rows in their order are the same images as no choice at all."""
        h = hashlib.sha256(repr((tuple(self.images.shape), len(self))).encode())
        if self.source is None:
            assert isinstance(self.images, Tensor)
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
        """Mean and standard deviation per channel of the training pixels in [0, 1], exact for bytes; of a part of those that stay encoded."""
        if isinstance(self.train.images, Pixels):
            return self.train.images.statistics(self.train.rows)
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


def to_pixels(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[N, H, W, C], bytes or already in [0, 1] -> contiguous [N, C, H, W] in [0, 1]."""
    if images.is_floating_point():
        return images.permute(0, 3, 1, 2).contiguous().to(dtype)
    return (
        images.permute(0, 3, 1, 2).contiguous().to(dtype).div_(255)
    )  # in place: fresh memory costs more than the division
