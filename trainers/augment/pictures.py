"""Arrays of pixels as Pillow's images, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


def picture(pixels: np.ndarray) -> Image:
    """Of uint8 [H, W, C], grey or RGB."""
    from PIL.Image import fromarray

    return fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def channels(image: Image) -> np.ndarray:
    """uint8 [H, W, C]."""
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]
