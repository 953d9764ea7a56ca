"""Data sets in memory and batches as a pure function of (seed, step).

A batch never travels: every agent holds the images on its own device and computes the same batch from the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from trainers.config import DataConfig, require
from trainers.rng import generator
from trainers.types import Batch


@dataclass(frozen=True)
class Split:
    """Images and labels in file order."""

    images: Tensor  # [N, H, W, C] uint8
    labels: Tensor  # [N] int64

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Split:
        return Split(self.images[index], self.labels[index])

    @cached_property
    def sha256(self) -> str:
        """Hash of shape, pixels and labels."""
        h = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        h.update(self.images.contiguous().numpy().data)
        h.update(self.labels.contiguous().numpy().data)
        return h.hexdigest()

    def pixels(self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """All images as [N, C, H, W] in [0, 1]."""
        return to_pixels(self.images.to(device), dtype)


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

    def held_out(self, share: float, *, seed: int) -> tuple[Split, Split]:
        """Training images without, and with only, a share drawn by the seed."""
        n = len(self.train)
        count = max(1, round(share * n))
        require(count < n, f"data.validation = {share} leaves no training image of {n}")
        order = torch.randperm(n, generator=generator(seed, "validation"))
        return self.train[order[count:].sort().values], self.train[order[:count].sort().values]

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel of the training pixels in [0, 1]."""
        pixels = self.train.images.double().div(255).flatten(0, 2)  # [N*H*W, C]
        return pixels.mean(0).tolist(), pixels.std(0, unbiased=False).clamp_min(1e-6).tolist()


class Batches:
    """The endless sequence of training batches of one run, on one device.

    Args:
        split: training images.
        config: augmentation.
        batch_size: examples per batch; the last batch of an epoch holds the rest.
        seed: the run's seed; order and augmentation depend on it and on the step alone.
    """

    def __init__(
        self,
        split: Split,
        config: DataConfig,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        require(batch_size >= 1, f"batch_size = {batch_size} must be >= 1")
        self.config, self.batch_size, self.seed, self.dtype = config, batch_size, seed, dtype
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.device, self.sha256 = torch.device(device), split.sha256

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every image was seen once more."""
        return -(-len(self.labels) // self.batch_size)

    def batch(self, t: int) -> Batch:
        """Batch of step ``t``: a pure function of (seed, t)."""
        epoch, i = divmod(t, self.steps_per_epoch)
        index = _order(self.seed, epoch, len(self.labels))[i * self.batch_size : (i + 1) * self.batch_size]
        index = index.to(self.device)
        images = augment(self.images[index], self.config, rng=generator(self.seed, t, "augment", device=self.device))
        return Batch(to_pixels(images, self.dtype), self.labels[index])


@lru_cache(maxsize=2)  # two epochs may meet inside the window of steps in flight
def _order(seed: int, epoch: int, n: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed, epoch, "order"))


def to_pixels(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[N, H, W, C] uint8 -> contiguous [N, C, H, W] in [0, 1]."""
    return images.permute(0, 3, 1, 2).contiguous().to(dtype) / 255


def augment(images: Tensor, config: DataConfig, *, rng: torch.Generator) -> Tensor:
    """Random crop after zero padding, and flip, drawn per image for the whole batch at once: [B, H, W, C] -> the same."""
    if config.augment == "none":
        return images
    b, h, w, _ = images.shape
    p, device = config.padding, images.device
    padded = torch.nn.functional.pad(images, (0, 0, p, p, p, p))
    top, left = torch.randint(0, 2 * p + 1, (2, b, 1), generator=rng, device=device)
    rows, columns = top + torch.arange(h, device=device), left + torch.arange(w, device=device)  # [B, H], [B, W]
    if config.augment == "crop-flip":
        flip = torch.rand(b, 1, generator=rng, device=device) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    return padded[torch.arange(b, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]


# Data sets: a name -> a loader -------------------------------------------------------------------------------------


def digits(config: DataConfig) -> Dataset:
    """1,797 handwritten digits of 8x8 grey pixels that ship with scikit-learn; every fifth of a class is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype("uint8"))[..., None]
    labels = torch.from_numpy(bunch.target.astype("int64"))
    test = torch.zeros(len(labels), dtype=torch.bool)
    for k in range(10):
        test[(labels == k).nonzero().squeeze(1)[::5]] = True
    whole = Split(images, labels)
    return Dataset("digits", tuple("0123456789"), whole[~test], whole[test])


DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {"digits": digits}


@lru_cache(maxsize=2)
def load(config: DataConfig) -> Dataset:
    """The data set that ``config`` names.

    Raises:
        ValueError: no data set of this name.
    """
    check(config)
    return DATASETS[config.name](config)


def check(config: DataConfig) -> None:
    """Raise ``ValueError`` when there is no data set of this name; reads nothing."""
    require(config.name in DATASETS, f"data.name = {config.name!r} is unknown; allowed: {', '.join(sorted(DATASETS))}")
