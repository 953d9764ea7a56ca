"""Augmentations of one image: torchvision's pixels for the same parameters, its distribution of boxes, draws that depend on the key."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from math import log, sqrt
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from sparring.trainers.augment import operators
from sparring.trainers.augment.draws import Draws
from sparring.trainers.augment.images import augmented, drawn_box
from sparring.trainers.augment.pictures import channels
from sparring.trainers.augment.pictures import picture as opened
from sparring.trainers.augment.resized_crop import Box, box, resize
from sparring.trainers.augment.settings import AugmentConfig
from sparring.trainers.config import DataConfig
from tests.helpers import CLONE

THEIRS = {
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "saturation": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "identity": "Identity",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}
EVERYTHING = AugmentConfig(
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    randaugment=9,
    erasing=0.5,
    erasing_value="noise",
)


def picture(width: int = 61, height: int = 47, *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Large spots with fine noise."""
    rng = np.random.default_rng(seed)
    spots = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(spots).astype(int) + rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def same(a: Image.Image | np.ndarray, b: Image.Image | np.ndarray) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


# Draws -----------------------------------------------------------------------------------------------------------------


def test_the_numbers_of_a_key_never_change() -> None:
    draws = Draws(0, 1, 2, "crop")
    assert [draws.word() for _ in range(9)][::8] == [12008308176364275003, 14604814235825842152]
    assert Draws(0, 1, 2, "crop").uniform() == (12008308176364275003 >> 11) / 2**53
    assert Draws(0, 1, 2, "crop").noise(4).hex() == "62136d85"
    assert Draws(np.int64(0), torch.tensor(1), 2, "crop").word() == 12008308176364275003  # type: ignore[arg-type]
    others = {Draws(*key).word() for key in ((0, 1, 2, "crop"), (1, 0, 2, "crop"), (0, 12, "crop"), (0, 1, 2, "flip"))}
    assert len(others) == 4


def test_uniform_below_and_shuffled_are_what_they_say() -> None:
    draws = Draws("test")
    u = [draws.uniform(-1, 3) for _ in range(4000)]
    assert min(u) >= -1
    assert max(u) < 3
    assert abs(mean(u) - 1) < 5 * 4 / sqrt(12 * 4000)
    counts = np.bincount([draws.below(7) for _ in range(7000)], minlength=7)
    assert len(counts) == 7
    assert np.abs(counts - 1000).max() < 5 * sqrt(1000)
    firsts = np.bincount([draws.shuffled(4)[0] for _ in range(4000)])
    assert np.abs(firsts - 1000).max() < 5 * sqrt(750)
    assert sorted(draws.shuffled(9)) == list(range(9))


@pytest.mark.parametrize("alpha", [0.1, 1.0, 1.5, 40.0])
def test_beta_has_its_distribution(alpha: float) -> None:
    from scipy import stats

    draws = Draws("beta", str(alpha))
    seen, known = [draws.beta(alpha) for _ in range(3000)], stats.beta(alpha, alpha)
    assert stats.kstest(seen, known.cdf).pvalue > 1e-4
    assert stdev(seen) == pytest.approx(known.std(), rel=0.05)


def test_beta_of_an_alpha_near_nought_is_nought_or_one() -> None:
    draws = Draws("beta")
    assert {round(draws.beta(1e-4)) for _ in range(50)} == {0, 1}


# Resized crop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bicubic", "bilinear"])
def test_a_part_is_resized_as_torchvision_does(how: str) -> None:
    """On tensors to the bit; on Pillow's images within two levels, mostly none."""
    image, mode = picture(), v2.InterpolationMode(how)
    ours = resize(channels(image), Box(9, 5, 50, 35), (24, 32), interpolation=how)
    theirs = F.resized_crop(F.pil_to_tensor(image), 5, 9, 30, 41, [24, 32], interpolation=mode, antialias=True)
    assert same(ours, theirs.permute(1, 2, 0).numpy())
    pillow = F.resized_crop(image, 5, 9, 30, 41, [24, 32], interpolation=mode, antialias=True)
    apart = np.abs(ours.astype(int) - np.asarray(pillow))
    assert apart.max() <= 2
    assert (apart > 0).mean() < 0.1


