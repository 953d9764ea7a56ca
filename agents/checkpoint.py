"""One agent <-> one folder: model.safetensors, optim.safetensors, state.json. Nothing is pickled, loading never unpickles.

A network alone has the user's file that it is made by beside it; an agent's network finds that in its run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sparring.agents import networks
from sparring.agents.networks import Network, NetworkConfig
from sparring.agents.state import AgentState
from sparring.trainers import keeping, user
from sparring.trainers.files import sha256, to_json, write

__all__ = [
    "CheckpointError",
    "load",
    "load_buffers",
    "load_model",
    "network_config",
    "save",
    "save_buffers",
    "save_model",
]
__all__ += ["FORMAT", "sha256", "to_json", "write"]  # of trainers/files.py, which needs no torch

FORMAT = 1


class CheckpointError(Exception):
    """A checkpoint is missing, incomplete, altered or of another format."""


def save(state: AgentState, network: NetworkConfig, folder: Path) -> dict[str, str]:
    """Write an agent into ``folder`` and return the sha256 of each file.

    Raises:
        OSError: the disk is full, or the checkpoint's folder is gone; it is never made anew.
    """
    _within(folder)
    facts = {
        "format": FORMAT,
        "t": state.t,
        "method": state.method,
        "lr_factor": state.lr_factor,
        "extra": sorted(state.extra),
        "network": network.to_json(),
    }
    return _write(folder, {"model": state.model, "optim": state.optim, **state.extra}, facts)


def save_model(model: Network, folder: Path) -> dict[str, str]:
    """Write a network alone, so that :func:`load_model` finds it; the sha256 of each file."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    written = _write(folder, {"model": tensors}, {"format": FORMAT, "network": model.config.to_json()})
    return written | {name: sha256(folder / name) for name in keeping.keep(user.codes([model.config.spec]), folder)}


def save_buffers(buffers: dict[str, Tensor], lane: int, folder: Path) -> dict[str, str]:
    """Write what a lane other than the first has of its own: batch-norm statistics; errors as :func:`save`."""
    _within(folder)
    return _write(folder, {f"buffers-{lane}": buffers}, None)


def load_buffers(model: nn.Module, lane: int, folder: Path) -> None:
    """Read back what :func:`save_buffers` wrote.

    Raises:
        CheckpointError: the checkpoint was written with fewer lanes, or the file is damaged.
    """
    for name, value in _tensors(folder, f"buffers-{lane}").items():
        model.get_buffer(name).copy_(value)


def _within(folder: Path) -> None:
    """Make ``agents/NAME`` in a checkpoint's folder, which must be there: its run may have been moved meanwhile."""
    folder.parent.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)


def _write(folder: Path, tensors: Mapping[str, dict[str, Tensor]], facts: object | None) -> dict[str, str]:
    from safetensors.torch import save as serialise

    folder.mkdir(parents=True, exist_ok=True)
    contents = {f"{k}.safetensors": serialise(v) for k, v in tensors.items()}
    contents |= {} if facts is None else {"state.json": to_json(facts)}
    return {name: write(folder / name, content) for name, content in contents.items()}


def load(folder: Path) -> AgentState:
    """Read an agent back.

    Raises:
        CheckpointError: a file is missing or cannot be read; says which.
    """
    facts = _facts(folder, "t", "method", "lr_factor", "extra")
    tensors = {name: _tensors(folder, name) for name in ("model", "optim", *facts["extra"])}  # type: ignore[misc]
    model, optim = tensors.pop("model"), tensors.pop("optim")
    return AgentState(facts["t"], model, optim, facts["method"], facts["lr_factor"], tensors)  # type: ignore[arg-type]


def network_config(path: Path) -> NetworkConfig:
    """The configuration of a saved agent's network; ``path`` as for :func:`load_model`."""
    folder = path.parent if path.suffix == ".safetensors" else path
    try:
        config = NetworkConfig.from_json(_facts(folder)["network"])  # type: ignore[arg-type]
    except TypeError as error:
        raise CheckpointError(f"{folder / 'state.json'}: network: {error}") from error
    try:
        keeping.find(config.spec, near=folder)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return config


def load_model(path: Path) -> Network:
    """The network of a saved agent in eval mode: images in [0, 1] -> logits.

    Args:
        path: the agent's folder, or one file of weights in it: ``swa.safetensors`` for an average.

    Raises:
        CheckpointError: a file is missing or cannot be read, or the weights do not fit the network.
    """
    folder, name = (path.parent, path.stem) if path.suffix == ".safetensors" else (path, "model")
    config = network_config(path)
    _check_shapes(config, folder / f"{name}.safetensors", prefix="" if name == "model" else "network.")
    model = networks.build(config)
    tensors = _tensors(folder, name)
    if name != "model":  # an average: the network, and how often it was averaged
        tensors = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder / name}.safetensors does not fit the network {model.config.spec}: {error}"
        ) from error
    return model.eval()


def _check_shapes(config: NetworkConfig, path: Path, *, prefix: str) -> None:
    """Compare what the network has with what the file says that it holds, before room is made for either.

    Raises:
        CheckpointError: they differ; the first tensor that does.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with torch.device("meta"):
            wanted = {key: list(value.shape) for key, value in networks.build(config).state_dict().items()}
    except (
        Exception
    ):  # a network of somebody's own may need real numbers to be made; its weights are compared when they are read
        return
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in list(file.keys()) if name.startswith(prefix)]
            held = {name.removeprefix(prefix): file.get_slice(name).get_shape() for name in names}
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    for key in [*wanted, *held]:
        if wanted.get(key) != held.get(key):
            seen, expected = (shape if shape is not None else "nothing" for shape in (held.get(key), wanted.get(key)))
            raise CheckpointError(
                f"{path} does not fit the network {config.spec}: {key} is {seen}, the network has {expected}"
            )


def _facts(folder: Path, *fields: str) -> dict[str, object]:
    path = folder / "state.json"
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} holds a {type(facts).__name__}, not a mapping")
    if facts.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {facts.get('format')!r}; this version reads format {FORMAT}")
    for name in ("network", *fields):
        if name not in facts:
            raise CheckpointError(f"{path} has no {name}; it is damaged, or of another version")
    return facts


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialise

    path = folder / f"{name}.safetensors"
    try:
        return dict(deserialise(path.read_bytes()))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
