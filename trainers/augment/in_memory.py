"""A batch that is in memory, image by image, as a process that decodes does it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparring.trainers.augment.images import augmented
from sparring.trainers.config import DataConfig, require


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
    numbered = zip(images.cpu().numpy(), index.tolist(), strict=True)
    done = [augmented(pixels, pixels.shape[:2], data, (seed, step, i)) for pixels, i in numbered]
    return torch.from_numpy(np.stack(done)).to(images.device)
