"""The evaluation loop and the checks of what it is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.agents.checkpoint import load_model
from sparring.agents.robustness import Judging, accuracies, check_classifier, correct, wilson
from sparring.cluster.models.examples import load_test
from sparring.trainers.config import Attack, DataConfig, Measure
from sparring.trainers.data import Split
from sparring.trainers.types import HeldOut
from tests.helpers import CLONE, TinyNet


def split(n: int = 60) -> Split:
    rng = torch.Generator().manual_seed(0)
    return Split(
        torch.randint(0, 256, (n, 6, 6, 1), generator=rng, dtype=torch.uint8), torch.randint(0, 4, (n,), generator=rng)
    )


def test_clean_is_argmax() -> None:
    model, s = TinyNet(), split()
    hits = correct(model, s, None, Judging(seed=0, block=7))
    assert model.training
    assert torch.equal(hits, model.eval()(s.pixels()).argmax(1) == s.all_labels())


def test_restarts_can_only_find_more() -> None:
    torch.manual_seed(0)
    model, s = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), split(200)
    one = correct(model, s, Attack(eps=0.5, steps=1, step_size=1e-3), Judging(seed=0))
    many = correct(model, s, Attack(eps=0.5, steps=1, step_size=1e-3, restarts=6), Judging(seed=0))
    assert bool((many <= one).all())
    assert many.sum() < one.sum()


class Times(nn.Module):
    """A network whose logits are multiplied by a constant."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.factor * self.model(x)
        return logits


@pytest.mark.parametrize("loss", ["scaled-pgd", "margin-pgd"])
def test_networks_are_compared_at_every_scale_alike(loss: str) -> None:
    """In float64, where nothing is rounded away; pgd says more of softened logits, with the same decisions."""
    model = load_model(CLONE / "tests" / "networks" / "honest-0").double().eval()
    s, own = load_test(DataConfig(), 96), Attack(eps=0.15, steps=7)
    how = Judging(seed=0, dtype=torch.float64)

    def seen(factor: float, loss: str) -> HeldOut:
        return accuracies(Times(model, factor), s, Measure((Attack(eps=0.15, steps=10),), loss), how, own=own)

    whole = seen(1.0, loss)
    assert {seen(factor, loss) for factor in (0.2, 0.02, 20.0)} == {whole}
    assert seen(0.02, "pgd").robust > seen(1.0, "pgd").robust


@pytest.mark.parametrize(
    "x", [torch.rand(2, 1, 6, 6) * 255, torch.randn(2, 1, 6, 6), torch.full((2, 1, 6, 6), torch.nan)]
)
def test_pixels_outside_the_box(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"images lie in \[.*pixels must be in \[0, 1\]"):
        check_classifier(TinyNet(), x)


def test_probabilities_and_wrong_shapes() -> None:
    x = torch.rand(5, 1, 6, 6)
    with pytest.raises(ValueError, match=r"returns probabilities.*remove the softmax"):
        check_classifier(nn.Sequential(TinyNet(), nn.Softmax(1)), x)
    with pytest.raises(ValueError, match=r"returned shape \[5, 4\] for 5 images; expected logits of shape \[5, 10\]"):
        check_classifier(TinyNet(), x, classes=10)
    with pytest.raises(ValueError, match="returned shape"):
        check_classifier(nn.Identity(), x)
    check_classifier(TinyNet(), x, classes=4)


def test_wilson_against_published_values() -> None:
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(81, 263) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))  # Newcombe 1998


def test_shape_and_type_of_images() -> None:
    with pytest.raises(
        ValueError, match=r"images are torch.float32 \[1, 6, 6\]; expected floating-point \[B, C, H, W\]"
    ):
        check_classifier(TinyNet(), torch.rand(1, 6, 6))
    with pytest.raises(ValueError, match=r"images are torch.uint8"):
        check_classifier(TinyNet(), torch.zeros(1, 1, 6, 6, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"convert one: x.to\(torch.float32\)"):
        check_classifier(TinyNet(), torch.rand(1, 1, 6, 6).double())
