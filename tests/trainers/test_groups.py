"""Which parameters weight decay acts on, and the learning rate of each block, against timm's own helpers and torch's own groups."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import timm.optim
import torch
from torch import nn

from sparring.agents import networks
from sparring.agents.networks.foreign import Foreign
from sparring.trainers import optim
from sparring.trainers.config import OptimConfig
from sparring.trainers.groups import factors, undecayed
from tests.helpers import TinyNet

CONFIG = networks.NetworkConfig("timm:vit_tiny_patch16_224", 3, 32, 32, 10, (0.5,) * 3, (0.5,) * 3)


def vit() -> Any:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, num_classes=10, depth=3)


def wrapped() -> tuple[Foreign, Any]:
    inside = vit()
    return Foreign(CONFIG, inside, normalised=True), inside


def test_weight_decay_leaves_out_what_timm_leaves_out() -> None:
    network, inside = wrapped()
    told = inside.no_weight_decay()
    (spared, _) = timm.optim.param_groups_weight_decay(inside, 0.1, no_weight_decay_list=told)
    assert undecayed(network) == set(spared["params"])
    names = {name for name, p in inside.named_parameters() if p in undecayed(network)}
    assert {"pos_embed", "cls_token", "norm.weight", "head.bias"} <= names
    assert "head.weight" not in names


def test_norms_of_more_dimensions_and_patterns() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.query_a, self.weight = nn.LayerNorm((2, 3)), *(nn.Parameter(torch.ones(2, 2)) for _ in "ab")

        def no_weight_decay(self) -> set[str]:
            return {"query_*"}

    own = Own()
    assert undecayed(nn.Sequential(own)) == {own.norm.weight, own.norm.bias, own.query_a}


def test_groups_train_as_torchs_own() -> None:
    """Five steps of AdamW with both kinds of groups, bit for bit."""
    config = OptimConfig(name="adamw", lr=0.05, weight_decay=0.1, decay="weights", layer_decay=0.7)

    def trained(own: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        network, inside = wrapped()
        made: Any
        if own:
            made = optim.build(network, config)
        else:
            groups = timm.optim.param_groups_layer_decay(inside, 0.1, inside.no_weight_decay(), layer_decay=0.7)
            groups = [{**g, "lr": 0.05 * g["lr_scale"]} for g in groups]
            made = torch.optim.AdamW(groups, fused=True)
        for step in range(5):
            made.zero_grad()
            x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(step))
            network(x).square().mean().backward()
            made.step()
        return list(network.parameters())

    for ours, theirs in zip(trained(True), trained(False), strict=True):
        assert torch.equal(ours, theirs)


def test_factors_are_timms() -> None:
    network, inside = wrapped()
    groups = timm.optim.param_groups_layer_decay(inside, layer_decay=0.75)
    expected = {p: g["lr_scale"] for g in groups for p in g["params"]}
    assert factors(network, 0.75) == expected
    assert factors(network, 0.75)[inside.pos_embed] == 0.75**4  # three blocks and the head follow
    assert factors(network, 0.75)[inside.head.weight] == 1


BLOCKS = {"small_cnn": 3, "resnet18": 9, "preact_resnet18": 9, "resnet50": 17, "wrn-16-4": 7, "mobilenet_v2": 19}


@pytest.mark.parametrize("name", BLOCKS)
def test_our_networks_tell_their_blocks(name: str) -> None:
    """Rates rise from block to block in the order in which parameters are used, to the head's."""
    with torch.device("meta"):
        maker, options = networks.parse(name)
        network = maker(networks.NetworkConfig(name, 3, 32, 32, 10, (0.5,) * 3, (0.5,) * 3), **options)
    found = factors(network, 0.5)
    assert set(found) == set(network.parameters())
    assert set(found.values()) == {0.5**i for i in range(BLOCKS[name] + 1)}
    head = {p for n, p in network.named_parameters() if n.startswith(("linear.", "fc."))}
    assert {found[p] for p in head} == {1.0}
    assert found[next(network.parameters())] == 0.5 ** BLOCKS[name]
    convolutions = [found[m.weight] for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == sorted(convolutions)


def test_a_network_of_ones_own() -> None:
    class Own(nn.Sequential):
        blocks: tuple[tuple[str, ...], ...] = (("0",), ("1",))

        def blocks_in_order(self) -> Any:
            return self.blocks

    own = Own(*(nn.Linear(2, 2) for _ in range(3)))
    network = Foreign(CONFIG, own, normalised=False)
    assert [factors(network, 0.5)[layer.weight] for layer in own] == [0.25, 0.5, 1]  # type: ignore[index]
    own.blocks = ("0",), ("layer",)
    with pytest.raises(ValueError, match="names 'layer', where no parameter is"):
        factors(network, 0.5)


@pytest.mark.parametrize("network", [TinyNet(), nn.Sequential(vit(), nn.Linear(10, 10))], ids=["silent", "in part"])
def test_a_network_that_does_not_tell_its_blocks(network: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=r"does not tell its blocks, which optim.layer_decay = 0.9 needs.*blocks_in_order"
    ):
        optim.build(network, OptimConfig(layer_decay=0.9))
    assert len(optim.build(network, OptimConfig()).groups) == 1


def test_helpers_have_the_heads_rate() -> None:
    network, helpers = (
        networks.build(networks.NetworkConfig("small_cnn:width=2", 1, 8, 8, 4, (0.5,), (0.5,))),
        nn.Linear(2, 2),
    )
    made = optim.build(network, OptimConfig(decay="weights", layer_decay=0.5, weight_decay=0.1), helpers=helpers)
    (of_weight,) = (g for g in made.groups if any(p is helpers.weight for p in g.parameters))
    (of_bias,) = (g for g in made.groups if any(p is helpers.bias for p in g.parameters))
    assert (of_weight.factor, of_weight.weight_decay, of_bias.factor, of_bias.weight_decay) == (1, 0.1, 1, 0)
