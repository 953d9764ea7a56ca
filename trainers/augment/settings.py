"""Which augmentations a run asks for, besides shift and crop. Importing this costs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from sparring.trainers.values import require

LEVELS = 30  # the largest magnitude of RandAugment


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Augmentations of training images, none of which is on by default."""

    scale: tuple[float, ...] = (0.08, 1.0)
    """resized-crop: smallest and largest share of the image's area."""
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    """resized-crop: smallest and largest width / height of the part."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """resized-crop: how the part is scaled to the run's size."""
    flip: float = 0.5
    """resized-crop: probability of a horizontal flip."""
    brightness: float = 0.0
    """Colour jitter: the factor is drawn from 1 - b to 1 + b; 0: none."""
    contrast: float = 0.0
    """Colour jitter: the same for the contrast."""
    saturation: float = 0.0
    """Colour jitter: the same for the saturation."""
    hue: float = 0.0
    """Colour jitter: part of the colour circle, at most 0.5, by which hues turn either way."""
    randaugment: int | None = None
    """Magnitude of RandAugment, 0 to 30; default none."""
    randaugment_ops: int = 2
    """Operators of RandAugment, one after the other."""
    erasing: float = 0.0
    """Probability that a rectangle is erased."""
    erasing_scale: tuple[float, ...] = (0.02, 0.33)
    """Smallest and largest share of the image's area that is erased."""
    erasing_ratio: tuple[float, ...] = (0.3, 3.3)
    """Smallest and largest height / width of what is erased."""
    erasing_value: Literal["zero", "noise"] = "zero"
    """zero: black. noise: every byte drawn for itself."""
    mixup: float = 0.0
    """Both parameters of the Beta distribution of mixup's weight, one per batch; 0: no mixup."""
    cutmix: float = 0.0
    """The same for cutmix; where both are given, a coin chooses for each batch."""

    def __post_init__(self) -> None:
        for name in ("scale", "ratio", "erasing_scale", "erasing_ratio"):
            self._check_range(name, most=1.0 if name.endswith("scale") else float("inf"))
        for name, most in (("flip", 1.0), ("erasing", 1.0), ("hue", 0.5)):
            value = getattr(self, name)
            require(0 <= value <= most, f"data.transforms.{name} = {value} must lie in [0, {most:g}]")
        for name in ("brightness", "contrast", "saturation", "mixup", "cutmix"):
            value = getattr(self, name)
            require(isfinite(value) and value >= 0, f"data.transforms.{name} = {value} must be a finite number >= 0")
        level = self.randaugment
        require(
            level is None or 0 <= level <= LEVELS, f"data.transforms.randaugment = {level} must lie in [0, {LEVELS}]"
        )
        require(self.randaugment_ops >= 1, f"data.transforms.randaugment_ops = {self.randaugment_ops} must be >= 1")

    def _check_range(self, name: str, *, most: float) -> None:
        values = getattr(self, name)
        good = len(values) == 2 and 0 < values[0] <= values[1] <= most and isfinite(values[1])
        allowed = "two numbers, 0 < smallest <= largest" + (" <= 1" if most == 1 else "")
        require(good, f"data.transforms.{name} = {list(values)} is not allowed; expected {allowed}")

    @property
    def jitters(self) -> bool:
        """Whether colours change."""
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0

    @property
    def operates(self) -> bool:
        """Whether something is done to single images, whatever their size."""
        return self.jitters or self.randaugment is not None or self.erasing > 0

    @property
    def mixing(self) -> str | None:
        """The setting by which images are mixed with one another, as ``mixup = 0.2``."""
        asked = [f"{name} = {getattr(self, name)}" for name in ("mixup", "cutmix") if getattr(self, name) > 0]
        return asked[0] if asked else None
