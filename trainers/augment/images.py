"""One image as a run sees it in one step: a pure function of its pixels and (seed, step, index in the data set).

a decoded image of any size ---> resized-crop and flip, or the middle ---> RandAugment ---> colour jitter ---> erasing

A process that decodes calls ``drawn_box`` before and ``augmented`` after it; a batch in memory goes through ``each``. Shift and
crop-flip, which are drawn for a batch at once, come after this in both cases (``shifting.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sparring.trainers.augment import operators
from sparring.trainers.augment.draws import Draws
from sparring.trainers.augment.resized_crop import Box, box, resize
from sparring.trainers.config import DataConfig, require

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
    from PIL import ImageOps

    config = data.transforms
    part = part or drawn_box(*image.size, data, key)
    if part is not None:
        image = resize(image, part, size, interpolation=config.interpolation)
        if Draws(*key, "flip").uniform() < config.flip:
            image = image.transpose(Images.Transpose.FLIP_LEFT_RIGHT)
    elif image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Images.Resampling.BICUBIC)
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


def check(images: Tensor, data: DataConfig) -> None:
    """Refuse images in memory on which what is asked for is not defined.

    Raises:
        ValueError: they are no bytes, or have other than one or three channels.
    """
    channels, kind = images.shape[-1], str(images.dtype).removeprefix("torch.")
    require(
        not data.one_by_one or (images.dtype == torch.uint8 and channels in (1, 3)),
        f"data.augment = resized-crop and data.transforms need images of bytes with 1 or 3 channels; these are {kind} with "
        f"{channels}; use --data.augment none, shift or crop-flip without --data.transforms",
    )


def each(images: Tensor, index: Tensor, data: DataConfig, *, seed: int, step: int) -> Tensor:
    """Every image of a batch by itself, uint8 [B, H, W, C] -> the same; on the CPU, so that every device sees the same bytes.

    Args:
        index: [B], of the images in the data set.
    """
    if not data.one_by_one:
        return images
    from PIL import Image as Images

    grey, done = images.shape[-1] == 1, []
    for pixels, i in zip(images.cpu().numpy(), index.tolist(), strict=True):
        image = Images.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
        done.append(augmented(image, pixels.shape[:2], data, (seed, step, i)))
    return torch.from_numpy(np.stack(done)).to(images.device)
