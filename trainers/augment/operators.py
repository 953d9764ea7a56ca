"""What is done to the pixels of one image of the run's size: drawn first, as (operator, value), then done by torchvision.

On Pillow's images: those that cost most take less time than on tensors, and all of them no threads.

Sources: RandAugment, Cubuk et al., arXiv 1909.13719, with the operators and ranges of torchvision's; random erasing, Zhong et
al., arXiv 1708.04896.
"""

from __future__ import annotations

from math import atan, degrees
from typing import TYPE_CHECKING, Any

import numpy as np

from sparring.trainers.augment.draws import Draws
from sparring.trainers.augment.resized_crop import TRIES, Box, sides
from sparring.trainers.augment.settings import LEVELS, AugmentConfig

if TYPE_CHECKING:
    from PIL.Image import Image

JITTER = ("brightness", "contrast", "saturation", "hue")
MOVES = {"shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331, "rotate": 30.0}
FACTORS = {"brightness": 0.9, "saturation": 0.9, "contrast": 0.9, "sharpness": 0.9}
OTHERS = ("identity", "posterize", "solarize", "autocontrast", "equalize")
RANDAUGMENT = (
    *MOVES,
    *FACTORS,
    *OTHERS,
)  # at the largest magnitude: a slope, a share of the side, degrees; a factor less 1

Step = tuple[str, float]  # an operator and its value


def jitter(config: AugmentConfig, draws: Draws) -> list[Step]:
    """Colour jitter: brightness, contrast, saturation and hue in random order, those that are asked for."""
    steps = []
    for name in (JITTER[i] for i in draws.shuffled(len(JITTER))):
        most = getattr(config, name)
        if most > 0:
            low, high = (-most, most) if name == "hue" else (max(0.0, 1 - most), 1 + most)
            steps.append((name, draws.uniform(low, high)))
    return steps


def randaugment(width: int, height: int, config: AugmentConfig, draws: Draws) -> list[Step]:
    """So many of the 14 operators, each drawn from all; those that go both ways by a coin."""
    if config.randaugment is None:
        return []
    steps = []
    for _ in range(config.randaugment_ops):
        name, sign = RANDAUGMENT[draws.below(len(RANDAUGMENT))], 1 - 2 * draws.below(2)
        steps.append((name, _value(name, sign, config.randaugment / LEVELS, (width, height))))
    return steps


def _value(name: str, sign: int, share: float, size: tuple[int, int]) -> float:
    """What an operator takes at a share of the largest magnitude."""
    if name.startswith("translate"):
        return int(sign * MOVES[name] * size[name == "translate_y"] * share)
    if name in MOVES:
        return sign * MOVES[name] * share
    if name in FACTORS:
        return 1 + sign * FACTORS[name] * share
    return {"posterize": 8 - round(4 * share), "solarize": 255 * (1 - share)}.get(name, 0)


def operate(image: Image, step: Step) -> Image:
    """One operator on an image of 8 bits, grey or RGB; what comes in from outside is black."""
    from torchvision.transforms.v2 import functional as F

    name, value = step
    if name == "identity":
        return image
    slope = degrees(atan(value))
    done: dict[str, tuple[Any, dict[str, Any]]] = {
        "shear_x": (F.affine, _moved(shear=[slope, 0.0], center=[0, 0])),
        "shear_y": (F.affine, _moved(shear=[0.0, slope], center=[0, 0])),
        "translate_x": (F.affine, _moved(translate=[value, 0])),
        "translate_y": (F.affine, _moved(translate=[0, value])),
        "rotate": (F.rotate, {"angle": value}),
        "brightness": (F.adjust_brightness, {"brightness_factor": value}),
        "contrast": (F.adjust_contrast, {"contrast_factor": value}),
        "saturation": (F.adjust_saturation, {"saturation_factor": value}),
        "hue": (F.adjust_hue, {"hue_factor": value}),
        "sharpness": (F.adjust_sharpness, {"sharpness_factor": value}),
        "posterize": (F.posterize, {"bits": value}),
        "solarize": (F.solarize, {"threshold": value}),
        "autocontrast": (F.autocontrast, {}),
        "equalize": (F.equalize, {}),
    }
    function, arguments = done[name]
    out: Image = function(image, **arguments)
    return out


def _moved(**changed: Any) -> dict[str, Any]:
    return {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **changed}


def hole(width: int, height: int, config: AugmentConfig, draws: Draws) -> Box | None:
    """The rectangle that is erased; None: this image stays whole, by chance or since ten tries do not fit."""
    if draws.uniform() >= config.erasing:
        return None
    for _ in range(TRIES):
        h, w = sides(width * height, config.erasing_scale, config.erasing_ratio, draws)
        if h < height and w < width:
            left, top = draws.below(width - w + 1), draws.below(height - h + 1)
            return Box(left, top, left + w, top + h)
    return None


def erase(pixels: np.ndarray, part: Box, noise: bytes | None = None) -> np.ndarray:
    """uint8 [H, W, C] with a rectangle black, or filled with so many bytes of ``noise``."""
    rows, columns = slice(int(part.top), int(part.bottom)), slice(int(part.left), int(part.right))
    out = pixels.copy()
    shape = out[rows, columns].shape
    out[rows, columns] = 0 if noise is None else np.frombuffer(noise, np.uint8).reshape(shape)
    return out
