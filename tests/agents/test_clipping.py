"""Gradients that are cut to a length, against torch's own function: whole batches, batches in parts, perturbed weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from sparring.trainers.config import OptimConfig, SpeedConfig
from sparring.trainers.methods.at import At
from sparring.trainers.methods.mixacm import Mixacm
from tests.helpers import gradients, make_team

WAYS: dict[str, dict[str, Any]] = {"whole": {}, "in parts": {"speed": SpeedConfig(micro_batch=3)}, "perturbed": {}}


@pytest.mark.parametrize("clip", [0.05, 100.0])
@pytest.mark.parametrize("way", WAYS)
def test_as_torch_cuts_them(way: str, clip: float) -> None:
    awp = 0.01 if way == "perturbed" else 0.0

    def stepped(length: float) -> Any:
        config = OptimConfig(schedule="constant", lr=0.05, clip=length, awp=awp)
        team = make_team(At(), optim=config, **WAYS[way])
        At().step(team, 0)  # type: ignore[arg-type]
        return team["model"]

    plain, cut = stepped(0.0), stepped(clip)
    assert "gradient_norm" not in plain.metrics.values
    of = list(plain.agent.model.parameters())
    length = clip_grad_norm_(of, clip)
    assert cut.metrics.values["gradient_norm"] == length.item() > 0.05
    for ours, p in zip(gradients(cut), of, strict=True):
        assert p.grad is not None
        assert torch.equal(ours, p.grad)
    same = [torch.equal(p, q) for p, q in zip(of, cut.agent.model.parameters(), strict=True)]
    assert all(same) == (clip == 100)


def test_a_methods_helpers_count_too() -> None:
    """The length is that of everything which the step changes."""
    method = Mixacm(transform="forced_affine")
    team = make_team(method, optim=OptimConfig(schedule="constant", clip=1e-3))
    method.step(team, 0)  # type: ignore[arg-type]
    learner = team["student"].agent.learner
    assert learner is not None
    assert learner.model.helpers is not None
    grads = learner.optimiser.gradients
    assert len(grads) > len(gradients(team["student"]))
    assert torch.stack([g.square().sum() for g in grads]).sum().sqrt().item() == pytest.approx(1e-3, rel=1e-2)
