"""Weights under timm's own names: as they are, or as a start for other images and classes.

file --names--> timm's network --(a start only) interpolated embeddings, channels, a new head--> ours, and sentences about each

Pixels are normalised as the file says, else as the config.json beside it does, else as timm does for weights of this name.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sparring.agents import networks
from sparring.agents.checkpoint import CheckpointError
from sparring.agents.foreign_weights import TAKEN, agreed, normalisation, read_tensors, some, unwrapped
from sparring.agents.hub_folder import FETCHES
from sparring.agents.networks import Network, NetworkConfig

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # of a folder as timm's save_for_hf writes it
SHAPED = ("img_size", "in_chans", "num_classes")  # arguments that the data set decides
COLOURS = 3  # channels of what timm's weights were trained on
WORD = re.compile(r"[\w.-]+")


def is_timms(spec: str | None) -> bool:
    """Whether a network is one of timm's."""
    return spec is not None and spec.startswith("timm:")


def is_folder(path: Path) -> bool:
    """Whether a folder holds weights as timm writes them, and not one of our own."""
    own = (path / name for name in ("state.json", "MANIFEST.json"))
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file() and not any(p.exists() for p in own)


def network_of(folder: Path, size: tuple[int, int]) -> str:
    """What a folder's weights are of, as ``timm:vit_tiny_patch16_224,depth=4``; with its own patches where images of ``size`` are its own.

    Raises:
        CheckpointError: config.json names no architecture, or arguments that a network's name cannot hold.
    """
    told = _told(folder)
    name, given = told.get("architecture"), dict(told.get("model_args") or {})
    if not isinstance(name, str) or not WORD.fullmatch(name):
        raise CheckpointError(f"{folder / CONFIG} names no architecture of timm's: {name!r}")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k not in SHAPED}
    for key, value in options.items():
        parts = value if isinstance(value, tuple) else (value,)
        plain = all(v is None or type(v) in (bool, int, float) or (type(v) is str and WORD.fullmatch(v)) for v in parts)
        if not plain or not WORD.fullmatch(key) or key in ("pretrained", *FETCHES):
            raise CheckpointError(
                f"{folder / CONFIG}: model_args {key} = {value!r} is not taken; name the network yourself"
            )
    seen = _pretrained(told).get("input_size") or (0,)
    own = {"pretrained": False} if tuple(seen[1:]) == size else {}
    return ",".join([f"timm:{name}", *(f"{k}={v!r}" for k, v in {**options, **own}.items())])


def load(path: Path, config: NetworkConfig) -> Network:
    """The network that ``config.spec`` names with a file's weights, which must fit as they are; errors as :func:`start`."""
    fitting = _Fitting(path, config)
    fitting.check(hint="; weights for other images or classes can be a start only: --agents.ROLE.init")
    return fitting.loaded()


def start(path: Path, config: NetworkConfig, *, seed: int, role: str) -> tuple[Network, tuple[str, ...]]:
    """The same fitted to the images and classes of ``config``, and a sentence about everything that is not the file's.

    Args:
        seed: draws, with the role, the head where the file's is for other classes, or where it has none.

    Raises:
        CheckpointError: the file cannot be read, or does not fit otherwise; names what is missing or left over.
        ValueError: the network is unknown.
    """
    fitting = _Fitting(path, config, seed, role)
    fitting.interpolate()
    fitting.take_channels()
    fitting.take_head()
    fitting.check()
    return fitting.loaded(), tuple(f"{path}: {said}" for said in fitting.said)


