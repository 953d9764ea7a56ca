"""From the bytes of an image file to pixels: the one way for training, evaluation, the service and its page.

bytes ---> Pillow ---> turned as the camera says, on white, 8 bits ---> grey or RGB ---> cut to the middle and scaled, rounded once

Needs Pillow and numpy alone, so that what decodes uploads loads no torch.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

VERSION = 2  # of this preparation, as a card records it; 1: training had its own, without orientation, on black
BACKGROUND = 255  # what transparency is laid on
MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "La",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "I;16B",
    "I;16L",
)


ORIENTATION, EXCHANGING = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and the values that exchange width and height
FILLER = bytes((i * 73 + 41) % 251 for i in range(256))  # for a look whether a JPEG's data ends early


class Refused(ValueError):
    """The bytes are no image that is taken; says why."""


def pixels(
    content: bytes,
    *,
    size: tuple[int, int] | None = None,
    middle: float = 1.0,
    grey: bool = False,
    most: int | None = None,
    formats: Collection[str] | None = None,
) -> np.ndarray:
    """An encoded image as uint8 [H, W, 3], or [H, W, 1].

    An image of the wanted size, all of which is seen, keeps its pixels to the last bit.

    Args:
        content: of the file.
        size: (height, width) to cut to the middle and scale to, in one resampling (bicubic); None keeps the image's own.
        middle: the share of the height and width of what is cut out that is seen, in (0, 1]; says nothing without a size.
        grey: one channel instead of three.
        most: pixels that a file may have.
        formats: Pillow's names of those that are taken; None: all that it reads.

    Raises:
        Refused: not an image, animated, damaged, too large, or of a kind whose pixels have no stated range.
    """
    flat = picture(content, grey=grey, most=most, formats=formats)
    seen = np.asarray(flat if size is None else fitted(flat, size, middle))
    return seen[..., None] if grey else seen


def fitted(image: Any, size: tuple[int, int], middle: float = 1.0) -> Any:
    """Pillow's image cut to its middle and scaled to ``size`` (height, width) in one resampling; ``middle`` as of :func:`pixels`."""
    from PIL import Image, ImageOps

    if middle == 1 and image.size == size[::-1]:
        return image
    return ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC, bleed=(1 - middle) / 2)


def picture(
    content: bytes,
    *,
    grey: bool = False,
    most: int | None = None,
    formats: Collection[str] | None = None,
    checked: bool = True,
    shrink: Callable[[int, int], int] = lambda width, height: 1,
) -> Any:
    """An encoded image as Pillow's, RGB or grey, as large as it is.

    Args:
        grey, most, formats: as of :func:`pixels`.
        checked: look whether the data ends early, which may cost another decoding; False where that was done before.
        shrink: by which factor, at most, a JPEG of this width and height, turned as the camera says, may be decoded smaller.

    Raises:
        Refused: as :func:`pixels`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=None if formats is None else tuple(formats)) as image:
            _check(image, content, most, whole=checked)
            turned = _shrunk(image, shrink)
            image.load()
            if image.format == "JPEG" and checked:
                _whole_jpeg(image, content)
            flat = _flat(ImageOps.exif_transpose(image) if turned else image)  # which copies in any case
    except UnidentifiedImageError:
        kinds = " or ".join(formats) if formats else "image that Pillow can read"
        raise Refused(f"not a {kinds} image" if formats else f"not an {kinds}") from None
    except Refused:
        raise
    except Image.DecompressionBombError:  # far beyond what is taken: Pillow's own limit
        limit = f"; at most {most} pixels are taken" if most else ""
        raise Refused(f"image too large{limit}") from None
    except Exception:  # decoders raise almost anything on damaged bytes and metadata
        raise Refused("damaged image") from None
    wanted = "L" if grey else "RGB"
    return flat if flat.mode == wanted else flat.convert(wanted)


def _shrunk(image: Any, shrink: Callable[[int, int], int]) -> bool:
    """Let libjpeg leave out what a smaller image does not need, by a half, a quarter or an eighth; whether the camera was turned."""
    orientation = image.getexif().get(ORIENTATION, 1)
    width, height = image.size
    factor = shrink(*((height, width) if orientation in EXCHANGING else (width, height)))
    if image.format == "JPEG" and factor > 1:
        image.draft(None, (-(-width // factor), -(-height // factor)))
    return bool(orientation != 1)


def _check(image: Any, content: bytes, most: int | None, *, whole: bool) -> None:
    width, height = image.size
    if most is not None and width * height > most:
        raise Refused(f"image of {width} x {height} pixels; at most {most} pixels are taken")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a telephone's second picture stays unseen
        raise Refused("animated image; send one still image")
    if image.mode not in MODES:
        raise Refused(
            f"image mode {image.mode}, whose pixels have no stated range; save it with 8 or 16 bits per channel"
        )
    if image.format == "PNG":
        if content[24] == 16 and content[25] != 0:  # Pillow drops the lower half of 16-bit colours
            raise Refused("16 bits per colour channel; save it with 8")
        if whole:
            _whole(content)


def _whole(content: bytes) -> None:
    """Refuse a PNG whose image data is not all there: Pillow leaves the rows that are missing black.

    Raises:
        Refused: the header claims more than there is.
    """
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", content[16:29])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour)
    if channels is None:
        raise Refused("damaged image")

    def size(w: int, h: int) -> int:
        return h * (1 + -(-w * channels * depth // 8)) if w and h else 0

    if interlace:  # Adam7: seven smaller pictures
        steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
        wanted = sum(size(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in steps)
    else:
        wanted = size(width, height)
    unpacker, got, at = zlib.decompressobj(), 0, 8
    while at + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        if kind == b"IDAT":
            data = content[at + 8 : at + 8 + length]
            while data and got < wanted:
                got += len(unpacker.decompress(data, 1 << 20))
                data = unpacker.unconsumed_tail
        at += 12 + length
    if got < wanted:
        raise Refused("damaged image")


def _whole_jpeg(image: Any, content: bytes) -> None:
    """Refuse a JPEG whose data ends before its last block: libjpeg repeats the last colour, and Pillow says nothing.

    Bytes that are put in at the end of the data change no pixel of a whole picture, and those that are missing in another.

    Raises:
        Refused: the data ended early and the end mark was put back, or the header claims more rows than there are.
    """
    from PIL import Image

    seen, end = np.asarray(image), content.rfind(b"\xff\xd9")
    corner = seen[-4:, -4:].reshape(-1, *seen.shape[2:]).astype(int)
    if end < 0 or (np.ptp(corner, axis=0).max() > 1 and "progressive" not in image.info):
        return  # a last block that is not of one colour was there
    with Image.open(io.BytesIO(content[:end] + FILLER + content[end:])) as longer:
        if not np.array_equal(np.asarray(longer), seen):
            raise Refused("damaged image")


def _flat(image: Any) -> Any:
    """Without palette, transparency and more than 8 bits."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey, which Pillow holds in 16 or 32
        values = np.asarray(image.convert("I"), dtype=np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise Refused("grey values beyond 16 bits; save it with 8 or 16 bits per channel")
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        white = Image.new("RGBA", image.size, (BACKGROUND,) * 4)
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image
