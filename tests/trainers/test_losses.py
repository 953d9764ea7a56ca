"""Losses on known numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sparring.trainers.losses import accuracy, cross_entropy, kl, margin


def test_kl_on_known_numbers() -> None:
    target = torch.tensor([[0.75, 0.25]]).log()
    logits = torch.tensor([[0.5, 0.5]]).log()
    assert kl(target, logits).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    assert kl(logits, logits).item() == 0
    shifted = kl(target + 3.0, logits - 2.0)  # adding a constant to all logits changes nothing
    assert shifted.item() == pytest.approx(kl(target, logits).item(), rel=1e-5)


def test_kl_agrees_with_torch_at_a_temperature() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(7, 5).double(), torch.randn(7, 5).double()
    expected = F.kl_div(F.log_softmax(b / 4, 1), F.softmax(a / 4, 1), reduction="batchmean")
    torch.testing.assert_close(kl(a, b, temperature=4.0).mean(), expected)


def test_margin_and_accuracy() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    y = torch.tensor([0, 2])
    assert margin(logits, y).tolist() == [-1.0, 1.0]
    assert accuracy(logits, y).item() == 0.5


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_batch_is_its_singles(loss: object) -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(9, 4).double(), torch.randint(0, 4, (9,))
    singles = torch.cat([loss(logits[i : i + 1], y[i : i + 1]) for i in range(9)])  # type: ignore[operator]
    assert torch.equal(loss(logits, y), singles)  # type: ignore[operator]
