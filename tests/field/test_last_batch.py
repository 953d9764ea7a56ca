"""pytorch/pytorch#7716, fastai/fastai#1352, NRCan/geo-deep-learning#113: the last batch of an epoch has one image."""

from __future__ import annotations

import pytest
import torch

from sparring.trainers.batches import Batches, last_batch
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Split
from tests.conftest import Command


@pytest.mark.parametrize(
    ("n", "size", "lengths"), [(64, 63, [64]), (127, 63, [63, 64]), (65, 63, [63, 2]), (3, 1, [1, 1, 1])]
)
def test_one_left_over_joins_the_batch_before(n: int, size: int, lengths: list[int]) -> None:
    split = Split(torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1), torch.zeros(n, dtype=torch.int64))
    batches = Batches(split, DataConfig(), batch_size=size, seed=0)
    seen = [batches.batch(t).x for t in range(batches.steps_per_epoch)]
    assert [len(x) for x in seen] == lengths
    assert last_batch(n, size) == lengths[-1]
    assert torch.cat(seen).mul(255).round().flatten().sort().values.tolist() == list(range(n))


def test_a_network_with_batch_norm_trains(sparring: Command) -> None:
    flags = ["--data.fraction=0.0497", "--batch-size=63", "--network=resnet18", "--team=local", "--epochs=2"]
    quick = ["--attack.steps=1", "--checkpoint.attack-steps=1", "--no-report", "--quiet"]
    plan = sparring("train", "at", *flags, "--dry-run")
    assert "the last batch of an epoch has 64 images" in plan.stdout
    done = sparring("train", "at", *flags, *quick)
    assert done.returncode == 0, done.stderr
