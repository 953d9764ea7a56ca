"""The same file is the same pixels for training and for the service, or refused by both with the same sentence.

Imageomics/pybioclip#13, huggingface/diffusers#3465 (prepared otherwise for training), pytorch/vision#2218,
python-pillow/Pillow#2574 (16-bit grey became white).
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparring.serve import images as door
from sparring.trainers import datasets
from sparring.trainers.config import DataConfig
from sparring.trainers.datasets import decode
from sparring.trainers.decoder import Refused

MODES = {"PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK")}
KINDS = [(kind, mode) for kind, modes in MODES.items() for mode in modes]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def drawn(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """Random pixels of a mode."""
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    channels = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    values = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if mode in ("1", "L", "P"):
        return Image.fromarray(values[..., 0]).convert(mode)
    return Image.fromarray(values, mode)


def both(content: bytes, size: int) -> tuple[np.ndarray | str, np.ndarray | str]:
    """What the two doors make of a file: pixels, or the sentence of a refusal."""
    try:
        train: np.ndarray | str = decode.image(content, size=size, name="x")
    except ValueError as error:
        train = str(error).removeprefix("x: ")
    try:
        served = door.decode(content, (3, size, size), pixels=2**20)
        return train, np.round(served.transpose(1, 2, 0) * 255).astype(np.uint8)
    except Refused as error:
        return train, str(error)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.sampled_from([8, 16, 32]),
    turned=st.integers(0, 8),
    seed=st.integers(0, 10**6),
)
def test_every_mode_and_size(kind: tuple[str, str], width: int, height: int, size: int, turned: int, seed: int) -> None:
    exif = Image.Exif()
    if turned:
        exif[0x0112] = turned
    train, served = both(saved(drawn(kind[1], width, height, seed), kind[0], exif=exif), size)
    assert isinstance(train, np.ndarray)
    assert np.array_equal(train, served)
    assert train.shape == (size, size, 3)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def half_a_png() -> bytes:
    """A header of 16 rows, image data of 8, and a proper end."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0))
    rows = b"".join(b"\0" + bytes([200] * 16) for _ in range(8))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_rows_that_are_missing_are_damage() -> None:
    whole = saved(drawn("RGB", 13, 21, 0), "PNG")
    assert isinstance(both(whole, 16)[0], np.ndarray)
    assert both(half_a_png(), 16) == ("damaged image", "damaged image")


def test_16_bit_grey_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    train, served = both(saved(Image.fromarray(ramp), "PNG"), 16)
    assert isinstance(train, np.ndarray)
    assert 126 < train.mean() < 129
    assert np.array_equal(train, served)


def test_floating_point_tiff_is_refused_and_named() -> None:
    content = saved(Image.fromarray(np.random.default_rng(0).random((8, 8), np.float32)), "TIFF")
    with pytest.raises(ValueError, match=r"sun\.tif: image mode F, whose pixels have no stated range"):
        decode.image(content, name="sun.tif")


def test_a_cache_is_of_the_file_that_is_named(tmp_path: Path) -> None:
    """Knowledge-Graph-Hub/kg-microbe#866, LoicGrobol/zeldarose#111, lisa-lab/pylearn2#870: keyed by name, size and time."""
    import os

    for name, value in (("a", 11), ("b", 222)):
        (tmp_path / name).mkdir()
        image = np.full((20, 8, 8, 1), value, np.uint8)
        np.savez(tmp_path / name / "1m.npz", image=image, label=np.arange(20) % 10)
        os.utime(tmp_path / name / "1m.npz", (10**9, 10**9))
    for name, value in (("a", 11), ("b", 222), ("a", 11)):
        config = DataConfig(
            name="digits", extra=str(tmp_path / name / "1m.npz"), extra_fraction=0.5, cache=str(tmp_path / "cache")
        )
        extra = datasets.prepare(config).load_extra()
        assert extra is not None
        assert int(extra.images[0, 0, 0, 0]) == value
    replaced = np.full((20, 8, 8, 1), 77, np.uint8)  # in place, and given its old time again
    np.savez(tmp_path / "a" / "1m.npz", image=replaced, label=np.arange(20) % 10)
    os.utime(tmp_path / "a" / "1m.npz", (10**9, 10**9))
    extra = datasets.prepare(config).load_extra()
    assert extra is not None
    assert int(extra.images[0, 0, 0, 0]) == 77