class _Fitting:
    """Tensors on their way from a file into a network; ``said`` has a sentence for every change."""

    def __init__(self, path: Path, config: NetworkConfig, *key: int | str) -> None:
        self.path, self.key, self.said = path, key, list[str]()
        self.inner = _inner(networks.build(config, *key))
        self.own = self.inner.state_dict()
        named = {k.removeprefix("module."): v for k, v in read_tensors(path).items()}
        rest, before = normalisation(named, set(self.own), config.channels)
        if not before:
            rest, before = normalisation(named, set(self.own), COLOURS)
        self.tensors = unwrapped(rest, self.own)
        self.config = self._normalised(config, agreed(before, path))

    def _normalised(self, config: NetworkConfig, in_file: tuple[Any, Any]) -> NetworkConfig:
        import timm

        name = config.spec.removeprefix("timm:").partition(",")[0]
        beside = _pretrained(_told(self.path.parent)) if (self.path.parent / CONFIG).is_file() else {}
        mean, std = in_file if in_file[0] is not None else (beside.get("mean"), beside.get("std"))
        if mean is None or std is None:
            known = timm.get_pretrained_cfg(name)
            mean, std = known.mean, known.std
        mean, std = (tuple(map(float, v)) * (config.channels if len(v) == 1 else 1) for v in (mean, std))
        if len(mean) != config.channels:
            self.said.append(f"normalised by {len(mean)} means; images of {config.channels} get the data set's own")
            return config
        shown = [tuple(round(v, 4) for v in values) for values in (mean, std)]
        self.said.append(f"normalised by mean {shown[0]} and std {shown[1]}")
        return replace(config, mean=mean, std=std)

    def interpolate(self) -> None:
        """Embeddings for another size of image or patch, by timm's own filter for this architecture."""
        if {k: v.shape for k, v in self.tensors.items()} == {k: v.shape for k, v in self.own.items()}:
            return
        by = getattr(sys.modules[type(self.inner).__module__], "checkpoint_filter_fn", None)
        if by is None:
            return
        before = self.tensors
        try:
            self.tensors = dict(by(dict(before), self.inner))
        except Exception as error:  # whatever it raises on names and shapes that it does not know
            raise CheckpointError(
                f"{self.path} does not fit {self.config.spec}: timm's filter says {error!r}"
            ) from error
        places = {v.data_ptr() for v in self.tensors.values()}
        lost = [k for k, v in before.items() if k not in self.tensors and v.data_ptr() not in places]
        if lost:
            self.said.append(f"timm leaves out {some(lost)}")
        for name, old in before.items():
            now = self.tensors.get(name, old)
            if now.shape != old.shape:
                self.said.append(f"{name} {list(old.shape)} is interpolated to {list(now.shape)}")

    def take_channels(self) -> None:
        """A first convolution for another number of channels."""
        from timm.models import adapt_input_conv

        for name in (f"{n}.weight" for n in _names(self.inner, "first_conv")):
            theirs, ours = self.tensors.get(name), self.own.get(name)
            if theirs is None or ours is None or theirs.dim() != 4 or theirs.shape[1] == ours.shape[1]:
                continue
            given, wanted = theirs.shape[1], ours.shape[1]
            if given != COLOURS or wanted != self.config.channels:
                continue
            self.tensors[name] = adapt_input_conv(wanted, theirs, base_chans=given)
            self.said.append(f"{name} takes {wanted} channels instead of {given}, as timm adapts it")

    def take_head(self) -> None:
        """A head for other classes, as it was drawn."""
        for name in _names(self.inner, "classifier"):
            parts = [k for k in (f"{name}.weight", f"{name}.bias") if k in self.own]
            theirs = self.tensors.get(f"{name}.weight")
            fits = [k in self.tensors and self.tensors[k].shape == self.own[k].shape for k in parts]
            other = theirs is None or theirs.shape[1:] == self.own[f"{name}.weight"].shape[1:] if parts else False
            if all(fits) or not other:
                continue
            self.tensors |= {k: self.own[k] for k in parts}
            was = "the file has none" if theirs is None else f"the file's is for {len(theirs)}"
            self.said.append(f"{name} is new, for {self.config.classes} classes, drawn by seed {self.key[0]}; {was}")

    def check(self, *, hint: str = "") -> None:
        """Refuse anything missing, left over, of another shape or of no weights' type."""
        missing = [k for k in self.own if k not in self.tensors and not k.endswith("num_batches_tracked")]
        surplus = [k for k in self.tensors if k not in self.own]
        other = [
            f"{k} is {list(v.shape)}, the network's {list(self.own[k].shape)}"
            for k, v in self.tensors.items()
            if k in self.own and v.shape != self.own[k].shape
        ]
        if missing or surplus or other:
            raise CheckpointError(
                f"{self.path} does not fit {self.config.spec} with {self.config.classes} classes: {len(missing)} tensors are missing "
                f"({some(missing)}), {len(surplus)} have no place ({some(surplus)}), {len(other)} have another shape ({some(other)}){hint}"
            )
        wrong = [k for k, v in self.tensors.items() if self.own[k].is_floating_point() and v.dtype not in TAKEN]
        if wrong:
            kind = str(self.tensors[wrong[0]].dtype).removeprefix("torch.")
            raise CheckpointError(f"{self.path}: {wrong[0]} has elements of {kind}; quantised weights are not taken")

    def loaded(self) -> Network:
        model = networks.build(self.config, *self.key)
        _inner(model).load_state_dict(self.own | self.tensors)
        return model.eval()


def _inner(model: Network) -> nn.Module:
    inner = model.model
    assert isinstance(inner, nn.Module)
    return inner


def _names(model: nn.Module, what: str) -> Sequence[str]:
    """Modules that timm names in a network's pretrained_cfg."""
    found = getattr(model, "pretrained_cfg", {}).get(what) or ()
    return (found,) if isinstance(found, str) else tuple(found)


def _told(folder: Path) -> Mapping[str, Any]:
    try:
        told = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(told, dict):
        raise CheckpointError(f"{folder / CONFIG} holds no object")
    return told


def _pretrained(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """What config.json says of images; older ones have it at the top."""
    found = told.get("pretrained_cfg", told)
    return found if isinstance(found, dict) else {}
