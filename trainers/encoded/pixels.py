"""Encoded images as pixels, as evaluation sees them: what a split takes for a tensor."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparring.trainers import decoder
from sparring.trainers.encoded.decoding import made
from sparring.trainers.encoded.images import Encoded

SAMPLED = 1024  # images by which mean and deviation are measured


class Pixels:
    """uint8 [N, H, W, 3] of images that stay encoded: decoded, cut to the middle and scaled when they are indexed.

    Args:
        images: encoded ones.
        size: height and width to which each is brought.
        middle: the share of its middle that is seen (``decoder.pixels``).
        beside: of which folder what is measured of the pixels is kept.
        device: of what is returned.
    """

    dtype = torch.uint8

    def __init__(
        self,
        images: Encoded,
        size: tuple[int, int],
        *,
        beside: Path,
        middle: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.size, self.middle = images, size, middle
        self.beside, self.device = beside, torch.device(device)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> torch.Size:
        """[N, H, W, C]."""
        return torch.Size((len(self.images), *self.size, 3))

    def is_floating_point(self) -> bool:
        """They are bytes."""
        return False

    def to(self, device: torch.device | str) -> Pixels:
        """The same, with its answers on a device."""
        return Pixels(self.images, self.size, beside=self.beside, middle=self.middle, device=device)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        """Images [b, H, W, C], or one.

        Raises:
            Undecodable: one of them.
        """
        if isinstance(index, int):
            return torch.tensor(self._one(index), device=self.device)
        rows = range(*index.indices(len(self))) if isinstance(index, slice) else index.tolist()
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            found[place] = self._one(row)
        return torch.from_numpy(found).to(self.device)

    def _one(self, row: int) -> np.ndarray:
        return made(self.images, row, lambda content: decoder.pixels(content, size=self.size, middle=self.middle))

    def statistics(self, rows: Tensor | None = None) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel in [0, 1] of images spread over the split, measured once and kept beside the index.

        Args:
            rows: those that may be looked at; None: all.
        """
        of = len(self) if rows is None else len(rows)
        seen = f"{self.size[0]}x{self.size[1]}" + ("" if self.middle == 1 else f".{self.middle}")
        file = self.beside.with_name(f"{self.beside.name}.{seen}.{of}.json")
        try:
            kept = json.loads(file.read_text())
            return list(kept["mean"]), list(kept["std"])
        except (OSError, ValueError, KeyError):
            pass
        n = min(SAMPLED, of)
        counts = np.zeros((3, 256), np.int64)
        for i in range(n):
            place = i * of // n
            one = self._one(place if rows is None else int(rows[place]))
            for c in range(3):
                counts[c] += np.bincount(one[..., c].ravel(), minlength=256)
        share, levels = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
        mean = (share * levels).sum(1)
        std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1)).clip(1e-6)
        file.parent.mkdir(parents=True, exist_ok=True)
        working = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        working.write_text(json.dumps({"mean": mean.tolist(), "std": std.tolist(), "n": n}))
        working.replace(file)
        return mean.tolist(), std.tolist()
