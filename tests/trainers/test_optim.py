"""Schedules as pure functions of the step, and the optimiser's state."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sparring.trainers import optim
from sparring.trainers.config import OptimConfig
from sparring.trainers.optimisers import Optimiser
from tests.helpers import CLONE, TinyNet


def scales(config: OptimConfig, steps: list[int]) -> list[float]:
    return [optim.when(config, t, steps_per_epoch=10, total_steps=100).lr_scale for t in steps]


def test_schedules() -> None:
    assert scales(OptimConfig(schedule="constant"), [0, 99]) == [1, 1]
    assert scales(OptimConfig(schedule="linear"), [0, 50, 100]) == [1, 0.5, 0]
    assert scales(OptimConfig(schedule="cosine"), [0, 50, 100]) == pytest.approx([1, 0.5, 0])
    multistep = OptimConfig(schedule="multistep", milestones=(3, 5))
    assert scales(multistep, [29, 30, 49, 50]) == pytest.approx([1, 0.1, 0.1, 0.01])
    assert scales(OptimConfig(schedule="constant", warmup=1), [0, 4, 9, 10]) == pytest.approx([0.1, 0.5, 1, 1])
    assert optim.when(OptimConfig(), 25, steps_per_epoch=10, total_steps=100).epoch == 2


@pytest.mark.parametrize("t", [0, 1, 30, 99, 100])
def test_a_floor_under_the_learning_rate(t: int) -> None:
    """min_lr is a rate, as torch's eta_min is."""
    linear, cosine = (
        OptimConfig(schedule=name, lr=0.2, min_lr=0.05)  # type: ignore[arg-type]
        for name in ("linear", "cosine")
    )
    assert 0.2 * scales(linear, [t])[0] == pytest.approx(0.05 + 0.15 * (1 - t / 100), abs=1e-15)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.ones(1)], lr=0.2), 100, eta_min=0.05)
    for _ in range(t):
        theirs.optimizer.step()
        theirs.step()
    assert 0.2 * scales(cosine, [t])[0] == pytest.approx(theirs.get_last_lr()[0], abs=1e-14)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_saved_state_continues_to_the_same_weights(name: str) -> None:
    def make() -> tuple[nn.Module, Optimiser]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, optim.build(model, OptimConfig(name=name))  # type: ignore[arg-type]

    def step(model: nn.Module, optimiser: Optimiser) -> None:
        optimiser.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimiser.step()

    model, optimiser = make()
    for _ in range(3):
        step(model, optimiser)
    saved, weights = optim.state(model, optimiser), {k: v.clone() for k, v in model.state_dict().items()}
    step(model, optimiser)
    other, fresh = make()
    other.load_state_dict(weights)
    optim.load_state(other, fresh, saved)
    step(other, fresh)
    assert saved
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


ALIKE: dict[str, tuple[dict[str, Any], Callable[..., torch.optim.Optimizer]]] = {
    "sgd": ({"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}, torch.optim.SGD),
    "plain": ({"momentum": 0.0, "weight_decay": 0.1}, torch.optim.SGD),
    "adamw": ({"weight_decay": 0.1}, torch.optim.AdamW),
    "betas": ({"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}, torch.optim.AdamW),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_the_same_bits_as_torchs_own(kind: str) -> None:
    """Over steps of a changing learning rate, one parameter without a gradient."""
    options, theirs = ALIKE[kind]
    config = OptimConfig(name="adamw" if theirs is torch.optim.AdamW else "sgd", lr=0.05, **options)

    def trained(own: bool) -> tuple[nn.Module, Any]:
        model = TinyNet()
        model.register_parameter("unused", nn.Parameter(torch.ones(2)))
        made: Any = optim.build(model, config) if own else theirs(model.parameters(), lr=0.05, fused=True, **options)
        for step in range(5):
            lr = 0.05 / (step + 1)
            if own:
                made.lr = lr
            else:
                made.param_groups[0]["lr"] = lr
            made.zero_grad()
            x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))
            model(x).square().mean().backward()
            made.step()
        return model, made

    (ours, made), (expected, torchs) = trained(True), trained(False)
    for p, q in zip(ours.parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)
        assert set(made.state.get(p, {})) == set(torchs.state.get(q, {}))
        assert all(torch.equal(value, torchs.state[q][name]) for name, value in made.state.get(p, {}).items())


def test_a_step_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from sparring.trainers import optim; from sparring.trainers.config import OptimConfig; "
        "m = torch.nn.Linear(2, 2); o = optim.build(m, OptimConfig()); m(torch.ones(1, 2)).sum().backward(); o.step(); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CLONE)


BAD: list[dict[str, object]] = [
    *({"lr": 0}, {"momentum": 1.0}, {"weight_decay": -1}, {"milestones": (5, 3)}, {"warmup": -1}),
    *({"clip": -1}, {"layer_decay": 0}, {"layer_decay": 1.1}, {"betas": (0.9,)}, {"betas": (0.9, 1)}, {"eps": 0}),
    *({"min_lr": -1}, {"min_lr": 0.2}),
]


@pytest.mark.parametrize("bad", BAD)
def test_bad_values(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"optim.{next(iter(bad))}"):
        OptimConfig(**bad)  # type: ignore[arg-type]
