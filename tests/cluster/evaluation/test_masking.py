"""Signs of masked gradients: each kind of masking raises its flag, an honest network none."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from sparring.agents.checkpoint import load_model
from sparring.cluster.evaluation import masking
from sparring.cluster.evaluation.direct import evaluate_model
from sparring.cluster.evaluation.subjects import pixels
from sparring.cluster.models.examples import load_test
from sparring.trainers.config import DataConfig, Threat
from tests.helpers import CLONE
from tests.masked import FAR, MASKED, SOFT, Lucky, Rescaled, Scaled, Wrapped

THREAT = Threat("linf", 0.15)


@pytest.fixture(scope="module")
def honest() -> list[nn.Module]:
    """Three adversarially trained networks of 4,000 parameters, committed: one trained here would differ by CPU family."""
    return [load_model(CLONE / "tests" / "networks" / f"honest-{i}").eval() for i in range(3)]


def names(model: nn.Module, n: int = 256, threat: Threat = THREAT) -> set[str]:
    return {f.name for f in masking.examine(model, load_test(DataConfig(), n), threat)}


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_network_raises_none(seed: int, honest: list[nn.Module]) -> None:
    assert names(honest[seed]) == set()


@pytest.mark.parametrize("kind", MASKED)
def test_masked_networks_raise_the_right_flag(kind: type[Wrapped], honest: list[nn.Module]) -> None:
    threat = Threat("linf", 0.3) if kind is Lucky else THREAT
    assert MASKED[kind] <= names(kind(honest[0], honest[1]), n=128, threat=threat)


@pytest.mark.parametrize("gap", SOFT)
def test_softened_logits_are_told(gap: float, honest: list[nn.Module]) -> None:
    """Decisions are the same; pgd-20 says several points more, however many steps, and the attacks of one scale do not."""
    split = load_test(DataConfig(), 256)
    x, _ = pixels(split, 0, 256)
    asked = ["pgd-20", "margin-pgd-20", "scaled-pgd-20"]

    def found(model: nn.Module) -> dict[str, float]:
        result = evaluate_model(model, split, attacks=asked, threats=[THREAT], block=256)
        return dict(result.threats[str(THREAT)]["attacks"])

    softened = Rescaled(honest[0], x, gap)
    plain, soft = found(honest[0]), found(softened)
    assert soft["pgd-20"] > plain["pgd-20"] + 0.03
    for name in asked[1:]:  # but for rounding
        assert soft[name] == pytest.approx(plain[name], abs=2 / 256)
    assert "softened logits" in names(softened)


@pytest.mark.parametrize("gap", FAR)
def test_gradients_too_short_for_apgd_are_told_under_l2(gap: float, honest: list[nn.Module]) -> None:
    """pyautoattack 0.2 adds 1e-12 to a gradient's l2 length before it divides; linf takes signs, and is not concerned."""
    split, checks = load_test(DataConfig(), 256), [masking.zero_gradients]
    x, _ = pixels(split, 0, 256)
    (flag,) = masking.looked_at(Rescaled(honest[0], x, gap), split, Threat("l2", 0.6), checks=checks)
    assert flag.raised
    assert "divide the logits" in flag.meaning
    (under_linf,) = masking.looked_at(Rescaled(honest[0], x, 40.0), split, THREAT, checks=checks)
    assert not under_linf.raised


@pytest.mark.parametrize("threat", [Threat("l2", 0.6), Threat("l1", 2.0)], ids=str)
def test_an_honest_network_raises_none_under_other_norms(threat: Threat, honest: list[nn.Module]) -> None:
    """PGD is weaker there, which is no sign of masking."""
    assert names(honest[0], threat=threat) == set()


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
