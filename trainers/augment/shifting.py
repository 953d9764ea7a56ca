"""Shift and crop-flip: drawn and done for a whole batch at once, on its device."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.trainers.config import DataConfig


def augment(images: Tensor, config: DataConfig, *, rng: torch.Generator) -> Tensor:
    """Random crop after zero padding, and flip, drawn per image for the whole batch at once: [B, H, W, C] -> the same."""
    if config.augment not in ("shift", "crop-flip"):
        return images
    b, h, w, _ = images.shape
    p, device = config.padding, images.device
    padded = torch.nn.functional.pad(images, (0, 0, p, p, p, p))
    top, left = torch.randint(0, 2 * p + 1, (2, b), generator=rng, device=device)
    windows = padded.unfold(1, h, 1).unfold(2, w, 1)  # [B, 2p + 1, 2p + 1, C, H, W], a view
    crops = windows[torch.arange(b, device=device), top, left]
    if config.augment == "crop-flip":
        flip = torch.rand(b, generator=rng, device=device) < 0.5
        crops = torch.where(flip[:, None, None, None], crops.flip(3), crops)
    return crops.permute(0, 2, 3, 1)
