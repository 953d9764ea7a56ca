"""Augmentation in batches: the old ones to the byte, single images by (seed, step, index), mixup and cutmix with their labels."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.cluster.config import run_config
from sparring.cluster.config.recipes import recipe
from sparring.cluster.evaluation import certify
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers import methods
from sparring.trainers.augment.draws import Draws
from sparring.trainers.augment.images import augmented
from sparring.trainers.augment.mixing import cutmix, mix, mixup
from sparring.trainers.augment.settings import AugmentConfig
from sparring.trainers.batches import Batches
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Split
from sparring.trainers.datasets import load
from sparring.trainers.losses import accuracy, cross_entropy, mixed
from sparring.trainers.types import Answer, Batch, When
from tests.helpers import small

EVERYTHING = AugmentConfig(
    brightness=0.4, hue=0.1, randaugment=9, erasing=0.5, erasing_value="noise", mixup=0.4, cutmix=1.0
)
CROPPED = DataConfig(augment="resized-crop", transforms=EVERYTHING)


def split(n: int = 24, *, channels: int = 3, seed: int = 0) -> Split:
    rng = torch.Generator().manual_seed(seed)
    return Split(torch.randint(0, 256, (n, 12, 16, channels), dtype=torch.uint8, generator=rng), torch.arange(n) % 10)


def batch_of(n: int = 6) -> Batch:
    """Image i is i / 10 everywhere, and its label i."""
    return Batch((torch.arange(n) / 10).view(n, 1, 1, 1).expand(n, 3, 20, 30).clone(), torch.arange(n))


# Single images in a batch ----------------------------------------------------------------------------------------------

RECORDED = {  # by the code before there was anything but these three
    "none": "8a966bcf9894730ab3e9bb7f87b9cdc4e949a7bdcb144c1155c0ce13aa6acfcf",
    "shift": "8e42fcf110fbadb79b022ed7c746605c6a81e92c040830db928a4559d7c9eabf",
    "crop-flip": "15085be4e5b07707309214a4086f7ad787688f1db29927a90e28110fe43a3111",
    "extra": "524fe5157e58de93154b8bd309e580b1cc86b69acacc0fbe82c9ab6d39803bec",
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_old_values_give_the_bytes_they_gave(name: str) -> None:
    train, _ = load(DataConfig()).held_out(0.1, seed=0)
    config = DataConfig(augment="crop-flip" if name == "extra" else name, padding=2, extra_fraction=0.3)  # type: ignore[arg-type]
    b = Batches(train, config, batch_size=100, seed=4, extra=train if name == "extra" else None)
    seen = hashlib.sha256()
    for t in (0, 3, 25):
        batch = b.batch(t)
        assert (batch.y2, batch.lam) == (None, 1.0)
        seen.update(batch.x.numpy().tobytes() + batch.y.numpy().tobytes())
    assert seen.hexdigest() == RECORDED[name]


@pytest.mark.parametrize("channels", [1, 3])
def test_batch_is_a_pure_function_of_seed_and_step(channels: int) -> None:
    a, b = (Batches(split(channels=channels), CROPPED, batch_size=8, seed=4) for _ in range(2))
    torch.manual_seed(1)
    np.random.seed(1)
    first = {t: a.batch(t) for t in (0, 1, 2, 7)}
    for t in (7, 1):  # a resumed run begins here
        again = b.batch(t)
        assert torch.equal(again.x, first[t].x)
        assert torch.equal(again.y, first[t].y)
        assert torch.equal(again.y2, first[t].y2)  # type: ignore[arg-type]
        assert again.lam == first[t].lam
    assert len({x.x.numpy().tobytes() for x in first.values()}) == 4
    assert len({x.lam for x in first.values()}) > 2
    assert not torch.equal(Batches(split(channels=channels), CROPPED, batch_size=8, seed=5).batch(1).x, first[1].x)


def test_every_image_is_drawn_by_its_place_in_the_data_set() -> None:
    images, rows = split(), torch.tensor([3, 5, 6, 8, 11, 20])
    config = DataConfig(augment="resized-crop", transforms=AugmentConfig(randaugment=9, saturation=0.5))
    chosen = Batches(images[rows], config, batch_size=6, seed=4)
    for t in (0, 9):
        batch, order = chosen.batch(t), torch.randperm(6, generator=chosen_order(t))
        for i, place in enumerate(rows[order].tolist()):
            expected = augmented(images.images[place].numpy(), (12, 16), config, (4, t, place))
            assert torch.equal(batch.x[i], torch.tensor(expected).permute(2, 0, 1) / 255)
    with_extra = replace(config, extra_fraction=0.5)
    extra = Batches(split(8), with_extra, batch_size=16, seed=4, extra=split(8))  # the same pixels, but other images
    assert len({x.numpy().tobytes() for x in extra.batch(0).x}) == 16


def chosen_order(epoch: int) -> torch.Generator:
    from sparring.trainers.rng import generator

    return generator(4, epoch, "order")


def test_operators_come_before_the_shift_of_the_batch() -> None:
    """So that processes that decode can do all that is drawn for single images, and the batch is shifted where it is put together."""
    both = DataConfig(augment="crop-flip", transforms=AugmentConfig(randaugment=9))
    alone = DataConfig(augment="none", transforms=AugmentConfig(randaugment=9))
    single = Batches(split(), alone, batch_size=8, seed=4).batch(2)
    shifted = Batches(split(), both, batch_size=8, seed=4).batch(2)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    places = [single.x[:, :, i : 12 + i - 4, j : 16 + j - 4] for i in range(1, 4) for j in range(1, 4)]
    places += [p.flip(3) for p in places]
    for i, seen in enumerate(shifted.x[inside]):
        assert any(torch.equal(seen, p[i]) for p in places)


@pytest.mark.parametrize(
    ("images", "seen"),
    [
        (torch.rand(4, 8, 8, 3), "float32 with 3"),
        (torch.zeros(4, 8, 8, 4, dtype=torch.uint8), "uint8 with 4"),
    ],
)
def test_images_on_which_nothing_is_defined_are_refused(images: torch.Tensor, seen: str) -> None:
    other = Split(images, torch.zeros(4, dtype=torch.int64))
    for config in (DataConfig(augment="resized-crop"), DataConfig(transforms=AugmentConfig(randaugment=9))):
        with pytest.raises(ValueError, match=f"1 or 3 channels; these are {seen}; use --data.augment none"):
            Batches(other, config, batch_size=2, seed=0)
    assert len(Batches(other, DataConfig(augment="crop-flip"), batch_size=2, seed=0).batch(0).x) == 2


# Mixing ----------------------------------------------------------------------------------------------------------------


def test_mixup_is_the_weighted_sum_with_the_partners_labels() -> None:
    batch = batch_of()
    lams = set()
    for t in range(20):
        out = mixup(batch, 0.4, Draws(0, t, "mix"))
        partner = [5, 0, 1, 2, 3, 4]
        assert out.y is batch.y
        assert out.y2 is not None
        assert out.y2.tolist() == partner
        torch.testing.assert_close(out.x, out.lam * batch.x + (1 - out.lam) * batch.x[partner])
        assert out.lam == Draws(0, t, "mix").beta(0.4)
        lams.add(out.lam)
    assert len(lams) == 20
    ones = mixup(Batch(torch.ones(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)), 1.0, Draws(1))
    assert ones.x.max() <= 1


def test_lam_of_cutmix_is_the_share_that_is_left() -> None:
    batch, left = batch_of(), []
    for t in range(300):
        out = cutmix(batch, 1.0, Draws(0, t, "mix"))
        assert out.y2 is not None
        assert out.y2.tolist() == [5, 0, 1, 2, 3, 4]
        own, other = (out.x == batch.x), (out.x == batch.x.roll(1, 0))
        assert bool((own ^ other).all())
        assert own.float().mean().item() == pytest.approx(out.lam, abs=1e-6)
        columns, rows = other[0, 0].any(0).nonzero(), other[0, 0].any(1).nonzero()
        assert int(other[0, 0].sum()) == len(columns) * len(rows)  # one rectangle
        left.append(out.lam)
    assert sum(left) / 300 > 0.52  # cut off at the border: more is left than the Beta distribution's half
    assert torch.equal(batch.x, batch_of().x)  # untouched


def test_both_are_chosen_by_a_coin_and_none_changes_nothing() -> None:
    batch = batch_of()
    assert mix(batch, AugmentConfig(), Draws(0)) is batch
    cut = sum(
        bool(mix(batch, AugmentConfig(mixup=1.0, cutmix=1.0), Draws(0, t)).x[0, 0].unique().numel() > 1)
        for t in range(200)
    )
    assert 70 < cut < 130
    assert mix(batch, AugmentConfig(mixup=0.3), Draws(5)).lam == pytest.approx(_after_the_coin(0.3, 5))
    rows = mix(batch, AugmentConfig(mixup=0.3), Draws(5)).rows(slice(2, 4))
    assert rows.y2 is not None
    assert (rows.y.tolist(), rows.y2.tolist()) == ([2, 3], [1, 2])


def _after_the_coin(alpha: float, key: int) -> float:
    draws = Draws(key)
    draws.below(1)
    return draws.beta(alpha)


def test_the_loss_of_a_mixed_batch_weighs_both_labels() -> None:
    torch.manual_seed(0)
    logits, y, y2 = torch.randn(5, 10), torch.arange(5), torch.arange(5) + 3
    plain, two = Batch(torch.rand(5, 1, 8, 8), y), Batch(torch.rand(5, 1, 8, 8), y, y2, 0.3)
    expected = 0.3 * cross_entropy(logits, y) + 0.7 * cross_entropy(logits, y2)
    torch.testing.assert_close(mixed(cross_entropy, logits, two), expected)
    assert torch.equal(mixed(cross_entropy, logits, plain), cross_entropy(logits, y))
    given = {"state": {}, "when": When(0, 0, 1.0)}
    for name, stat in (("at", "robust_accuracy"), ("clean", "clean_accuracy")):
        method = methods.load(name)()
        seen = {"adv": None} if name == "at" else {}
        loss = method.loss("model", Answer(logits), two, **given, **seen)  # type: ignore[arg-type]
        torch.testing.assert_close(loss.terms["hard"], expected.mean())
        right = 0.3 * accuracy(logits, y) + 0.7 * accuracy(logits, y2)
        torch.testing.assert_close(loss.stats[stat], right)
    raised = methods.load("at")().objective("model", lambda x: logits, two)(two.x)  # type: ignore[arg-type]
    torch.testing.assert_close(raised, expected)


@pytest.mark.parametrize("method", ["trades", "mixacm", "mat", "free"])
def test_methods_that_know_one_label_refuse_mixed_images(method: str) -> None:
    expected = rf"data\.transforms\.cutmix = 0\.5 is not allowed: {method} takes no .*: at, clean, .*--data\.transforms\.cutmix 0$"
    with pytest.raises(ValueError, match=expected):
        recipe(method).replace({"data.transforms.cutmix": 0.5})


# Runs ------------------------------------------------------------------------------------------------------------------


def test_a_configuration_from_before_means_what_it_meant(tmp_path: Path) -> None:
    config = recipe("at")
    values = config.to_dict()
    del values["data"]["transforms"]
    old = run_config.RunConfig.from_dict(values)
    assert old == config
    new = config.replace({"data.transforms.randaugment": 9, "data.transforms.scale": [0.2, 1]})
    assert new.sha256 != config.sha256
    (tmp_path / "run.yaml").write_text(run_config.dump(new))
    assert run_config.load(tmp_path / "run.yaml") == new


def test_an_interval_of_a_run_with_everything_is_trained_again_to_the_same_bytes(tmp_path: Path) -> None:
    settings = {
        f"data__transforms__{name}": getattr(EVERYTHING, name) for name in ("randaugment", "erasing", "mixup", "cutmix")
    }
    config = small("at", **settings, data__augment="resized-crop", max_steps=8, checkpoint__every=4, team="local")
    run = launch.train(config, runs_dir=tmp_path, name="r", how=Circumstances(quiet=True))
    verdict, interval = certify.run(RunFolder(run.path), "4:8")
    assert (verdict.problems, interval) == ([], (4, 8))
