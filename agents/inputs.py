"""Images and labels as other people have them: what can be meant in one way is taken, the rest is refused in one sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NORMALISED = (-2.7, 2.7)  # where pixels lie that were normalised by ImageNet's or CIFAR's statistics, with some room


def check_images(x: Tensor) -> None:
    """Refuse what is no batch of pixels in [0, 1].

    Raises:
        ValueError: another shape or type, or pixels outside, with what they look like.
    """
    if x.dtype == torch.uint8:
        raise ValueError("images are torch.uint8, bytes; pixels must be in [0, 1]: x.float() / 255")
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"images are {x.dtype} {list(x.shape)}; expected floating-point [B, C, H, W]")
    if not x.numel():
        return
    low, high = x.min().item(), x.max().item()
    if low >= 0 and high <= 1:
        return
    if low != low or high != high:
        lost = int(torch.isnan(x).flatten(1).any(1).sum())
        raise ValueError(
            f"images lie in [{low:.4g}, {high:.4g}]: {lost} of {len(x)} hold NaN; pixels must be in [0, 1]"
        )
    hint = "divide by 255" if low >= 0 and 2 < high <= 255 else "give them as they are"
    if low < 0 and low >= NORMALISED[0] and high <= NORMALISED[1]:
        hint = "they look normalised: give them before that"
    raise ValueError(
        f"images lie in [{low:.4g}, {high:.4g}]; pixels must be in [0, 1] ({hint}; normalisation belongs inside the network)"
    )


def labels(given: Any, *, images: int, classes: int | None = None) -> Tensor:
    """Labels [B] as int64, from integers of any width.

    Args:
        images: how many there are.
        classes: that the network tells; None: not known.

    Raises:
        ValueError: another type or shape, one that is no class; says what to write.
    """
    y: Tensor = torch.as_tensor(given)
    if y.dim() == 2 and y.shape[0] == images and y.shape[1] > 1:
        raise ValueError(f"labels are {list(y.shape)}, one row per image; expected class numbers [B]: y.argmax(1)")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        kind = str(y.dtype).removeprefix("torch.")
        raise ValueError(f"labels are {kind}; expected class numbers as integers: y.long()")
    if y.shape != (images,):
        raise ValueError(
            f"there are {images} images and labels {list(y.shape)}; expected one class number per image [B]"
        )
    y = y.long()
    if not images:
        return y
    low, high = int(y.min()), int(y.max())
    if low < 0 or (classes is not None and high >= classes):
        told = (
            f", the network tells {classes} classes apart: expected 0 to {classes - 1}"
            if classes
            else "; expected 0 or more"
        )
        hint = "; are they counted from 1? y - 1" if low >= 1 and high == classes else ""
        raise ValueError(f"labels lie in {low} to {high}{told}{hint}")
    return y
