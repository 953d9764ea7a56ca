"""Weights from elsewhere: files of plain tensors, their layouts, and what turns their names into ours.

Two published layouts are known by their names: TRADES' WRN-34-10 (``block1.layer.0.conv1``, pixels as they are) and
DeepMind's wide ResNets (``layer.0.block.0.conv_0``, normalised by CIFAR-10's statistics, convolutions of stride 2 padded at the
end only). Others need a layout of their own: regular expressions and what replaces them.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.agents import networks
from sparring.agents.checkpoint import CheckpointError
from sparring.agents.networks import Network, NetworkConfig

SUFFIXES = (".safetensors", ".pt", ".pth")
NESTED = ("state_dict", "model", "model_state_dict", "net")  # names under which training scripts keep the weights


@dataclass(frozen=True)
class Layout:
    """How a file names its tensors, and what its network expects.

    Args:
        keys: pairs of a regular expression and its replacement, each applied to every name in turn.
        drop: names that match are left out.
        mean, std: per channel, of pixels in [0, 1], which the network subtracts and divides by.
        option: appended to the network's name, where its arithmetic differs from ours.
    """

    keys: tuple[tuple[str, str], ...] = ()
    drop: str | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    option: str | None = None


PLAIN = Layout(
    drop=r"sub_block1\.|num_batches_tracked$"
)  # also TRADES': sub_block1 exists in its file and is never used
DEEPMIND = Layout(
    keys=(
        (r"^init_conv\.", "conv1."),
        (r"^layer\.0\.block\.", "block1.layer."),
        (r"^layer\.1\.block\.", "block2.layer."),
        (r"^layer\.2\.block\.", "block3.layer."),
        (r"\.batchnorm_0\.", ".bn1."),
        (r"\.batchnorm_1\.", ".bn2."),
        (r"\.conv_0\.", ".conv1."),
        (r"\.conv_1\.", ".conv2."),
        (r"\.shortcut\.", ".convShortcut."),
        (r"^batchnorm\.", "bn1."),
        (r"^logits\.", "fc."),
    ),
    drop=r"num_batches_tracked$|^mean$|^std$",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2471, 0.2435, 0.2616),
    option="same=True",
)


def load(path: Path, config: NetworkConfig, *, layout: Layout | None = None) -> Network:
    """The network that ``config.spec`` names with the weights of a file, normalised as the file's layout says.

    Args:
        layout: by default the published one that the names show.

    Raises:
        CheckpointError: the file cannot be read, or its tensors do not fit; names those that are missing or left over.
        ValueError: the network is unknown.
    """
    tensors = {k.removeprefix("module."): v for k, v in read_tensors(path).items()}
    layout = layout or (DEEPMIND if "init_conv.weight" in tensors else PLAIN)
    spec = config.spec
    if layout.option:
        spec += ("," if ":" in spec else ":") + layout.option
    if {len(layout.mean), len(layout.std)} - {1, config.channels}:
        raise ValueError(
            f"{path}: {len(layout.mean)} means and {len(layout.std)} deviations do not suit images of {config.channels} channels"
        )
    mean, std = (v * config.channels if len(v) == 1 else v for v in (layout.mean, layout.std))
    model = networks.build(replace(config, spec=spec, mean=mean, std=std))
    renamed = _renamed(tensors, layout)
    own = model.state_dict()
    filled = {k for k in own if k in ("mean", "std") or k.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in renamed and k not in filled]
    surplus = [k for k in renamed if k not in own]
    if missing or surplus:
        raise CheckpointError(
            f"{path} does not fit {config.spec}: {len(missing)} tensors are missing ({', '.join(missing[:3])} ...), "
            f"{len(surplus)} have no place ({', '.join(surplus[:3])} ...). Another --network, or a file that maps the names?"
        )
    try:
        model.load_state_dict(own | renamed)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit {config.spec} with {config.classes} classes and {config.channels} channels: {error}"
        ) from error
    return model


def _renamed(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        if layout.drop and re.search(layout.drop, name):
            continue
        for pattern, replacement in layout.keys:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Weights by name from ``.safetensors`` or from a ``.pt`` of plain tensors.

    Raises:
        CheckpointError: missing, damaged, a web page, or more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialise

    try:
        with path.open("rb") as f:
            start = f.read(256)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if re.match(rb"\s*<(!doctype|html|head|\?xml)", start, re.IGNORECASE):
        raise CheckpointError(f"{path} is a web page, not a file of weights: the download went wrong")
    try:
        values: Any = (
            deserialise(path.read_bytes())
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True, map_location="cpu")
        )
    except (SafetensorError, RuntimeError, EOFError, IndexError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {_first_line(error)}") from error
    except pickle.UnpicklingError as error:  # torch's answer to anything but tensors, and to what is no file of its own
        if start[:2] not in (b"PK", b"\x80\x02"):
            raise CheckpointError(
                f"{path} is not a file that torch.save wrote; it begins with {start[:20]!r}"
            ) from error
        raise CheckpointError(
            f"{path} holds more than tensors and is not read: {str(error).splitlines()[0]}"
        ) from error
    for name in NESTED:
        if isinstance(values, Mapping) and isinstance(values.get(name), Mapping):
            values = values[name]
    if not isinstance(values, Mapping) or not all(isinstance(v, Tensor) for v in values.values()):
        raise CheckpointError(f"{path} holds no mapping of names to tensors")
    return dict(values)
