"""Our AutoAttack beside its authors' code on the same images with the same seed, attack by attack; and what only ours does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import L1_projection
from pyautoattack.fab_projections import projection_l1, projection_l2, projection_linf
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sparring.trainers import autoattack as ours
from sparring.trainers.attacks import BALLS
from sparring.trainers.autoattack import Passes, Square, fab, reference
from sparring.trainers.autoattack.projections import onto_hyperplane, onto_l1_ball
from sparring.trainers.config import NormName, Threat
from sparring.trainers.losses import cross_entropy
from tests.helpers import TinyNet, shorten_autoattack

SEED = 3
N = 40
RADII: dict[NormName, float] = {"linf": 0.08, "l2": 0.4, "l1": 0.8}  # about half of the images resist


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that is right on most of some images."""
    data, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(data).float().view(-1, 1, 8, 8) / 16, torch.from_numpy(y).long()
    model = TinyNet(classes=10)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(600):
        part = slice(step * 10 % 1500, step * 10 % 1500 + 100)
        optimiser.zero_grad()
        cross_entropy(model(x[part]), y[part]).mean().backward()
        optimiser.step()
    return model.eval().requires_grad_(False), x[1600 : 1600 + N], y[1600 : 1600 + N]


STAGES = [
    *((norm, "standard", stage) for norm in RADII for stage in ("apgd-ce", "apgd-t", "fab-t", "square")),
    *((norm, "plus", stage) for norm in RADII for stage in ("apgd-ce", "apgd-dlr", "fab")),
    *((norm, "rand", "apgd-dlr") for norm in RADII),
]


def margins(model: nn.Module, x: Tensor) -> Tensor:
    """Between the two largest logits: FAB ends on the boundary, where the last bit decides, which differs between kinds of CPU."""
    first, second = model(x).topk(2, 1).values.T
    return first - second


