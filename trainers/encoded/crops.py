"""Encoded images as the steps of a run see them: what a loader's processes make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparring.trainers import decoder
from sparring.trainers.augment.images import augmented, drawn_box
from sparring.trainers.augment.pictures import channels
from sparring.trainers.augment.resized_crop import Box
from sparring.trainers.config import DataConfig
from sparring.trainers.encoded import jpeg
from sparring.trainers.encoded.decoding import made
from sparring.trainers.encoded.images import Encoded


@dataclass(frozen=True)
class Crops:
    """Training images decoded, cut or scaled, and changed, each by (seed, step, number) alone.

    Their data set has been checked, so that nothing is decoded twice here to find files that end early.
    """

    images: Encoded
    data: DataConfig
    seed: int
    size: tuple[int, int]  # height, width
    most: int  # images of a step

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return (*self.size, 3)

    @property
    def modules(self) -> tuple[str, ...]:
        """What :meth:`image` imports: torch, which scales, and torchvision's operators, where colours change."""
        changes = self.data.transforms.jitters or self.data.transforms.randaugment is not None
        return (
            type(self).__module__,
            "simplejpeg",
            "torch",
            *(("torchvision.transforms.v2.functional",) if changes else ()),
        )

    def image(self, t: int, index: int) -> np.ndarray:
        """uint8 [H, W, 3] of image ``index`` in step ``t``.

        Raises:
            Undecodable: names it.
        """
        return made(self.images, index, lambda content: self._seen(content, (self.seed, t, index)))

    def _seen(self, content: bytes, key: tuple[int, int, int]) -> np.ndarray:
        if self.data.scaled:
            return self._smaller(content, key)
        pixels = jpeg.decoded(content)
        if pixels is None:
            pixels = channels(decoder.picture(content, checked=False))
        return augmented(pixels, self.size, self.data, key)

    def _smaller(self, content: bytes, key: tuple[int, int, int]) -> np.ndarray:
        """A part that stays larger than what is wanted, decoded at a half, a quarter or an eighth."""
        drawn: list[tuple[Box | None, int, int]] = []

        def shrink(width: int, height: int) -> int:
            part = drawn_box(width, height, self.data, key)
            drawn.append((part, width, height))
            if part is None:
                return 1
            return max(1, int(min((part.bottom - part.top) / self.size[0], (part.right - part.left) / self.size[1])))

        picture = decoder.picture(content, checked=False, shrink=shrink)
        ((part, width, height),) = drawn
        if part is not None and picture.width != width:
            x, y = picture.width / width, picture.height / height
            part = Box(part.left * x, part.top * y, part.right * x, part.bottom * y)
        return augmented(channels(picture), self.size, self.data, key, part=part)
