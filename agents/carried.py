"""A network on its way to another process: the files that it is made by and its weights, not a pickled class.

network --pack--> Carried (specification, tensors) --unpack--> the same network, in any process and on any host
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from sparring.agents import networks
from sparring.agents.ensemble import members_of, together
from sparring.agents.networks import Network, NetworkConfig
from sparring.agents.robustness import Lenient
from sparring.trainers import code, user


@dataclass(frozen=True, slots=True)
class Carried:
    """What another process makes a network of."""

    codes: tuple[code.Code, ...]  # files of a user's, known there before anything else is unpickled
    members: tuple[tuple[NetworkConfig, dict[str, Tensor]], ...]  # several: of an ensemble or a cascade
    plain: nn.Module | None = None  # a module of the caller's own, which has no name: as it is
    width: float | None = None  # of a cascade
    lenient: bool = False  # whether its answers that are no numbers count as wrong


def pack(model: nn.Module) -> Carried:
    """The network as plain values; a module that no name stands for is pickled with its class."""
    if isinstance(model, Lenient):
        return replace(pack(model.network), lenient=True)
    members, width = members_of(model)
    named = [m for m in members if isinstance(m, Network)]
    if len(named) < len(members):
        return Carried((), (), model.cpu())
    codes = user.codes([m.config.spec for m in named])
    parts = tuple((m.config, {k: v.cpu() for k, v in m.state_dict().items()}) for m in named)
    return Carried(codes, parts, width=width)


def unpack(carried: Carried) -> nn.Module:
    """The network in eval mode, in memory of its own."""
    if carried.lenient:
        return Lenient(unpack(replace(carried, lenient=False))).eval()
    if carried.plain is not None:
        return carried.plain.eval()
    return together([_made(config, tensors) for config, tensors in carried.members], carried.width)


def _made(config: NetworkConfig, tensors: dict[str, Tensor]) -> Network:
    model = networks.build(config)
    model.load_state_dict(tensors)
    return model.eval()
