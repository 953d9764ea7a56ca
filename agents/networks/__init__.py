"""Networks by name. ``build(config)`` makes the one that ``config.spec`` names, for example ``small_cnn:width=16``."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable
from functools import partial

import torch

from sparring.agents.networks import foreign, resnet
from sparring.agents.networks.from_timm import arguments, from_timm
from sparring.agents.networks.mobilenet import MobileNetV2
from sparring.agents.networks.network import Network, NetworkConfig
from sparring.agents.networks.small_cnn import SmallCNN
from sparring.agents.networks.wide_resnet import WideResNet
from sparring.trainers import user
from sparring.trainers.data import Dataset
from sparring.trainers.rng import seeded

__all__ = ["NETWORKS", "Network", "NetworkConfig", "build", "configure", "timm_arguments"]

NETWORKS: dict[str, Callable[..., Network]] = {
    "small_cnn": SmallCNN,
    "resnet18": resnet.resnet18,
    "resnet18_lbgat": resnet.resnet18_lbgat,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet56": resnet.resnet56,
    "preact_resnet18": resnet.preact_resnet18,
    "preact_resnet34": resnet.preact_resnet34,
    "wide_resnet": WideResNet,
    "wrn-16-4": partial(WideResNet, depth=16, widen=4),
    "wrn-22-6": partial(WideResNet, depth=22, widen=6, swish=True),
    "wrn-28-10": partial(WideResNet, depth=28, widen=10),
    "wrn-34-10": partial(WideResNet, depth=34, widen=10),
    "wrn-34-20": partial(WideResNet, depth=34, widen=20),
    "wrn-70-16": partial(WideResNet, depth=70, widen=16),
    "mobilenet_v2": MobileNetV2,
}
OUTSIDE = re.compile(r",(?![^(\[]*[)\]])")  # commas between options, not those inside a tuple


def configure(spec: str, dataset: Dataset) -> NetworkConfig:
    """The configuration of network ``spec`` for the images and classes of ``dataset``."""
    channels, height, width = dataset.shape
    mean, std = dataset.statistics
    return NetworkConfig(spec, channels, height, width, len(dataset.classes), tuple(mean), tuple(std))


def build(config: NetworkConfig, *key: int | str) -> Network:
    """A network with fresh weights drawn from ``key``; torch's global random state stays as it was.

    Raises:
        ValueError: unknown network or option, with what is allowed.
    """
    maker, options = parse(config.spec)
    with seeded("init", *key):
        return maker(config, **options)


def widths(config: NetworkConfig) -> list[int]:
    """Channels of each of the network's blocks, the stem's first; computed without weights.

    Raises:
        ValueError: the network does not tell its blocks.
    """
    with torch.device("meta"):
        maker, options = parse(config.spec)
        maps, _ = maker(config, **options).eval().features(torch.zeros(1, config.channels, config.height, config.width))
    return [m.shape[1] for m in maps]


def parse(spec: str) -> tuple[Callable[..., Network], dict[str, object]]:
    """``"small_cnn:width=16"``, ``"timm:NAME[,OPTION=VALUE]"`` or ``"file.py:function"`` -> what builds the network, its options.

    Raises:
        ValueError: unknown network or option, with what is allowed.
    """
    if user.is_function(spec):
        return foreign.from_file(spec), {}
    if spec.startswith("timm:"):
        name, _, rest = spec.removeprefix("timm:").partition(",")
        return from_timm(name, _options(rest, f"timm:{name},patch_size=4")), {}
    if spec.endswith(".py"):
        raise ValueError(f"network {spec!r} names a file; add its function: {spec}:FUNCTION")
    if spec.startswith("hf:"):
        raise ValueError(
            f"network {spec!r} names weights, with their network; start from them: --agents.ROLE.init {spec}"
        )
    name, _, rest = spec.partition(":")
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"network {name!r} is unknown. {hint}Allowed: {', '.join(NETWORKS)}, timm:NAME, file.py:function"
        )
    maker = NETWORKS[name]
    allowed = {p.name: p.default for p in inspect.signature(maker).parameters.values() if p.kind is p.KEYWORD_ONLY}
    options = _options(rest, f"{name}:{next(iter(allowed), 'width')}=16")
    for key, value in options.items():
        if key not in allowed:
            raise ValueError(f"network {name} has no option {key!r}; allowed: {', '.join(allowed) or 'none'}")
        _check_option(name, key, value, allowed[key])
    return maker, options


def timm_arguments(config: NetworkConfig) -> tuple[str, dict[str, object]] | None:
    """The architecture and the keywords by which timm itself makes the network; None of one that is not timm's."""
    if not config.spec.startswith("timm:"):
        return None
    name, _, rest = config.spec.removeprefix("timm:").partition(",")
    return name, arguments(name, _options(rest, ""), config)


def _options(text: str, example: str) -> dict[str, object]:
    """``"width=16,depth=2"`` -> values by name; a tuple, as timm's ``depths=(2,2)``, is one value.

    Raises:
        ValueError: another form.
    """
    options: dict[str, object] = {}
    for item in filter(None, re.split(OUTSIDE, text)):
        key, _, value = item.partition("=")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ValueError(f"network option {item!r} is not KEY=NUMBER; write for example {example}") from None
    return options


def _check_option(name: str, key: str, value: object, default: object) -> None:
    """Refuse what is no truth value where one is expected, and else what is no number of layers, channels or the like."""
    truth = isinstance(default, bool)
    if isinstance(value, bool) != truth or (not truth and not (isinstance(value, int) and value >= 1)):
        kind = "True or False" if truth else "a whole number of 1 or more"
        raise ValueError(f"network {name}: {key} = {value!r} is not allowed; expected {kind}")