@pytest.mark.parametrize(("norm", "version", "stage"), STAGES)
def test_each_attack_breaks_what_the_authors_code_breaks(
    norm: NormName, version: str, stage: str, digits: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_autoattack(monkeypatch)
    (model, x, y), threat = digits, Threat(norm, RADII[norm])
    right = model(x).argmax(1) == y
    found = x.clone()
    found[right] = ours.stages(version, threat, 10)[stage](
        Passes(model), x[right], y[right], torch.Generator().manual_seed(SEED)
    )
    theirs = AutoAttack(model, norm=reference.NORMS[norm], eps=threat.eps, seed=SEED, version=version)
    theirs.attacks_to_run = [stage]
    expected, _ = theirs.run_standard_evaluation(x, y, batch_size=N)
    broken, wanted = (right & (model(adv).argmax(1) != y) for adv in (found, expected))
    sure = margins(model, found).minimum(margins(model, expected)) > 1e-5
    assert torch.equal(broken[sure], wanted[sure])
    assert int((~sure).sum()) <= 2
    assert 0 < int(broken.sum()) < int(right.sum())
    assert BALLS[norm].length(found - x).max() <= threat.eps * (1 + 1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("version", ours.VERSIONS)
def test_the_whole(version: str, digits: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """One attack after the other on what resists; an example that is not broken is the image itself."""
    shorten_autoattack(monkeypatch)
    (model, x, y), threat = digits, Threat("linf", 0.06)
    adv = ours.autoattack(model, x, y, lambda z: model(z).argmax(1) != y, threat=threat, seed=SEED, version=version)
    theirs = AutoAttack(model, norm="Linf", eps=threat.eps, seed=SEED, version=version)
    expected, _ = theirs.run_standard_evaluation(x, y, batch_size=N)
    broken = model(adv).argmax(1) != y
    assert torch.equal(broken, model(expected).argmax(1) != y)
    assert torch.equal(adv[~broken], x[~broken])


def test_what_the_judge_does_not_call_wrong_is_attacked_further(
    digits: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_autoattack(monkeypatch)
    model, x, y = digits
    asked: list[int] = []

    def never(z: Tensor) -> Tensor:
        asked.append(len(z))
        return torch.zeros(len(z), dtype=torch.bool)

    adv = ours.autoattack(model, x, y, never, threat=Threat("linf", 0.3), seed=SEED)
    assert torch.equal(adv, x)
    assert asked == [N] * 5  # in the whole block, before and after each of four attacks


def test_a_broken_image_leaves_at_once(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    right = model(x).argmax(1) == y
    for name, stage in ours.stages("standard", Threat("linf", 0.9), 10).items():
        passes = Passes(model)
        stage(passes, x[right], y[right], torch.Generator().manual_seed(SEED))
        assert passes.forward < 30 * N, name  # to the end there are 101, 900, 1,800 and 5,000 for each


@pytest.mark.parametrize("version", ["standard", "plus"])
def test_large_images_go_in_groups(
    version: str, digits: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAB on few images at once, so that memory is bounded, breaks what it breaks on all."""
    shorten_autoattack(monkeypatch)
    model, x, y = digits
    right = model(x).argmax(1) == y
    stage = ours.stages(version, Threat("linf", 0.08), 10)["fab-t" if version == "standard" else "fab"]

    def broken() -> Tensor:
        adv = stage(Passes(model), x[right], y[right], torch.Generator().manual_seed(SEED))
        return model(adv).argmax(1) != y[right]

    whole = broken()
    monkeypatch.setattr(fab, "HELD", 64 * 9 * 7)
    assert torch.equal(broken(), whole)
    assert 0 < int(whole.sum()) < len(whole)


def test_refused_proposals_are_not_asked_again(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    """A square of one pixel has 128 forms on an image of 8 x 8, and there are 4,000 of them."""
    model, x, y = digits
    right = model(x).argmax(1) == y
    passes, threat = Passes(model), Threat("linf", 0.02)
    adv = Square(threat=threat)(passes, x[right], y[right], torch.Generator().manual_seed(SEED))
    resisting = int((model(adv).argmax(1) == y[right]).sum())
    assert resisting > 10
    assert passes.forward < 1000 * resisting


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("size", [(4, 4), (1, 64), (64, 1), (28, 20), (20, 28), (5, 9)], ids=str)
def test_square_on_any_image(size: tuple[int, int], norm: NormName) -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * size[0] * size[1], 10)).eval().requires_grad_(False)
    x = 0.3 + 0.4 * torch.rand(6, 3, *size, generator=generator)
    y, threat = model(x).argmax(1), Threat(norm, {"linf": 0.2, "l2": 2.0, "l1": 20.0}[norm])
    adv = Square(threat=threat, queries=300)(Passes(model), x, y, torch.Generator().manual_seed(SEED))
    assert int((model(adv).argmax(1) != y).sum()) > 0
    assert BALLS[norm].length(adv - x).max() <= threat.eps * (1 + 1e-5)


@pytest.mark.parametrize(
    ("classes", "expected"), [(2, ["apgd-ce", "fab-t", "square"]), (3, ["apgd-ce", "fab-t", "square"])]
)
def test_few_classes(classes: int, expected: list[str]) -> None:
    assert list(ours.stages("standard", Threat("linf", 0.1), classes)) == expected
    assert list(ours.stages("standard", Threat("linf", 0.1), 4)) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    targeted: Any = ours.stages("standard", Threat("linf", 0.1), classes)["fab-t"]
    assert targeted.targets == classes - 1


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"version 'fast' is not allowed; use one of: standard, plus, rand"):
        ours.stages("fast", Threat("linf", 0.1), 10)


THEIRS = {"linf": projection_linf, "l2": projection_l2, "l1": projection_l1}


@given(seed=st.integers(0, 10**6), norm=st.sampled_from(list(THEIRS)), far=st.floats(0, 1.5))
def test_the_shortest_way_to_a_hyperplane(seed: int, norm: str, far: float) -> None:
    """On the plane where the box reaches it, in the box, and as short as the authors' solution."""
    rng = torch.Generator().manual_seed(seed)
    t, w = torch.rand(7, 30, generator=rng), torch.randn(7, 30, generator=rng)
    t[:, :5], w[:, 5:8] = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]), 0.0  # pixels at their bounds, and without a gradient
    reach = (w.clamp_max(0) * (1 - t) - w.clamp_min(0) * t).sum(1)  # by how much the sum can fall within the box
    b = (w * t).sum(1) + far * reach
    d = onto_hyperplane(t, w, b, norm)
    left = (w * (t + d)).sum(1) - b
    assert torch.allclose(left, (-reach * max(far - 1, 0)).abs(), atol=1e-4)
    assert (t + d).min() >= -1e-6
    assert (t + d).max() <= 1 + 1e-6
    if 0.99 < far < 1.01:  # nearly at the last corner of the box theirs, by sorting, can be anywhere
        return
    length = BALLS[norm].length
    theirs = THEIRS[norm](t.clone(), w.clone(), b.clone())
    assert torch.allclose(length(d), length(theirs), rtol=1e-3, atol=1e-4)


@given(seed=st.integers(0, 10**6), eps=st.floats(0.01, 12))
def test_the_nearest_point_of_the_l1_ball_in_the_box(seed: int, eps: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, v = torch.rand(5, 2, 3, 3, generator=rng), torch.randn(5, 2, 3, 3, generator=rng)
    x[:, 0, 0] = torch.tensor([0.0, 1.0, 0.5])
    d = onto_l1_ball(x, v, eps)
    assert BALLS["l1"].length(d).max() <= eps * (1 + 1e-5) + 1e-6
    assert torch.equal((x + d).clamp(-1e-6, 1 + 1e-6), x + d)
    expected = v + L1_projection(x, v.clone(), eps)
    assert torch.allclose(d, expected, atol=1e-4)
