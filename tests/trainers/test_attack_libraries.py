"""Our PGD against torchattacks and foolbox, from the same random starts. Skipped where they are not installed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from sparring.trainers import attacks
from sparring.trainers.config import Attack
from sparring.trainers.losses import cross_entropy
from tests.helpers import TinyNet

EPS, STEP, STEPS = 0.1, 0.02, 8


def setting() -> tuple[TinyNet, Tensor, Tensor, Tensor]:
    model = TinyNet().eval()
    rng = torch.Generator().manual_seed(1)
    x, y = torch.rand(16, 1, 8, 8, generator=rng), torch.randint(0, 4, (16,), generator=rng)
    return model, x, y, (2 * torch.rand(x.shape, generator=rng) - 1) * EPS


def ours(model: TinyNet, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    ball = replace(attacks.BALLS["linf"], sample=lambda like, eps, rng: noise)
    attack = Attack(norm="linf", eps=EPS, step_size=STEP, steps=STEPS)
    with mock.patch.dict(attacks.BALLS, linf=ball), attacks.frozen(model):
        return attacks.run(attack, lambda z: cross_entropy(model(z), y), x, rng=torch.Generator())


def test_torchattacks() -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="pip install --no-deps torchattacks")
    model, x, y, noise = setting()
    attack = torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=True)
    with mock.patch.object(Tensor, "uniform_", lambda self, *args: self.copy_(noise)):
        theirs = attack(x, y)
    torch.testing.assert_close(ours(model, x, y, noise), theirs, rtol=0, atol=1e-6)
    assert (theirs - x).abs().max() > EPS / 2


def test_foolbox() -> None:
    foolbox = pytest.importorskip("foolbox", reason="pip install foolbox")
    model, x, y, noise = setting()

    class Same(foolbox.attacks.LinfPGD):  # type: ignore[name-defined, misc]
        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return x0 + type(x0)(noise)

    fmodel = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = Same(abs_stepsize=STEP, steps=STEPS, random_start=True)
    _, theirs, _ = attack(fmodel, x, y, epsilons=EPS)
    torch.testing.assert_close(ours(model, x, y, noise), theirs, rtol=0, atol=1e-6)
