"""Weights from elsewhere: files of plain tensors, their layouts, and what turns their names into ours.

Two published layouts are known by their names: TRADES' WRN-34-10 (``block1.layer.0.conv1``, pixels as they are) and
DeepMind's wide ResNets (``layer.0.block.0.conv_0``, normalised by CIFAR-10's statistics, convolutions of stride 2 padded at the
end only). Others need a layout of their own: regular expressions and what replaces them.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.agents import networks
from sparring.agents.checkpoint import CheckpointError
from sparring.agents.layouts import DEEPMIND, PLAIN, Layout
from sparring.agents.networks import Network, NetworkConfig

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")  # also model.pth.tar
READ = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2")  # of .safetensors
TAKEN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
NORMALISATION = {"mean": "mean", "mu": "mean", "new_mean": "mean", "std": "std", "sigma": "std", "new_std": "std"}
COPY = "attacker."  # a second copy of the network, in files of MadryLab's robustness library
NESTED = (
    "ema",
    "state_dict",
    "model",
    "model_state_dict",
    "net",
)  # names under which scripts keep weights; the average first
FIRST = 5  # tensors named in an error


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
    own_names = set(networks.build(replace(config, spec=spec)).state_dict()) - {"mean", "std"}
    rest, before = normalisation(tensors, own_names, config.channels)
    if layout.mean is None or layout.std is None:
        own_mean, own_std = agreed(before, path)
        layout = replace(layout, mean=layout.mean or own_mean, std=layout.std or own_std)
    mean, std = layout.mean or (0.0,), layout.std or (1.0,)
    if {len(mean), len(std)} - {1, config.channels}:
        raise ValueError(
            f"{path}: {len(mean)} means and {len(std)} deviations do not suit images of {config.channels} channels"
        )
    mean, std = (v * config.channels if len(v) == 1 else v for v in (mean, std))
    model = networks.build(replace(config, spec=spec, mean=mean, std=std))
    own = model.state_dict()
    renamed = unwrapped(_renamed(rest, layout), own)
    filled = {k for k in own if k in ("mean", "std") or k.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in renamed and k not in filled]
    surplus = [k for k in renamed if k not in own]
    if missing or surplus:
        raise CheckpointError(
            f"{path} does not fit {config.spec}: {len(missing)} tensors are missing ({some(missing)}), "
            f"{len(surplus)} have no place ({some(surplus)}). Another --network, or a file that maps the names?"
        )
    for name, tensor in renamed.items():
        if own[name].is_floating_point() and tensor.dtype not in TAKEN:
            raise CheckpointError(
                f"{path}: {name} has elements of {str(tensor.dtype).removeprefix('torch.')}; quantised weights are not taken, only "
                "float64, float32, float16 and bfloat16"
            )
    try:
        model.load_state_dict(own | renamed)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit {config.spec} with {config.classes} classes and {config.channels} channels: {error}"
        ) from error
    return model


Normalisations = dict[str, dict[str, tuple[float, ...]]]  # where in the file -> mean and std


def normalisation(
    tensors: Mapping[str, Tensor], own: set[str], channels: int
) -> tuple[dict[str, Tensor], Normalisations]:
    """The tensors without those of a normalisation in front of the network, and what these say.

    Args:
        own: names that the network itself has: a tensor of such a name is no normalisation in front of it.
    """
    found: Normalisations = {}
    rest = {}
    for name, tensor in tensors.items():
        place, _, last = name.rpartition(".")
        ours = any(name == other or name.endswith(f".{other}") for other in own)
        if last in NORMALISATION and tensor.numel() in (1, channels) and not ours:
            found.setdefault(place, {})[NORMALISATION[last]] = tuple(tensor.double().flatten().tolist())
        else:
            rest[name] = tensor
    return rest, found


def agreed(found: Normalisations, path: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """The one mean and std that a file says; None where it says nothing.

    Raises:
        CheckpointError: two that differ, one without the other, or one for other pixels than [0, 1].
    """
    if not found:
        return None, None
    first = next(iter(found.values()))
    if any(other != first for other in found.values()) or set(first) != {"mean", "std"}:
        seen = ", ".join(f"{place or 'top level'}: {values}" for place, values in found.items())
        raise CheckpointError(
            f"{path} holds a normalisation that is not one mean and std ({seen}); say it in a --mapping"
        )
    if max(first["mean"]) > 1 or min(first["std"]) <= 0:
        raise CheckpointError(
            f"{path} normalises by mean {first['mean']} and std {first['std']}, which are not of pixels in [0, 1]; give them in a "
            "--mapping, divided by 255 if they are of bytes"
        )
    return first["mean"], first["std"]


def unwrapped(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without a second copy of the network, and without the name under which a wrapper holds it (``model.``, ``1.``)."""
    rest = {k: v for k, v in tensors.items() if not k.startswith(COPY)} or tensors
    while True:
        tops = {k.partition(".")[0] for k in rest}
        wrapped = len(tops) == 1 and all("." in k for k in rest) and not any(k.partition(".")[0] in tops for k in own)
        if not wrapped:
            return rest
        rest = {k.partition(".")[2]: v for k, v in rest.items()}


