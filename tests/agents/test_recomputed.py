"""Gradient checkpointing: the same bytes in less memory, in training passes and under attack."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from sparring.agents import networks
from sparring.agents.fast import Fast
from sparring.agents.networks import NetworkConfig
from sparring.agents.recomputed import Segment, switch
from sparring.trainers.config import Attack, OptimConfig, SpeedConfig
from sparring.trainers.methods.at import At
from sparring.trainers.methods.base import Method
from sparring.trainers.methods.mat import Mat
from sparring.trainers.methods.trades import Trades
from tests.helpers import TinyNet, make_team

pytest.importorskip("timm")

KINDS = {
    "vit": "timm:vit_tiny_patch16_224,embed_dim=12,depth=4,num_heads=2,drop_path_rate=0.2,proj_drop_rate=0.1",
    "xcit": "timm:xcit_nano_12_p16_224,embed_dim=16,depth=3,num_heads=2,drop_path_rate=0.2",  # with batch norm
    "convnext": "timm:convnext_atto,depths=(1,2,1,1),dims=(4,4,8,8),drop_path_rate=0.2",
    "swin": "timm:swin_tiny_patch4_window7_224,embed_dim=8,depths=(2,2),num_heads=(1,2),drop_path_rate=0.2",
    "resnet": "timm:resnet10t",
}
AGAIN = SpeedConfig(checkpointing=True)


def network(kind: str, *, side: int = 6, seed: int = 0) -> networks.Network:
    spec = KINDS[kind] + (",img_size=6,patch_size=2" if side == 6 and kind == "vit" else "")
    return networks.build(NetworkConfig(spec, 1, side, side, 4, (0.5,), (0.25,)), seed)


def states(method: Method, kind: str, speed: SpeedConfig, **options: Any) -> dict[str, Any]:
    models = {role: network(kind, seed=i) for i, role in enumerate(method.roles())}
    team = make_team(method, models, speed=speed, dtype=torch.float32, **options)
    for t in range(3):
        method.step(team, t)
    return {f"{role}.{k}": v for role, h in team.items() for k, v in h.agent.model.state_dict().items()}


@pytest.mark.parametrize(
    ("method", "kind", "options"),
    [
        (At(), "vit", {}),
        (At(), "xcit", {}),
        pytest.param(Mat(), "vit", {}, marks=pytest.mark.soak),
        pytest.param(Mat(), "resnet", {}, marks=pytest.mark.soak),
        pytest.param(Trades(), "resnet", {}, marks=pytest.mark.soak),  # two passes over the same images
        (At(), "resnet", {"attack": Attack(eps=0.1, steps=2, bn="train")}),
        pytest.param(At(), "resnet", {"optim": OptimConfig(schedule="constant", awp=0.01)}, marks=pytest.mark.soak),
        pytest.param(
            At(), "vit", {"optim": OptimConfig(schedule="constant", ema=0.9, swa=True)}, marks=pytest.mark.soak
        ),
    ],
)
def test_a_run_is_the_same_to_the_last_bit(method: Method, kind: str, options: dict[str, Any]) -> None:
    """Masks of stochastic depth are drawn once, and batch norm moves once, however often a block is computed."""
    plain = states(method, kind, SpeedConfig(), **options)
    again = states(method, kind, AGAIN, **options)
    assert [k for k, v in plain.items() if not torch.equal(v, again[k])] == []


@pytest.mark.parametrize("speed", [{"micro_batch": 3}, {"precision": "bf16"}], ids=str)
def test_with_other_settings_of_speed(speed: dict[str, Any]) -> None:
    plain = states(At(), "vit", SpeedConfig(**speed))
    again = states(At(), "vit", SpeedConfig(**speed, checkpointing=True))
    assert [k for k, v in plain.items() if not torch.equal(v, again[k])] == []


def kept(module: nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Bytes that a pass keeps for the backward pass, weights left out, and the images' gradient."""
    own = {p.untyped_storage().data_ptr() for p in (*module.parameters(), *module.buffers())}
    seen: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        place = t.untyped_storage()
        if place.data_ptr() not in own:
            seen[place.data_ptr()] = place.nbytes()
        return t

    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = module(x)
    total = sum(seen.values())
    return total, torch.autograd.grad(out.square().sum(), x)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_less_is_kept_in_training_and_under_attack(kind: str) -> None:
    own, x = network(kind, side=32), torch.rand(2, 1, 32, 32)
    fast, segmented = Fast.of(own.eval(), x), Fast.of(own.eval(), x, AGAIN)
    assert fast is not None
    assert segmented is not None
    assert sum(isinstance(m, Segment) for m in segmented.modules()) >= 3
    plain, gradient = kept(fast, x)
    less, same = kept(segmented, x)
    assert torch.equal(gradient, same)
    assert (
        less < (1.0 if kind == "resnet" else 0.7) * plain
    )  # frozen convolutions keep little, and this one has few blocks
    own.train()
    torch.manual_seed(0)
    plain, gradient = kept(own, x)
    switch(own, True)
    torch.manual_seed(0)
    less, same = kept(own, x)
    assert torch.equal(gradient, same)
    assert less < (0.8 if kind == "resnet" else 0.7) * plain


class InPlace(nn.Module):
    """Blocks that begin by changing what they get, as residual networks are often written."""

    def __init__(self) -> None:
        super().__init__()
        parts = [OrderedDict(act=nn.ReLU(inplace=True), conv=nn.Conv2d(3, 3, 1)) for _ in range(3)]
        self.first, self.blocks = nn.Conv2d(1, 3, 1), nn.Sequential(*map(nn.Sequential, parts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.blocks(self.first(x)).mean((2, 3))
        return out


def test_what_is_changed_in_place_is_not_what_a_block_begins_from() -> None:
    own, x = InPlace().eval(), torch.rand(2, 1, 8, 8)
    fast, segmented = Fast.of(own, x), Fast.of(own, x, AGAIN)
    assert fast is not None
    assert segmented is not None
    assert sum(isinstance(m, Segment) for m in segmented.modules()) == 3
    x.requires_grad_()
    gradients = [torch.autograd.grad(form(x).square().sum(), x)[0] for form in (fast, segmented)]
    assert torch.equal(*gradients)


def test_networks_without_it_are_refused() -> None:
    with pytest.raises(ValueError, match=r"TinyNet has no blocks that can be computed again.*--micro-batch"):
        make_team(At(), {"model": TinyNet()}, speed=AGAIN)
    with pytest.raises(ValueError, match="compile and checkpointing do not go together"):
        SpeedConfig(compile=True, checkpointing=True)