def test_a_grey_part_is_resized() -> None:
    image = picture(mode="L")
    ours = resize(channels(image), Box(9, 5, 50, 35), (24, 32))
    theirs = F.resized_crop(
        F.pil_to_tensor(image), 5, 9, 30, 41, [24, 32], interpolation=v2.InterpolationMode.BICUBIC, antialias=True
    )
    assert same(ours, theirs.permute(1, 2, 0).numpy())


def test_a_part_of_an_image_decoded_at_half_the_size_is_nearly_the_same() -> None:
    image = Image.fromarray(np.asarray(picture(40, 30).resize((400, 300), Image.Resampling.BICUBIC)))
    half = image.resize((200, 150), Image.Resampling.BOX)
    part = Box(33, 21, 300, 260)
    a = resize(channels(image), part, (60, 60))
    b = resize(channels(half), Box(*(v / 2 for v in part)), (60, 60))
    assert np.abs(a.astype(int) - b).mean() < 1


@pytest.mark.parametrize("size", [(500, 375), (64, 64), (100, 400)])
def test_boxes_have_the_distribution_of_torchvisions(size: tuple[int, int]) -> None:
    """Area and log ratio: means within five standard errors of each other, spreads within a tenth; also of those that did not fit."""
    width, height = size
    torch.manual_seed(1)
    crop, n = v2.RandomResizedCrop(32), 3000
    theirs = [crop.make_params([torch.empty(3, height, width)]) for _ in range(n)]
    ours = [box(width, height, AugmentConfig(), Draws(0, 0, i, "crop")) for i in range(n)]
    for b in ours:
        assert 0 <= b.left < b.right <= width
        assert 0 <= b.top < b.bottom <= height
    sides = [(b.right - b.left, b.bottom - b.top) for b in ours]
    pairs = [
        ([w * h / (width * height) for w, h in sides], [p["width"] * p["height"] / (width * height) for p in theirs]),
        ([log(w / h) for w, h in sides], [log(p["width"] / p["height"]) for p in theirs]),
        ([b.left / width for b in ours], [p["left"] / width for p in theirs]),
        ([b.top / height for b in ours], [p["top"] / height for p in theirs]),
    ]
    for a, b in pairs:
        assert abs(mean(a) - mean(b)) < 5 * sqrt((stdev(a) ** 2 + stdev(b) ** 2) / n)
        assert stdev(a) == pytest.approx(stdev(b), rel=0.1)


