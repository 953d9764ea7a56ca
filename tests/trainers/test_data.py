"""Data: splits, batches as a pure function of (seed, step), augmentation."""

from __future__ import annotations

import pytest
import torch

from sparring.trainers.augment.shifting import augment
from sparring.trainers.batches import Batches
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Split, to_pixels
from sparring.trainers.datasets import load
from sparring.trainers.rng import generator, seed_of


def batches(**options: object) -> Batches:
    train, _ = load(DataConfig()).held_out(0.1, seed=0)
    return Batches(train, DataConfig(augment="crop-flip", padding=2), **({"batch_size": 100, "seed": 4} | options))  # type: ignore[arg-type]


def test_digits_are_the_real_ones() -> None:
    from sklearn.datasets import load_digits

    d = load(DataConfig())
    assert (len(d.train), len(d.test), d.shape, len(d.classes)) == (1433, 364, (1, 8, 8), 10)
    assert torch.bincount(d.test.all_labels()).min() >= 35
    everything = torch.cat([d.train.images, d.test.images]).flatten(1)
    original = torch.from_numpy(load_digits().data)
    ours = everything.double().mul(16 / 255).round().sort(0).values
    assert torch.equal(ours, original.sort(0).values)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"data\.name = 'digit' is unknown; did you mean 'digits'\? allowed: digits, "):
        load(DataConfig(name="digit"))


def test_held_out_is_disjoint_seeded_and_not_the_test_split() -> None:
    d = load(DataConfig())
    train, held = d.held_out(0.1, seed=3)
    assert (len(train), len(held)) == (1290, 143)
    both = torch.cat([train.pixels(), held.pixels()]).flatten(1).sort(0).values
    assert torch.equal(both, d.train.pixels().flatten(1).sort(0).values)
    assert d.held_out(0.1, seed=3)[1].sha256 == held.sha256 != d.held_out(0.1, seed=4)[1].sha256


def test_batch_is_a_pure_function_of_seed_and_step() -> None:
    a, b = batches(), batches()
    for t in (25, 3, 0, 25):  # any order, any object
        assert torch.equal(a.batch(t).x, b.batch(t).x)
        assert torch.equal(a.batch(t).y, b.batch(t).y)
    torch.manual_seed(0)
    assert torch.equal(a.batch(3).x, b.batch(3).x)  # not of the global random state
    assert not torch.equal(a.batch(3).x, batches(seed=5).batch(3).x)


def test_an_epoch_visits_every_image_once() -> None:
    train, _ = load(DataConfig()).held_out(0.1, seed=0)
    b = Batches(train, DataConfig(), batch_size=100, seed=4)
    for epoch in (0, 1):
        parts = [b.batch(epoch * b.steps_per_epoch + i) for i in range(b.steps_per_epoch)]
        assert [len(p.y) for p in parts] == [100] * 12 + [90]
        seen = torch.cat([p.x for p in parts]).flatten(1).sort(0).values
        assert torch.equal(seen, train.pixels().flatten(1).sort(0).values)
    assert not torch.equal(b.batch(0).y, b.batch(13).y)


def test_pixels_are_contiguous_in_the_box() -> None:
    x = to_pixels(torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 3))
    assert x.shape == (1, 3, 1, 1)
    assert x.is_contiguous()
    assert x.flatten().tolist() == pytest.approx([0, 1, 0.2])


def test_augmentation_equals_the_definition_image_by_image() -> None:
    config = DataConfig(augment="crop-flip", padding=2)
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 5, 6, 3), generator=rng, dtype=torch.uint8)
    out = augment(images, config, rng=generator("x"))
    draws = generator("x")
    top, left = torch.randint(0, 5, (2, 40, 1), generator=draws)
    flip = torch.rand(40, 1, generator=draws) < 0.5
    for i in range(40):
        padded = torch.zeros(9, 10, 3, dtype=torch.uint8)
        padded[2:7, 2:8] = images[i]
        crop = padded[top[i, 0] : top[i, 0] + 5, left[i, 0] : left[i, 0] + 6]
        assert torch.equal(out[i], crop.flip(1) if flip[i] else crop)
    assert 5 < flip.sum() < 35
    shift = augment(images, DataConfig(augment="shift", padding=0), rng=generator("y"))
    assert torch.equal(shift, images)


def test_statistics() -> None:
    mean, std = load(DataConfig()).statistics
    pixels = load(DataConfig()).train.pixels(dtype=torch.float64)
    assert mean == pytest.approx([pixels.mean().item()], rel=1e-12)
    assert std == pytest.approx([pixels.std(unbiased=False).item()], rel=1e-9)


def test_hash_sees_labels_and_pixels() -> None:
    s = Split(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1]))
    changed = [
        Split(s.images + 1, s.labels),
        Split(s.images, s.labels.flip(0)),
        Split(s.images[:1], s.labels[:1]),
        s[torch.tensor([1, 0])],
        s[torch.tensor([0])],
    ]
    assert len({s.sha256, *(c.sha256 for c in changed)}) == 6
    assert s[torch.tensor([0, 1])].sha256 == s.sha256  # all rows in their order are the same images


def test_seeds_are_stable_across_processes_and_versions() -> None:
    assert seed_of(0, 1, "order") == 4365688119967752521
