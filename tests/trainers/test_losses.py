"""Losses on known numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sparring.trainers.losses import SCALE, accuracy, cross_entropy, kl, margin, scaled_cross_entropy


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


def test_smoothed_labels_are_torchs() -> None:
    z, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = F.cross_entropy(z, 0.9 * F.one_hot(y, 4) + 0.1 / 4)
    assert torch.allclose(cross_entropy(z, y, smoothing=0.1).mean(), expected)
    assert torch.equal(cross_entropy(z, y), F.cross_entropy(z, y, reduction="none"))


def test_margin_and_accuracy() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    y = torch.tensor([0, 2])
    assert margin(logits, y).tolist() == [-1.0, 1.0]
    assert accuracy(logits, y).item() == 0.5


def test_scaled_cross_entropy_is_the_same_at_every_scale() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(9, 4).double(), torch.randint(0, 4, (9,))
    whole = scaled_cross_entropy(logits, y)
    for factor in (1e-3, 0.3, 50.0, 1e4):
        torch.testing.assert_close(scaled_cross_entropy(factor * logits, y), whole)
    torch.testing.assert_close(scaled_cross_entropy(logits + 7.0, y), whole)
    known = torch.tensor([[4.0, 2.0, 0.0, -6.0]])  # the first and the third are 4 apart, so one is worth 2.5
    torch.testing.assert_close(
        scaled_cross_entropy(known, torch.tensor([1])), cross_entropy(SCALE / 4 * known, torch.tensor([1]))
    )


@pytest.mark.parametrize(
    "logits", [torch.zeros(2, 5), torch.tensor([[0.0, 0.0, 0.0, -9.0]]), torch.tensor([[1e4, -1e4]])]
)
def test_scaled_cross_entropy_stays_finite(logits: torch.Tensor) -> None:
    """Equal logits, and two classes."""
    x = logits.clone().requires_grad_(True)
    value = scaled_cross_entropy(x, torch.ones(len(x), dtype=torch.long))
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert bool(value.isfinite().all())
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scaled_cross_entropy_in_half_precision(dtype: torch.dtype) -> None:
    """Logits so close that many are equal after rounding still give an attack a gradient that is a number."""
    torch.manual_seed(0)
    x = (torch.randn(200, 10) / 200 + 8).to(dtype).requires_grad_(True)
    scaled_cross_entropy(x, torch.randint(0, 10, (200,))).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("loss", [cross_entropy, margin, scaled_cross_entropy])
def test_batch_is_its_singles(loss: object) -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(9, 4).double(), torch.randint(0, 4, (9,))
    singles = torch.cat([loss(logits[i : i + 1], y[i : i + 1]) for i in range(9)])  # type: ignore[operator]
    assert torch.equal(loss(logits, y), singles)  # type: ignore[operator]
