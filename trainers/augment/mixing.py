"""Mixup and cutmix: every image of a batch with the one before it, one weight for the batch; labels stay a pair.

    mixup     x~ = lam x + (1 - lam) x',  lam ~ Beta(alpha, alpha)                 Zhang et al., arXiv 1710.09412
    cutmix    x~ = x with a rectangle of x' in it, a share 1 - lam of the area      Yun et al., arXiv 1905.04899, algorithm 1

What a loss makes of the pair: ``losses.mixed``. The order of a batch is random already, so partners are not drawn.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from sparring.trainers.augment.draws import Draws
from sparring.trainers.augment.settings import AugmentConfig
from sparring.trainers.types import Batch


def mix(batch: Batch, config: AugmentConfig, draws: Draws) -> Batch:
    """The batch as the configuration asks: by mixup, by cutmix, by either with the same chance, or as it is."""
    ways = [(way, alpha) for way, alpha in ((mixup, config.mixup), (cutmix, config.cutmix)) if alpha > 0]
    if not ways:
        return batch
    way, alpha = ways[draws.below(len(ways))]
    return way(batch, alpha, draws)


def mixup(batch: Batch, alpha: float, draws: Draws) -> Batch:
    """``lam x + (1 - lam) x'``, in [0, 1] again; y2 are the labels of x'."""
    lam = draws.beta(alpha)
    x = lam * batch.x + (1 - lam) * batch.x.roll(1, 0)
    return replace(batch, x=x, y2=batch.y.roll(1, 0), lam=lam)


def cutmix(batch: Batch, alpha: float, draws: Draws) -> Batch:
    """A rectangle of x' in x, its middle anywhere in the image; lam is the share of x that is really left."""
    height, width = batch.x.shape[2:]
    side = sqrt(1 - draws.beta(alpha))
    top, bottom = _cut(height, side, draws)
    left, right = _cut(width, side, draws)
    x = batch.x.clone()
    x[:, :, top:bottom, left:right] = batch.x.roll(1, 0)[:, :, top:bottom, left:right]
    lam = 1 - (bottom - top) * (right - left) / (height * width)
    return replace(batch, x=x, y2=batch.y.roll(1, 0), lam=lam)


def _cut(length: int, share: float, draws: Draws) -> tuple[int, int]:
    """Where a share of a length begins and ends, cut off at the border."""
    size, middle = int(length * share), draws.below(length)
    return max(0, middle - size // 2), min(length, middle + size // 2)
