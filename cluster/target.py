"""What is evaluated: networks of a run, or one from elsewhere, with the images and the radius that belong to it."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agents import networks
from agents.checkpoint import to_json, write
from cluster.errors import BrokenCheckpoint, DataError, UsageError
from cluster.models import chosen_agents, recorded_subject, subject
from cluster.run_folder import RunFolder
from trainers import datasets, user
from trainers.config import DataConfig, Threat

EVALUATED = Path("evaluated")  # folder of networks from elsewhere
NESTED = ("state_dict", "model", "model_state_dict", "net")  # names under which training scripts keep the weights


@dataclass(frozen=True)
class Target:
    """Networks by name, each with the sha256 of its weights."""

    path: Path  # evaluations go to path/evaluation
    data: DataConfig
    seed: int
    threats: tuple[Threat, ...]
    subjects: dict[str, tuple[nn.Module, dict[str, Any]]]


def of_run(folder: RunFolder, agents: Sequence[str] = (), *, checkpoint: str = "best") -> Target:
    """A run's products, or the named agents.

    Raises:
        UsageError: no such agent.
    """
    config = folder.config
    chosen = {a: subject(folder, a, checkpoint=checkpoint) for a in chosen_agents(folder, agents)}
    return Target(folder.path, config.data, config.seed, config.threats, chosen)


def is_foreign(spec: str) -> bool:
    """Whether ``spec`` is ``file.py:function`` or a file of weights."""
    return user.is_function(spec) or Path(spec).suffix in (".safetensors", ".pt", ".pth")


def foreign(spec: str, *, network: str | None, data: DataConfig, seed: int = 0) -> Target:
    """A network of anybody's: ``file.py:function`` that returns a module, or weights for a network that we can build.

    Args:
        spec: the function gets no argument; a ``.pt`` is read as plain tensors only, never unpickled.
        network: for a file of weights, what they are of, for example ``wrn-34-10``; it gets pixels in [0, 1] as they are.
        data: the test images.

    Raises:
        UsageError: no network named, or a file that holds none.
        BrokenCheckpoint: the weights do not fit.
    """
    try:
        model = user.function(spec)() if user.is_function(spec) else _weights(Path(spec), network, data)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"{spec} returned {type(model).__name__}; expected a torch.nn.Module: pixels in [0, 1] -> logits"
        )
    name = user.absolute(spec) if user.is_function(spec) else str(Path(spec).resolve())
    stem = Path(spec.rpartition(":")[0] if user.is_function(spec) else spec).stem
    path = EVALUATED.resolve() / stem
    facts = {"spec": name, "network": network, "data": asdict(data), "seed": seed}
    known = path / "model.json"
    if known.exists() and known.read_bytes() != to_json(facts):
        raise UsageError(
            f"{path} holds evaluations of another network or other data; rename the file or move that folder"
        )
    path.mkdir(parents=True, exist_ok=True)
    write(known, to_json(facts))
    return Target(path, data, seed, (), {stem: (model.eval(), {"weights": _sha256(model), "step": 0})})


class Recorded:
    """The networks of a finished evaluation, found again for checking it."""

    def __init__(self, path: Path) -> None:
        self._run = None if (path / "model.json").is_file() else RunFolder.open(path)
        if self._run is not None:
            self.data = self._run.config.data
            return
        facts = json.loads((path / "model.json").read_bytes())
        self.data = DataConfig(**facts["data"])
        try:
            found = foreign(facts["spec"], network=facts["network"], data=self.data, seed=facts["seed"])
        except (UsageError, BrokenCheckpoint):
            self._subjects: dict[str, tuple[nn.Module, dict[str, Any]]] = {}
        else:
            self._subjects = found.subjects

    def network(self, agent: str, facts: Mapping[str, Any]) -> nn.Module | None:
        """The network whose weights have the recorded sha256; None when there is none."""
        if self._run is not None:
            return recorded_subject(self._run, agent, facts)
        model, own = self._subjects.get(agent, (None, {}))
        return model if own == dict(facts) else None


def _weights(path: Path, network: str | None, data: DataConfig) -> nn.Module:
    if network is None:
        raise UsageError(
            f"{path} holds weights only; say of what network: --network resnet18 (see docs/adding-a-network.md)"
        )
    try:
        channels, height, width = (dataset := datasets.load(data)).shape
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error
    classes = len(dataset.classes)
    plain = networks.NetworkConfig(network, channels, height, width, classes, (0.0,) * channels, (1.0,) * channels)
    model = networks.build(plain)
    tensors = {k.removeprefix("module."): v for k, v in read_tensors(path).items()}
    own = model.state_dict()
    missing = [k for k in own if k not in tensors and k not in ("mean", "std")]
    surplus = [k for k in tensors if k not in own]
    if missing or surplus:
        raise BrokenCheckpoint(
            f"{path} does not fit {network}: {len(missing)} tensors are missing ({', '.join(missing[:3])} ...), "
            f"{len(surplus)} have no place ({', '.join(surplus[:3])} ...)"
        )
    try:
        model.load_state_dict(own | tensors)
    except RuntimeError as error:
        raise BrokenCheckpoint(f"{path} does not fit {network} with {classes} classes: {error}") from error
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Weights by name from ``.safetensors`` or from a ``.pt`` of plain tensors.

    Raises:
        BrokenCheckpoint: missing, damaged, a web page, or more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        start = path.open("rb").read(256)
    except OSError as error:
        raise BrokenCheckpoint(f"{path} cannot be read: {error}") from error
    if start.lstrip()[:1] == b"<":
        raise BrokenCheckpoint(f"{path} is a web page, not a file of weights: the download went wrong")
    try:
        values: Any = (
            load(path.read_bytes())
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True, map_location="cpu")
        )
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    except pickle.UnpicklingError as error:  # torch's answer to anything but tensors
        raise BrokenCheckpoint(
            f"{path} holds more than tensors and is not read: {str(error).splitlines()[0]}"
        ) from error
    for name in NESTED:
        if isinstance(values, Mapping) and isinstance(values.get(name), Mapping):
            values = values[name]
    if not isinstance(values, Mapping) or not all(isinstance(v, Tensor) for v in values.values()):
        raise BrokenCheckpoint(f"{path} holds no mapping of names to tensors")
    return dict(values)


def _sha256(model: nn.Module) -> str:
    from safetensors.torch import save

    return hashlib.sha256(save({k: v.contiguous() for k, v in model.state_dict().items()})).hexdigest()
