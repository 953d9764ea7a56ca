"""The quick way for JPEG files: the general decoder's bits, or nothing."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sparring.trainers import decoder
from sparring.trainers.encoded import jpeg
from tests.trainers.encoded.layouts import file

TURNED = Image.Exif()
TURNED[decoder.ORIENTATION] = 6


def spots(**options: Any) -> bytes:
    """A photograph, as far as libjpeg is concerned: smooth, with a little noise."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((61, 47))
    noisy = np.asarray(small).astype(int) + rng.integers(-9, 10, (47, 61, 3))
    sink = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(sink, "JPEG", **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 30},
        {"subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"keep_rgb": True},
        {"restart_marker_rows": 1},
        {"icc_profile": b"\0" * 70000},
        {"comment": b"by hand"},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_the_bits_of_the_general_decoder(options: dict[str, Any]) -> None:
    content = spots(**options)
    quick = jpeg.decoded(content)
    assert quick is not None
    assert np.array_equal(quick, np.asarray(decoder.picture(content)))


def moved(content: bytes) -> bytes:
    """The same file with its Exif segment behind the frame's header, where it may stand too."""
    at = content.index(b"\xff\xe1")
    exif = content[at : at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")]
    rest = content.replace(exif, b"")
    frame = rest.index(b"\xff\xc0")
    behind = frame + 2 + int.from_bytes(rest[frame + 2 : frame + 4], "big")
    return rest[:behind] + exif + rest[behind:]


def claiming(height: int, width: int) -> bytes:
    """A file whose header says that it is larger."""
    content = spots()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[at + 4 :]


@pytest.mark.parametrize(
    "content",
    [
        file(mode="L"),
        file(mode="CMYK"),
        spots(exif=TURNED),
        moved(spots(exif=TURNED)),
        claiming(60_000, 60_000),
        spots().replace(b"\xff\xdb", b"\xff\xff\xdb", 1),
        spots(xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"),
        file("PNG"),
        b"",
        b"\xff\xd8",
        b"\xff\xd8" + b"\xff\xe0\0\0" * 20,
        b"no image at all",
    ],
    ids=[
        "grey",
        "CMYK",
        "turned",
        "turned later",
        "large",
        "filled",
        "XMP",
        "PNG",
        "empty",
        "begins",
        "empty segments",
        "text",
    ],
)
def test_all_else_is_the_general_decoders(content: bytes) -> None:
    assert jpeg.decoded(content) is None


def test_a_file_that_ends_early_is_the_general_decoders() -> None:
    whole = spots()
    for end in range(0, len(whole) - 2, 97):
        assert jpeg.decoded(whole[:end]) is None
