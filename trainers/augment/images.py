"""One image as a run sees it in one step: a pure function of its pixels and (seed, step, index in the data set).

a decoded image of any size ---> resized-crop and flip, or the middle ---> RandAugment ---> colour jitter ---> erasing

A process that decodes calls ``augmented`` after it; a batch in memory goes through ``in_memory.each``. Shift and crop-flip, which are drawn
for a batch at once, come after this in both cases (``shifting.py``).
"""

from __future__ import annotations

import numpy as np

from sparring.trainers import decoder
from sparring.trainers.augment import operators
from sparring.trainers.augment.draws import Draws
from sparring.trainers.augment.pictures import channels, picture
from sparring.trainers.augment.resized_crop import Box, box, resize
from sparring.trainers.config import DataConfig

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
    pixels: np.ndarray, size: tuple[int, int], data: DataConfig, key: Key, *, part: Box | None = None
) -> np.ndarray:
    """uint8 [H, W, C] of ``size`` (height, width) from a decoded image, uint8 of any size with the same 1 or 3 channels.

    Args:
        part: what ``drawn_box`` said, in pixels of what was decoded, where that was decoded smaller; default drawn here.
    """
    height, width = size
    config = data.transforms
    part = part or drawn_box(pixels.shape[1], pixels.shape[0], data, key)
    if part is not None:
        pixels = resize(pixels, part, size, interpolation=config.interpolation)
        if Draws(*key, "flip").uniform() < config.flip:
            pixels = pixels[:, ::-1]
    elif pixels.shape[:2] != size or data.middle != 1:
        pixels = channels(decoder.fitted(picture(pixels), size, data.middle))
    steps = operators.randaugment(width, height, config, Draws(*key, "randaugment"))
    steps += operators.jitter(config, Draws(*key, "jitter"))
    if steps:
        image = picture(pixels)
        for step in steps:
            image = operators.operate(image, step)
        pixels = channels(image)
    draws = Draws(*key, "erasing")
    erased = operators.hole(width, height, config, draws) if config.erasing else None
    if erased is None:
        return pixels
    count = int((erased.right - erased.left) * (erased.bottom - erased.top)) * pixels.shape[-1]
    return operators.erase(pixels, erased, draws.noise(count) if config.erasing_value == "noise" else None)
