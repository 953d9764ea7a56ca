"""From the bytes of a PNG or JPEG file to the pixels that a model takes. Nothing is decoded before it is known to be small."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from sparring.serve.catalogue import middle_of, shape_of
from sparring.trainers import decoder
from sparring.trainers.decoder import Refused

FORMATS = ("PNG", "JPEG")


def decode(content: bytes, shape: tuple[int, int, int], *, pixels: int, middle: float = 1.0) -> np.ndarray:
    """[C, H, W] float32 in [0, 1], by the decoder that training uses (``trainers/decoder.py``).

    Args:
        shape: channels, height, width.
        pixels: that a file may have at most.
        middle: what share of the middle the model was evaluated on (``decoder.pixels``).

    Raises:
        Refused: not one still PNG or JPEG image, too large, or damaged; or a model of other than 1 or 3 channels.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise Refused(
            f"this model takes {channels} channels, which no file of these kinds has; send its pixels to /v2/models/NAME/infer"
        )
    seen = decoder.pixels(
        content, size=(height, width), middle=middle, grey=channels == 1, most=pixels, formats=FORMATS
    )
    values = seen.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def prepared(content: bytes, card: Mapping[str, Any], *, pixels: int) -> np.ndarray:
    """:func:`decode` to what a model takes, the same part of it that its evaluation saw."""
    return decode(content, shape_of(card), pixels=pixels, middle=middle_of(card))


def decode_base64(text: str) -> bytes:
    """The bytes that base64, or a data URL with it, stands for.

    Raises:
        Refused: it is not base64.
    """
    _, _, content = text.rpartition(",") if text.startswith("data:") else ("", "", text)
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("not base64") from None


def encode(x: np.ndarray) -> str:
    """A PNG of [C, H, W] pixels in [0, 1] as a data URL."""
    values = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
