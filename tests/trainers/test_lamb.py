"""LAMB behind our optimiser, against timm's class itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

from sparring.trainers import optim
from sparring.trainers.config import OptimConfig
from tests.helpers import TinyNet

OPTIONS: list[dict[str, Any]] = [{}, {"betas": (0.8, 0.95), "eps": 1e-3, "decay": "weights"}]


def net() -> nn.Module:
    model = TinyNet()
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    return model


def steps(model: nn.Module, made: Any, which: range) -> Iterator[float]:
    """Gradients of so many steps, then each step's learning rate for whoever takes it."""
    for step in which:
        made.zero_grad()
        x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        yield 0.05 / (step + 1)


@pytest.mark.parametrize("options", OPTIONS, ids=["timm's defaults", "groups"])
def test_the_same_bits_as_timms_own(options: dict[str, Any]) -> None:
    ours, theirs = net(), net()
    made = optim.build(ours, OptimConfig(name="lamb", lr=0.05, weight_decay=0.1, **options))
    of_bias = {p for name, p in theirs.named_parameters() if p.dim() <= 1} if options else set()
    groups = [
        {"params": [p for p in theirs.parameters() if p not in of_bias], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p in of_bias], "weight_decay": 0.0},
    ]
    known = {"betas": options["betas"], "eps": options["eps"]} if options else {}
    expected = timm.optim.Lamb(groups[: len(groups) if options else 1], lr=0.05, max_grad_norm=None, **known)
    for lr in steps(ours, made, range(5)):
        made.lr = lr
        made.step()
    for lr in steps(theirs, expected, range(5)):
        for group in expected.param_groups:
            group["lr"] = lr
        expected.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_it_goes_back_to_what_was_saved() -> None:
    """Also to the state before the first step, as after a failure early in a run."""
    model = net()
    made = optim.build(model, OptimConfig(name="lamb", lr=0.05, weight_decay=0.1))
    start = {k: v.clone() for k, v in model.state_dict().items()}, optim.state(model, made)
    assert start[1] == {}

    def trained(which: range) -> list[torch.Tensor]:
        for lr in steps(model, made, which):
            made.lr = lr
            made.step()
        return [p.detach().clone() for p in model.parameters()]

    trained(range(2))
    middle = {k: v.clone() for k, v in model.state_dict().items()}, optim.state(model, made)
    assert middle[1]["fc.weight/step"] == 2
    end = trained(range(2, 5))
    for (weights, saved), which in ((start, range(5)), (middle, range(2, 5))):
        model.load_state_dict(weights)
        optim.load_state(model, made, saved)
        for a, b in zip(trained(which), end, strict=True):
            assert torch.equal(a, b)


def test_timm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"optim.name = 'lamb' needs the timm library; run: pip install timm"):
        optim.build(TinyNet(), OptimConfig(name="lamb"))
