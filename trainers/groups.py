"""Parameters that are treated alike: which ones weight decay acts on, and each block's learning rate.

A network may tell both itself, by methods that timm's networks have or by ours:

    no_weight_decay()    names of parameters (or patterns of names) that weight decay leaves alone
    blocks_in_order()    names of the modules and parameters of each block, first to last; what is left is the head
    group_matcher()      the same in timm's form
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from sparring.trainers import user
from sparring.trainers.config import OptimConfig

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters of one weight decay and one learning rate."""

    parameters: list[nn.Parameter]
    weight_decay: float
    factor: float = 1.0  # of the learning rate


def grouped(
    parameters: Iterable[nn.Parameter], network: nn.Module, helpers: nn.Module | None, config: OptimConfig
) -> list[Group]:
    """``parameters``, those of the network and of what is trained besides, in groups; by default in one.

    Helpers have the head's learning rate.

    Raises:
        ValueError: layer_decay of a network that does not tell its blocks.
    """
    spared: set[nn.Parameter] = set()
    if config.decay == "weights":
        spared = undecayed(network) | (undecayed(helpers) if helpers else set())
    scale = factors(network, config.layer_decay) if config.layer_decay < 1 else {}
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for p in parameters:
        alike = (0.0 if p in spared else config.weight_decay, scale.get(p, 1.0))
        found.setdefault(alike, []).append(p)
    return [Group(same, *alike) for alike, same in found.items()]


def undecayed(module: nn.Module) -> set[nn.Parameter]:
    """Biases, parameters of norms, others of one dimension, and those that a module in it names in ``no_weight_decay()``."""
    named = dict(module.named_parameters())
    found = {p for name, p in named.items() if p.dim() <= 1 or name.rpartition(".")[2] == "bias"}
    found |= {p for m in module.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    for teller in _tellers(module, "no_weight_decay"):
        patterns = list(teller.no_weight_decay())  # type: ignore[operator]
        found |= {p for name, p in teller.named_parameters() if any(fnmatch(name, pattern) for pattern in patterns)}
    return found


def _tellers(module: nn.Module, method: str) -> Iterator[nn.Module]:
    """The outermost modules that have such a method: one speaks for all that is in it."""
    if callable(getattr(module, method, None)):
        yield module
        return
    for child in module.children():
        yield from _tellers(child, method)


def factors(network: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Of the learning rate: ``decay`` to the power of how many blocks lie behind, 1 in the head.

    Raises:
        ValueError: the network does not tell its blocks, or names one that it does not have.
    """
    whole = set(network.parameters())
    for method in ("blocks_in_order", "group_matcher"):
        for teller in _tellers(network, method):
            if set(teller.parameters()) == whole:
                return _ours(teller, decay) if method == "blocks_in_order" else _timms(teller, decay)
    spec = getattr(getattr(network, "config", None), "spec", type(network).__name__)
    raise ValueError(
        f"network {user.shown(spec)} does not tell its blocks, which optim.layer_decay = {decay:g} needs: give its module a method "
        "blocks_in_order() (docs/adding-a-network.md), take a named network or one of timm's, or leave out --optim.layer-decay"
    )


def _ours(network: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    blocks: Sequence[Sequence[str]] = network.blocks_in_order()  # type: ignore[operator]
    named = dict(network.named_parameters())
    found = dict.fromkeys(named.values(), 1.0)
    for i, block in enumerate(blocks):
        for part in block:
            inside = [p for name, p in named.items() if f"{name}.".startswith(f"{part}.")]
            if not inside:
                raise ValueError(f"blocks_in_order() of {type(network).__name__} names {part!r}, where no parameter is")
            found |= dict.fromkeys(inside, decay ** (len(blocks) - i))
    return found


def _timms(network: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    groups = timms_optim("optim.layer_decay of this network").param_groups_layer_decay(network, layer_decay=decay)
    return {p: float(group["lr_scale"]) for group in groups for p in group["params"]}


def timms_optim(what: str) -> Any:
    """The module ``timm.optim``.

    Raises:
        ValueError: the library, which ``what`` needs, is not there.
    """
    try:
        from timm import optim
    except ImportError as error:
        raise ValueError(f"{what} needs the timm library; run: pip install timm") from error
    return optim