@pytest.mark.parametrize("size", [(10, 200), (200, 10), (31, 30), (1, 50), (7, 1)])
def test_what_never_fits_is_torchvisions_middle(size: tuple[int, int]) -> None:
    width, height = size
    never = {"scale": (1.0, 1.0), "ratio": (0.9, 0.9) if width > height else (1.2, 1.2)}
    p = v2.RandomResizedCrop(32, **never).make_params([torch.empty(3, height, width)])  # type: ignore[arg-type]
    theirs = (p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"])
    assert box(width, height, AugmentConfig(**never), Draws("never")) == theirs  # type: ignore[arg-type]


# Operators -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", operators.RANDAUGMENT)
def test_randaugments_operators_are_torchvisions(name: str, mode: str) -> None:
    image, theirs = picture(mode=mode), v2.RandAugment()
    table, signed = theirs._AUGMENTATION_SPACE[THEIRS[name]]
    levels = table(31, image.height, image.width)
    assert signed == (name in {**operators.MOVES, **operators.FACTORS})
    for level in (0, 1, 9, 17, 30):
        for sign in (1, -1) if signed else (1,):
            value = operators._value(name, sign, level / 30, image.size)
            magnitude = value - 1 if name in operators.FACTORS else value / 255 if name == "solarize" else value
            if levels is not None:
                in_single = sign * float(levels[level])
                assert magnitude == pytest.approx(int(in_single) if "translate" in name else in_single, abs=1e-6)
            theirs_done = theirs._apply_image_or_video_transform(
                image, THEIRS[name], magnitude, v2.InterpolationMode.NEAREST, theirs._fill
            )
            assert same(operators.operate(image, (name, value)), theirs_done)


def test_randaugment_draws_every_operator_both_ways() -> None:
    config = AugmentConfig(randaugment=9, randaugment_ops=3)
    steps = [operators.randaugment(64, 48, config, Draws(0, t, 0, "randaugment")) for t in range(1000)]
    assert {len(s) for s in steps} == {3}
    names = [name for s in steps for name, _ in s]
    for name in THEIRS:
        assert abs(names.count(name) - 3000 / 14) < 5 * sqrt(3000 / 14)
    rotations = [value for s in steps for name, value in s if name == "rotate"]
    assert set(rotations) == {9.0, -9.0}
    assert len({value for s in steps for name, value in s if name == "translate_x"}) == 2
    assert operators.randaugment(64, 48, AugmentConfig(), Draws(0)) == []


def test_colour_jitter_is_torchvisions() -> None:
    image, jitter = picture(), v2.ColorJitter(0.4, 0.3, 0.2, 0.1)
    config = AugmentConfig(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)
    orders = set()
    for t in range(40):
        steps = operators.jitter(config, Draws(0, t, 0, "jitter"))
        out, factors = image, dict(steps)
        for step in steps:
            out = operators.operate(out, step)
        order = [operators.JITTER.index(name) for name, _ in steps]
        params = {"fn_idx": order, **{f"{name}_factor": factors[name] for name in operators.JITTER}}
        assert same(out, jitter.transform(image, params))
        orders.add(tuple(order))
        for name, most, centre in (
            ("brightness", 0.4, 1),
            ("contrast", 0.3, 1),
            ("saturation", 0.2, 1),
            ("hue", 0.1, 0),
        ):
            assert abs(factors[name] - centre) <= most
    assert len(orders) > 12
    assert [name for name, _ in operators.jitter(AugmentConfig(contrast=2.0), Draws(3))] == ["contrast"]
    assert all(operators.jitter(AugmentConfig(contrast=2.0), Draws(i))[0][1] >= 0 for i in range(50))


def test_erasing_is_torchvisions() -> None:
    pixels = np.asarray(picture())
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    part, noise = Box(7, 11, 30, 21), Draws("noise").noise(23 * 10 * 3)
    for filled in (None, noise):
        value = 0 if filled is None else torch.tensor(list(filled)).view(10, 23, 3).permute(2, 0, 1)
        theirs = F.erase(tensor, i=11, j=7, h=10, w=23, v=torch.as_tensor(value, dtype=torch.uint8))
        assert same(operators.erase(pixels, part, filled), theirs.permute(1, 2, 0).numpy())


def test_holes_have_the_distribution_of_torchvisions() -> None:
    torch.manual_seed(2)
    theirs_drawn, config, n = v2.RandomErasing(p=1), AugmentConfig(erasing=1.0), 3000
    theirs = [theirs_drawn.make_params([torch.empty(3, 40, 60)]) for _ in range(n)]
    ours = [operators.hole(60, 40, config, Draws(0, 0, i, "erasing")) for i in range(n)]
    assert sum(b is None for b in ours) + sum(p["v"] is None for p in theirs) < 0.02 * n
    areas = [(b.right - b.left) * (b.bottom - b.top) for b in ours if b]
    ratios = [log((b.bottom - b.top) / (b.right - b.left)) for b in ours if b]
    drawn = [p for p in theirs if p["v"] is not None]
    for a, b in ((areas, [p["h"] * p["w"] for p in drawn]), (ratios, [log(p["h"] / p["w"]) for p in drawn])):
        assert abs(mean(a) - mean(b)) < 5 * sqrt((stdev(a) ** 2 + stdev(b) ** 2) / n)
    some = [operators.hole(60, 40, AugmentConfig(erasing=0.25), Draws(0, 1, i)) for i in range(n)]
    assert abs(sum(b is not None for b in some) / n - 0.25) < 5 * sqrt(0.25 * 0.75 / n)


# One image -------------------------------------------------------------------------------------------------------------


def hashes(keys: list[tuple[int, int, int]]) -> dict[str, str]:
    data, image = DataConfig(augment="resized-crop", transforms=EVERYTHING), picture()
    return {str(k): hashlib.sha256(augmented(channels(image), (32, 32), data, k).tobytes()).hexdigest() for k in keys}


ELSEWHERE = "import json, sys; from tests.trainers.test_augment import hashes\n"
KEYS = [(seed, step, index) for seed in (0, 7) for step in (0, 1, 999) for index in (0, 5)]


@pytest.mark.soak
def test_pixels_depend_on_the_key_alone() -> None:
    """In another order, in another process whose random states are others; every part of the key counts."""
    here = hashes(KEYS)
    code = ELSEWHERE + f"print(json.dumps(hashes({KEYS[::-1]})))"
    there = subprocess.run([sys.executable, "-c", code], cwd=CLONE, capture_output=True, text=True, check=True)
    assert json.loads(there.stdout) == here
    assert len(set(here.values())) == len(KEYS)


def test_one_image_is_its_parts_in_order() -> None:
    image, key = picture(), (3, 4, 5)
    data = DataConfig(augment="resized-crop", transforms=EVERYTHING)
    t = data.transforms
    part = drawn_box(*image.size, data, key)
    assert part == box(61, 47, t, Draws(*key, "crop"))
    out = opened(resize(channels(image), part, (32, 40)))
    if Draws(*key, "flip").uniform() < 0.5:
        out = F.horizontal_flip(out)
    steps = operators.randaugment(40, 32, t, Draws(*key, "randaugment")) + operators.jitter(t, Draws(*key, "jitter"))
    for step in steps:
        out = operators.operate(out, step)
    draws = Draws(*key, "erasing")
    hole = operators.hole(40, 32, t, draws)
    assert hole is not None
    count = int((hole.right - hole.left) * (hole.bottom - hole.top)) * 3
    expected = operators.erase(np.asarray(out), hole, draws.noise(count))
    assert same(augmented(channels(image), (32, 40), data, key), expected)
    assert same(augmented(channels(image), (32, 40), data, key, part=part), expected)


def test_flips_are_half_of_them_or_as_many_as_asked_for() -> None:
    image = picture()
    for flip, expected in ((0.0, 0), (0.5, 200), (1.0, 400)):
        data = DataConfig(
            augment="resized-crop", transforms=AugmentConfig(scale=(1.0, 1.0), ratio=(61 / 47, 61 / 47), flip=flip)
        )
        seen = [augmented(channels(image), (47, 61), data, (0, t, 0)) for t in range(400)]
        flipped = sum(same(s, F.horizontal_flip(image)) for s in seen)
        assert sum(same(s, image) for s in seen) == 400 - flipped
        assert abs(flipped - expected) <= (50 if expected == 200 else 0)


def test_without_a_crop_an_image_is_prepared_as_for_evaluation() -> None:
    from io import BytesIO

    from sparring.trainers import decoder

    content = BytesIO()
    picture().save(content, format="PNG")
    assert drawn_box(61, 47, DataConfig(), (0, 0, 0)) is None
    assert same(
        augmented(channels(picture()), (32, 32), DataConfig(), (0, 0, 0)),
        decoder.pixels(content.getvalue(), size=(32, 32)),
    )


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("scale", (0.5,), r"scale = \[0.5\] is not allowed; expected two numbers, 0 < smallest <= largest <= 1"),
        ("scale", (0.5, 1.5), "expected two numbers, 0 < smallest <= largest <= 1"),
        ("scale", (0.0, 1.0), r"scale = \[0.0, 1.0\] is not allowed"),
        ("ratio", (2.0, 1.0), r"ratio = \[2.0, 1.0\] is not allowed; expected two numbers, 0 < smallest <= largest$"),
        ("ratio", (1.0, float("inf")), "ratio = .* is not allowed"),
        ("erasing_scale", (0.1, 2.0), "erasing_scale"),
        ("erasing_ratio", (-1.0, 2.0), "erasing_ratio"),
        ("flip", 1.5, r"flip = 1.5 must lie in \[0, 1\]"),
        ("erasing", -0.1, r"erasing = -0.1 must lie in \[0, 1\]"),
        ("hue", 0.6, r"hue = 0.6 must lie in \[0, 0.5\]"),
        ("brightness", -1.0, "brightness = -1.0 must be a finite number >= 0"),
        ("contrast", float("nan"), "contrast = nan must be a finite number >= 0"),
        ("saturation", -0.1, "saturation = -0.1 must be"),
        ("randaugment", 31, r"randaugment = 31 must lie in \[0, 30\]"),
        ("randaugment_ops", 0, "randaugment_ops = 0 must be >= 1"),
        ("mixup", -0.2, "mixup = -0.2 must be a finite number >= 0"),
        ("cutmix", float("inf"), "cutmix = inf must be a finite number >= 0"),
    ],
)
def test_refusals_say_what_is_allowed(setting: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as seen:
        AugmentConfig(**{setting: value})  # type: ignore[arg-type]
    assert f"data.transforms.{setting} = " in str(seen.value)
