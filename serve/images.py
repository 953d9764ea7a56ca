"""From the bytes of a PNG or JPEG file to the pixels that a model takes. Nothing is decoded before it is known to be small."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # CMYK and 16-bit images need a choice of colours that is their owner's


class Refused(ValueError):
    """The bytes are not an image that is taken; says why."""


def decode(content: bytes, shape: tuple[int, int, int], *, pixels: int) -> np.ndarray:
    """[C, H, W] float32 in [0, 1]; larger images are scaled down and cut to the middle, smaller ones scaled up.

    An image of the model's own size keeps its pixels to the last bit. Transparency is laid on white; a camera's
    orientation is applied; an extension or declared type does not count.

    Args:
        shape: channels (1 or 3), height, width.
        pixels: that a file may have at most.

    Raises:
        Refused: not one still PNG or JPEG image of 8 bits per channel, too large, or damaged.
    """
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check(image, content, pixels)
            image.load()
            seen = _flat(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise Refused("not a PNG or JPEG image") from None
    except Refused:
        raise
    except Image.DecompressionBombError:  # far beyond what is taken: Pillow's own limit
        raise Refused(f"image too large; at most {pixels} pixels are taken") from None
    except Exception:  # decoders raise almost anything on damaged bytes and metadata
        raise Refused("damaged image") from None
    seen = seen.convert("L" if channels == 1 else "RGB")
    if seen.size != (width, height):
        seen = ImageOps.fit(seen, (width, height), Image.Resampling.BICUBIC)
    values = np.asarray(seen, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(values[None] if channels == 1 else values.transpose(2, 0, 1))


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


def _check(image: Any, content: bytes, pixels: int) -> None:
    width, height = image.size
    if width * height > pixels:
        raise Refused(f"image of {width} x {height} pixels; at most {pixels} pixels are taken")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a telephone's second picture stays unseen
        raise Refused("animated image; send one still image")
    if image.format == "PNG" and content[24] > 8:  # Pillow drops the lower half of 16-bit colours
        raise Refused(f"{content[24]} bits per channel; send 8")
    if image.mode not in MODES:
        raise Refused(f"image mode {image.mode}; send 8-bit grey, RGB or RGBA")


def _flat(image: Any) -> Any:
    """Without palette and transparency."""
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("LA", "RGBA"):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image
