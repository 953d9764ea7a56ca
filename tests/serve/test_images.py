"""Uploaded files: pixels to the last bit where the size fits, a sentence for everything that is no small still image."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from sparring.serve.images import decode, decode_base64, encode
from sparring.trainers.decoder import Refused
from tests.serve.made import pixels, png

GREY, RGB = (1, 8, 8), (3, 16, 16)
MANY = 2**20


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("shape", [GREY, RGB])
def test_the_models_own_size_keeps_every_pixel(shape: tuple[int, int, int]) -> None:
    x = pixels(shape=shape)[0]
    assert np.array_equal(decode(png(x), shape, pixels=MANY), x)
    assert decode(png(x), shape, pixels=MANY).dtype == np.float32
    assert np.array_equal(decode(decode_base64(encode(x)), shape, pixels=MANY), x)


def test_other_sizes_are_scaled_and_cut_to_the_middle() -> None:
    wide = np.zeros((16, 48), np.uint8)
    wide[:, 16:32] = 255
    seen = decode(saved(Image.fromarray(wide)), GREY, pixels=MANY)
    assert seen.shape == GREY
    assert seen[:, :, 1:-1].min() > 0.9
    assert decode(saved(Image.new("L", (2, 2), 51)), GREY, pixels=MANY) == pytest.approx(0.2)


def test_colour_becomes_grey_and_grey_colour() -> None:
    assert decode(saved(Image.new("RGB", (8, 8), (255, 255, 255))), GREY, pixels=MANY).min() == 1
    assert decode(saved(Image.new("L", (16, 16), 51)), RGB, pixels=MANY) == pytest.approx(0.2)


def test_transparency_lies_on_white_and_palettes_are_undone() -> None:
    assert decode(saved(Image.new("RGBA", (16, 16), (0, 0, 0, 0))), RGB, pixels=MANY).min() == 1
    assert decode(saved(Image.new("LA", (8, 8), (0, 0))), GREY, pixels=MANY).min() == 1
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(saved(red), RGB, pixels=MANY)[:, 0, 0].tolist() == [1, 0, 0]
    clear = Image.new("P", (8, 8), 0)
    clear.putpalette([0, 0, 0] * 256)
    assert decode(saved(clear, transparency=0), GREY, pixels=MANY).min() == 1
    for mode, colour in (("L", 0), ("RGB", (0, 0, 0))):
        assert decode(saved(Image.new(mode, (8, 8), colour), transparency=colour), GREY, pixels=MANY).min() == 1


def test_cmyk_and_16_bit_grey_become_8_bits() -> None:
    white = saved(Image.new("CMYK", (16, 16)), "JPEG")
    assert decode(white, RGB, pixels=MANY).min() == 1
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    assert np.array_equal(decode(saved(Image.fromarray(ramp)), GREY, pixels=MANY)[0] * 255, np.round(ramp / 257))


def test_a_telephones_second_picture_stays_unseen() -> None:
    white, black = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16))
    content = saved(white, "MPO", save_all=True, append_images=[black])
    assert decode(content, RGB, pixels=MANY).min() > 0.99


def test_random_damage_is_refused_or_decoded() -> None:
    """3000 files with a few bytes changed: an array of the right shape or a refusal, nothing else."""
    rng = np.random.default_rng(0)
    exif, red = Image.Exif(), Image.new("RGB", (16, 16), "red")
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "text", 72.0  # orientation, and fields that decoders trust
    originals = [png(pixels(shape=RGB)[0]), saved(red, "JPEG", exif=exif), saved(red, exif=exif)]
    for i in range(3000):
        content = bytearray(originals[i % 3])
        for at in rng.integers(0, min(len(content), 160) if i % 3 else len(content), 3):  # metadata comes first
            content[at] = rng.integers(0, 256)
        try:
            seen = decode(bytes(content), RGB, pixels=MANY)
        except Refused:
            continue
        assert seen.shape == RGB
        assert 0 <= seen.min() <= seen.max() <= 1


def test_a_cameras_orientation_is_applied() -> None:
    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (0, 0, 16, 8))  # the upper half
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    content = saved(image, "JPEG", exif=turned, quality=95)
    seen = decode(content, RGB, pixels=MANY)
    assert seen[:, :7].max() < 0.1
    assert seen[:, 9:].min() > 0.9


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims to be huge."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def animated() -> bytes:
    frames = [Image.new("L", (8, 8), i) for i in (0, 128)]
    return saved(frames[0], save_all=True, append_images=frames[1:])


def sixteen_bits() -> bytes:
    """An RGB PNG with 16 bits per channel, which Pillow would open as one with 8."""
    rows = b"".join(b"\0" + bytes(8 * 6) for _ in range(8))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (lambda: bomb(50_000, 50_000), "image too large; at most 1048576 pixels"),
    "large": (lambda: bomb(1025, 1024), "image of 1025 x 1024 pixels; at most 1048576 pixels are taken"),
    "bomb beyond Pillow's own limit": (lambda: bomb(2**31 - 1, 2**31 - 1), "image"),
    "animated": (animated, "animated image; send one still image"),
    "16-bit colours": (sixteen_bits, "16 bits per colour channel; save it with 8"),
    "truncated PNG": (lambda: png(pixels(shape=RGB)[0])[:-40], "damaged image"),
    "truncated JPEG": (lambda: png(pixels(shape=RGB)[0], "JPEG")[:200], "damaged image"),
    "flipped bit": (
        lambda: (lambda b: b[:60] + bytes([b[60] ^ 255]) + b[61:])(png(pixels(shape=RGB)[0])),
        "damaged image",
    ),
    "GIF": (lambda: saved(Image.new("L", (8, 8)), "GIF"), "not a PNG or JPEG image"),
    "TIFF": (lambda: saved(Image.new("L", (8, 8)), "TIFF"), "not a PNG or JPEG image"),
    "SVG": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a PNG or JPEG image"),
    "text": (lambda: b"hello", "not a PNG or JPEG image"),
    "nothing": (lambda: b"", "not a PNG or JPEG image"),
    "only the signature": (lambda: b"\x89PNG\r\n\x1a\n", "image"),
}


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_no_file_has(channels: int) -> None:
    with pytest.raises(Refused, match=f"this model takes {channels} channels, which no file of these kinds has"):
        decode(png(pixels(shape=RGB)[0]), (channels, 16, 16), pixels=MANY)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(kind: str) -> None:
    content, words = HOSTILE[kind]
    with pytest.raises(Refused, match=words):
        decode(content(), GREY, pixels=MANY)


def test_a_wrong_extension_does_not_count() -> None:
    """A JPEG is one whatever it is called: only the bytes are looked at."""
    x = np.full((1, 8, 8), 0.5, np.float32)
    assert decode(png(x, "JPEG"), GREY, pixels=MANY) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("text", ["%%%", "abc", "data:image/png;base64,%%", "é"])
def test_bad_base64(text: str) -> None:
    with pytest.raises(Refused, match="not base64"):
        decode_base64(text)


def test_base64_and_data_urls() -> None:
    plain = base64.b64encode(b"abc").decode()
    assert decode_base64(plain) == decode_base64(f"data:image/png;base64,{plain}") == b"abc"
