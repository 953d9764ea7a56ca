"""One image as a run sees it in one step: a pure function of its pixels and (seed, step, index in the data set).

a decoded image of any size ---> resized-crop and flip, or the middle ---> RandAugment ---> colour jitter ---> erasing

A process that decodes calls ``drawn_box`` before and ``augmented`` after it, without torch where no operator is asked for; a batch in
memory goes through ``in_memory.each``. Shift and
crop-flip, which are drawn for a batch at once, come after this in both cases (``shifting.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sparring.trainers import decoder
from sparring.trainers.augment import operators
from sparring.trainers.augment.draws import Draws
from sparring.trainers.augment.resized_crop import Box, box, resize
from sparring.trainers.config import DataConfig

if TYPE_CHECKING:
    from PIL.Image import Image

Key = tuple[int, int, int]  # seed, step, index in the data set


def drawn_box(width: int, height: int, data: DataConfig, key: Key) -> Box | None:
    """The part of an image that a step sees, in pixels of the whole image; None: its middle, as evaluation sees it.

    Args:
        width, height: of the image as it is looked at, turned as the camera says.
    """
    if data.augment != "resized-crop":
        return None
    return box(width, height, data.transforms, Draws(*key, "crop"))


def augmented(
    image: Image, size: tuple[int, int], data: DataConfig, key: Key, *, part: Box | None = None
) -> np.ndarray:
    """uint8 [H, W, C] of ``size`` (height, width) from a decoded image of 8 bits, RGB or grey.

    Args:
        part: what ``drawn_box`` said, in pixels of ``image``, where that was decoded smaller; default drawn here.
    """
    from PIL import Image as Images

    config = data.transforms
    part = part or drawn_box(*image.size, data, key)
    if part is not None:
        image = resize(image, part, size, interpolation=config.interpolation)
        if Draws(*key, "flip").uniform() < config.flip:
            image = image.transpose(Images.Transpose.FLIP_LEFT_RIGHT)
    else:
        image = decoder.fitted(image, size, data.middle)
    steps = operators.randaugment(*image.size, config, Draws(*key, "randaugment"))
    for step in [*steps, *operators.jitter(config, Draws(*key, "jitter"))]:
        image = operators.operate(image, step)
    pixels = np.asarray(image)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    draws = Draws(*key, "erasing")
    erased = operators.hole(*image.size, config, draws) if config.erasing else None
    if erased is None:
        return pixels
    count = int((erased.right - erased.left) * (erased.bottom - erased.top)) * pixels.shape[-1]
    return operators.erase(pixels, erased, draws.noise(count) if config.erasing_value == "noise" else None)
