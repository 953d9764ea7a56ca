"""The middle of an image that is seen: to the last bit where nothing is scaled, torchvision's where its cut falls on a pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sparring.trainers import decoder
from sparring.trainers.encoded.generated import Generated


def saved(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("height", "width", "size", "middle", "rows", "columns"),
    [
        (16, 32, 8, 0.5, slice(4, 12), slice(12, 20)),
        (32, 16, 8, 0.5, slice(12, 20), slice(4, 12)),
        (64, 64, 56, 0.875, slice(4, 60), slice(4, 60)),
        (8, 8, 4, 0.5, slice(2, 6), slice(2, 6)),
        (16, 16, 16, 1.0, slice(None), slice(None)),
    ],
)
def test_the_middle_is_cut_out(height: int, width: int, size: int, middle: float, rows: slice, columns: slice) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    seen = decoder.pixels(saved(whole), size=(size, size), middle=middle)
    assert np.array_equal(seen, whole[rows, columns])


def test_an_image_of_the_wanted_size_is_cut_too() -> None:
    whole = np.zeros((8, 8, 3), np.uint8)
    whole[2:6, 2:6] = 255
    assert decoder.pixels(saved(whole), size=(8, 8)).min() == 0
    assert decoder.pixels(saved(whole), size=(8, 8), middle=0.25).min() == 255


def test_as_torchvision_where_its_cut_falls_on_a_pixel() -> None:
    """On squares; elsewhere it rounds the scaled side and the place of the cut, half a pixel at most each (docs/data.md)."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    theirs = Compose([Resize(64, interpolation=InterpolationMode.BICUBIC), CenterCrop(56)])
    images = Generated("train", 10, (125, 125))
    for i in range(4):
        content = images.read(i)
        ours = decoder.pixels(content, size=(56, 56), middle=0.875)
        assert np.array_equal(ours, np.asarray(theirs(decoder.picture(content))))