def some(names: list[str]) -> str:
    return ", ".join(names[:FIRST]) + (" ..." if len(names) > FIRST else "") if names else "none"


def stripped(path: Path, model: Network) -> str | None:
    """What of a file's names and tensors a network does not have, in one sentence; None where it is named as the network is."""
    names, own = list(read_tensors(path)), set(model.state_dict())
    if all(name in own or name.endswith("num_batches_tracked") for name in names):
        return None
    plain = [name for name in names if any(name.endswith(f".{k}") for k in own)]
    wrapper = plain[0].removesuffix(max((k for k in own if plain[0].endswith(f".{k}")), key=len)) if plain else ""
    mean, std = (tuple(round(v, 4) for v in getattr(model, k).flatten().tolist()) for k in ("mean", "std"))
    said = [f"names without {wrapper!r}"] if wrapper else []
    said += [f"normalised by mean {mean} and std {std}"] if (set(mean), set(std)) != ({0.0}, {1.0}) else []
    return f"{path}: {', '.join(said)}" if said else None


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


def _check_types(content: bytes, path: Path) -> None:
    """Name element types for which there is no tensor; safetensors 0.8 writes some that it reads as a bare KeyError."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] not in READ:
            raise CheckpointError(
                f"{path}: {name} has elements of {entry['dtype']}; quantised weights are not taken, only F64, F32, F16 and BF16"
            )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Weights by name from ``.safetensors`` or from a ``.pt`` of plain tensors.

    Raises:
        CheckpointError: missing, damaged, a web page, or more than tensors.
    """
    from safetensors.torch import load as deserialise

    try:
        with path.open("rb") as f:
            start = f.read(256)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if re.match(rb"\s*<(!doctype|html|head|\?xml)", start, re.IGNORECASE):
        raise CheckpointError(f"{path} is a web page, not a file of weights: the download went wrong")
    try:
        if path.suffix == ".safetensors":
            content = path.read_bytes()
            _check_types(content, path)
            values: Any = deserialise(content)
        else:
            values = torch.load(path, weights_only=True, map_location="cpu")
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:  # torch's answer to anything but tensors, and to what is no file of its own
        if start[:2] not in (b"PK", b"\x80\x02"):
            raise CheckpointError(
                f"{path} is not a file that torch.save wrote; it begins with {start[:20]!r}"
            ) from error
        raise CheckpointError(
            f"{path} holds more than tensors and is not read: objects pickled with their classes run code when they are read. Where it was "
            "made: torch.save(model.state_dict(), 'weights.pt')"
        ) from error
    except Exception as error:  # damaged bytes come out of torch.load as KeyError, AttributeError, AssertionError, ...
        raise CheckpointError(f"{path} is damaged: {_first_line(error)}") from error
    for name in NESTED:
        if isinstance(values, Mapping) and isinstance(values.get(name), Mapping):
            values = values[name]
    if not isinstance(values, Mapping) or not all(isinstance(v, Tensor) for v in values.values()):
        raise CheckpointError(f"{path} holds no mapping of names to tensors")
    return dict(values)
