"""A part of an image of random area and aspect ratio, scaled to the run's size.

Source: Szegedy et al., arXiv 1409.4842, section 6, with the parameters and the ten tries of torchvision's RandomResizedCrop.
"""

from __future__ import annotations

from math import ceil, exp, floor, log, sqrt
from typing import NamedTuple

import numpy as np

from sparring.trainers.augment.draws import Draws
from sparring.trainers.augment.pictures import channels, picture
from sparring.trainers.augment.settings import AugmentConfig

TRIES = 10


class Box(NamedTuple):
    """A part of an image, in its pixels: Pillow's order."""

    left: float
    top: float
    right: float
    bottom: float


def sides(area: float, scale: tuple[float, ...], ratio: tuple[float, ...], draws: Draws) -> tuple[int, int]:
    """Two sides of a rectangle whose share of ``area`` lies in ``scale`` and whose first / second side lies in ``ratio``."""
    wanted = area * draws.uniform(*scale)
    aspect = exp(draws.uniform(log(ratio[0]), log(ratio[1])))
    return round(sqrt(wanted * aspect)), round(sqrt(wanted / aspect))


def box(width: int, height: int, config: AugmentConfig, draws: Draws) -> Box:
    """The part that is cut out of an image of this size, known before a pixel is decoded.

    Where ten tries do not fit, the middle: as much of the image as ``ratio`` allows.

    Args:
        width, height: of the image as it is looked at, turned as the camera says.
    """
    for _ in range(TRIES):
        w, h = sides(width * height, config.scale, config.ratio, draws)
        if 0 < w <= width and 0 < h <= height:
            left, top = draws.below(width - w + 1), draws.below(height - h + 1)
            return Box(left, top, left + w, top + h)
    narrowest, widest = config.ratio
    w, h = min(width, round(height * widest)), min(height, round(width / narrowest))
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + w, top + h)


def resize(image: np.ndarray, part: Box, size: tuple[int, int], *, interpolation: str = "bicubic") -> np.ndarray:
    """A part of uint8 [H, W, C] at ``size`` (height, width), in one resampling with antialiasing.

    By torch, as torchvision does it on tensors, in less than half of Pillow's time; Pillow scales parts that begin between pixels.

    Args:
        part: whole pixels, or fractions where the image was decoded smaller than ``box`` took it for.
    """
    left, top, right, bottom = floor(part.left), floor(part.top), ceil(part.right), ceil(part.bottom)
    cut = image[top:bottom, left:right]
    if part != (left, top, right, bottom):
        from PIL.Image import Resampling

        inside = (part.left - left, part.top - top, part.right - left, part.bottom - top)
        return channels(picture(cut).resize(size[::-1], Resampling[interpolation.upper()], box=inside))

    import torch

    pixels = torch.from_numpy(cut.copy()).permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(pixels, size=size, mode=interpolation, antialias=True)
    made: np.ndarray = scaled[0].permute(1, 2, 0).numpy()
    return made
