"""Schedules as pure functions of the step, and the optimiser's state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.trainers import optim
from sparring.trainers.config import OptimConfig


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


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_saved_state_continues_to_the_same_weights(name: str) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, optim.build(model, OptimConfig(name=name))  # type: ignore[arg-type]

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = make()
    for _ in range(3):
        step(model, optimizer)
    saved, weights = optim.state(model, optimizer), {k: v.clone() for k, v in model.state_dict().items()}
    step(model, optimizer)
    other, fresh = make()
    other.load_state_dict(weights)
    optim.load_state(other, fresh, saved)
    step(other, fresh)
    assert saved
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "bad", [{"lr": 0}, {"momentum": 1.0}, {"weight_decay": -1}, {"milestones": (5, 3)}, {"warmup": -1}]
)
def test_bad_values(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"optim.{next(iter(bad))}"):
        OptimConfig(**bad)  # type: ignore[arg-type]
