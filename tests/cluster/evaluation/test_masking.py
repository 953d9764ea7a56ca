"""Signs of masked gradients: each kind of masking raises its flag, an honest network none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparring.agents.checkpoint import load_model
from sparring.cluster.evaluation import masking
from sparring.cluster.evaluation.direct import evaluate_model
from sparring.cluster.models.examples import load_test
from sparring.trainers.config import DataConfig, Threat
from tests.helpers import CLONE

THREAT = Threat("linf", 0.15)


@pytest.fixture(scope="module")
def honest() -> list[nn.Module]:
    """Three adversarially trained networks of 4,000 parameters, committed: one trained here would differ by CPU family."""
    return [load_model(CLONE / "tests" / "networks" / f"honest-{i}").eval() for i in range(3)]


def names(model: nn.Module, n: int = 256) -> set[str]:
    return {f.name for f in masking.examine(model, load_test(DataConfig(), n), THREAT)}


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_network_raises_none(seed: int, honest: list[nn.Module]) -> None:
    assert names(honest[seed]) == set()


class Wrapped(nn.Module):
    """A network behind something that hides its gradients."""

    def __init__(self, model: nn.Module, other: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.other = model, other or model


class Scaled(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return 100 * self.model(x)


class Quantised(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model((8 * x).round() / 8)


class Shattered(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 0.02 * torch.sin(2000 * x))


class Random(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + 0.3 * torch.randn(len(x), 10)


class Detector(Wrapped):
    """Where two networks disagree, a confident answer without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.model(x), self.other(x)
        sure = nn.functional.one_hot(b.argmax(1), 10) * 30.0
        return torch.where((a.argmax(1) == b.argmax(1))[:, None], a, sure)


MASKED = {
    Scaled: {"logit scale", "zero gradients"},
    Quantised: {"zero gradients"},
    Shattered: {"robust to anything"},
    Random: {"random output"},
    Detector: {"robust to anything"},
}


@pytest.mark.parametrize("kind", MASKED)
def test_masked_networks_raise_the_right_flag(kind: type[Wrapped], honest: list[nn.Module]) -> None:
    assert MASKED[kind] <= names(kind(honest[0], honest[1]), n=96)


class Detached(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach()).detach()


def test_a_model_without_gradients_is_refused_for_white_box_attacks_only(honest: list[nn.Module]) -> None:
    split = load_test(DataConfig(), 64)
    with pytest.raises(ValueError, match=r"gives no gradient with respect to its images.*square-1000"):
        evaluate_model(Detached(honest[0]), split, attacks=["pgd-2"], threats=[THREAT])
    result = evaluate_model(Detached(honest[0]), split, attacks=["square-20"], threats=[THREAT], masking=64)
    assert [f["name"] for f in result.flags] == ["zero gradients"]


def test_flags_are_in_the_result(honest: list[nn.Module]) -> None:
    split = load_test(DataConfig(), 64)
    result = evaluate_model(Scaled(honest[0]), split, attacks=["fgsm"], threats=[THREAT], masking=64)
    flag = next(f for f in result.flags if f["name"] == "logit scale")
    assert flag["value"] > flag["threshold"] == masking.LOGITS
    many = load_test(DataConfig(), 256)  # as many as the thresholds were set for: of 64, three images are more than 4 %
    assert evaluate_model(honest[0], many, attacks=["fgsm"], threats=[THREAT], masking=256).flags == ()
    few = load_test(DataConfig(), 16)
    assert evaluate_model(Scaled(honest[0]), few, attacks=["fgsm"], threats=[THREAT], masking=64).flags == ()
