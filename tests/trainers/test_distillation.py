"""Baselines with teachers, written out once more from their definitions, on networks without batch norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sparring.trainers.methods.adaiad import Adaiad
from sparring.trainers.methods.akd2 import Akd2
from sparring.trainers.methods.ard import Ard
from sparring.trainers.methods.iad import Iad
from sparring.trainers.methods.mart import Mart
from sparring.trainers.methods.mat import Mat
from tests.helpers import Handle, TinyNet, losses, make_team


def kl(teacher: Tensor, student: Tensor, t: float = 1.0) -> Tensor:
    """Per example, teacher first, at temperature t, without t^2."""
    return F.kl_div(F.log_softmax(student / t, 1), F.softmax(teacher / t, 1), reduction="none").sum(1)


def prepared(method: Any) -> tuple[dict[str, Handle], Any, Tensor, Tensor, Tensor]:
    """A team without batch norm; the student's network, the crafted example, the clean batch."""
    team = make_team(method, bn=False)
    student = team[next(iter(method.roles()))].agent
    batch = student.batches.batch(0)
    return team, student.model, student.craft(0).x, batch.x, batch.y


@pytest.mark.parametrize("begin", [0, 5])
def test_iad_1(begin: int) -> None:
    method = Iad(begin=begin, alpha=0.7, temperature=3.0, trust=0.3)
    team, s, adv, x, y = prepared(method)
    r = team["teacher"].agent.model
    a = F.softmax(r(adv), 1)[torch.arange(len(y)), y] ** 0.3
    expected = 0.7 * 9 * kl(r(x), s(adv), 3.0).mean() + 0.3 * F.cross_entropy(s(x), y)
    if begin == 0:
        expected = expected + 0.7 * ((1 - a) * kl(s(x), s(adv))).mean()
    method.step(team, 0)
    assert losses(team)["student"] == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("begin", [0, 5])
def test_iad_2_and_before_it_begins_akd2(begin: int) -> None:
    method = Iad(variant="II", begin=begin, alpha1=0.5, alpha2=0.2, temperature=2.0)
    team, s, adv, x, y = prepared(method)
    r, n = team["teacher"].agent.model, team["clean_teacher"].agent.model
    a = F.softmax(r(adv), 1)[torch.arange(len(y)), y] ** 0.1 if begin == 0 else torch.ones(len(y), dtype=x.dtype)
    expected = 0.3 * F.cross_entropy(s(adv), y) + 0.2 * 4 * kl(n(adv), s(adv), 2.0).mean()
    expected = expected + 0.5 * 4 * (a * kl(r(adv), s(adv), 2.0) + (1 - a) * kl(s(x), s(adv))).mean()
    method.step(team, 0)
    assert losses(team)["student"] == pytest.approx(expected.item(), abs=1e-12)
    if begin > 0:
        akd2 = Akd2(alpha1=0.5, alpha2=0.2, temperature=2.0)
        other = make_team(akd2, bn=False)
        akd2.step(other, 0)
        assert losses(other)["student"] == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("begin", [0, 5])
def test_adaiad(begin: int) -> None:
    method = Adaiad(begin=begin, alpha=0.8, temperature=5.0)
    team, s, adv, x, y = prepared(method)
    teacher = team["student"].agent.view.beside["teacher"]
    a = F.softmax(teacher(adv), 1)[torch.arange(len(y)), y] ** 0.1
    expected = 0.8 * 25 * kl(teacher(adv), s(adv), 5.0).mean() + 0.2 * F.cross_entropy(s(x), y)
    if begin == 0:
        expected = expected + 0.8 * ((1 - a) * kl(s(x), s(adv))).mean()
    method.step(team, 0)
    assert losses(team)["student"] == pytest.approx(expected.item(), abs=1e-12)
    assert all(p.grad is None for p in teacher.parameters())


def test_ard_in_both_reductions() -> None:
    for reduction, factor in (("batch", 1.0), ("elements", 1 / 4)):
        method = Ard(alpha=0.9, temperature=4.0, reduction=reduction)  # type: ignore[arg-type]
        team, s, adv, x, y = prepared(method)
        soft = factor * 16 * kl(team["teacher"].agent.model(x), s(adv), 4.0).mean()
        expected = 0.9 * soft + 0.1 * F.cross_entropy(s(x), y)
        method.step(team, 0)
        assert losses(team)["student"] == pytest.approx(expected.item(), abs=1e-12)


def test_mart() -> None:
    team, f, adv, x, y = prepared(Mart(beta=3.0))
    p, sure = F.softmax(f(adv), 1), F.softmax(f(x), 1)[torch.arange(len(y)), y]
    wrong = torch.stack(
        [row[[k for k in range(4) if k != label]].max() for row, label in zip(p, y.tolist(), strict=True)]
    )
    bce = -p[torch.arange(len(y)), y].log() - (1.0001 - wrong).log()
    expected = bce.mean() + 3 * ((1 - sure) * kl(f(x), f(adv))).mean()
    Mart(beta=3.0).step(team, 0)
    assert losses(team)["model"] == pytest.approx(expected.item(), abs=1e-12)


def test_introspection_begins_within_the_short_recipe() -> None:
    from sparring.cluster.config.recipes import recipe

    for name in ("iad", "adaiad"):
        config = recipe(name)
        assert config.method.begin < config.epochs  # type: ignore[attr-defined]


def test_mat_on_trades_starts_as_trades_and_may_imitate_on_clean_images() -> None:
    from sparring.cluster.config.recipes import recipe

    config = recipe("mat").replace({"method.base": "trades"})
    chosen = config.method.attack("peer0", "train", {"train": config.attack}, state={}, when=None, rng=None)  # type: ignore[arg-type]
    assert chosen.start == "gaussian"
    method = Mat(base="trades", mutual_clean=True, alpha=0.4, beta=1.0, temperature=2.0, trades_beta=6.0)
    models = {r: TinyNet(bn=False, seed=i) for i, r in enumerate(method.roles())}
    team = make_team(method, models, bn=False)
    f, g = (team[r].agent.model for r in ("peer0", "peer1"))
    adv, batch = team["peer0"].agent.craft(0).x, team["peer0"].agent.batches.batch(0)
    x, y = batch.x, batch.y
    expected = F.cross_entropy(f(x), y) + 6 * kl(f(x), f(adv)).mean()
    expected = expected + 0.4 * 4 * (kl(g(adv), f(adv), 2.0).mean() + kl(g(x), f(x), 2.0).mean())
    method.step(team, 0)
    assert losses(team)["peer0"] == pytest.approx(expected.item(), abs=1e-12)
