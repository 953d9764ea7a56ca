"""What is evaluated: networks of a run, or one from elsewhere, with the images and the radius that belong to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from sparring.agents import foreign_weights, model_folder
from sparring.agents.checkpoint import CheckpointError, to_json, write
from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.models import weights
from sparring.cluster.models.trained import ENSEMBLE, Subject, chosen_agents, recorded_subject, subject
from sparring.cluster.runs.folder import RunFolder
from sparring.trainers import keeping, user
from sparring.trainers.config import DataConfig, Threat

EVALUATED = Path("evaluated")  # folder of networks from elsewhere


@dataclass(frozen=True)
class Target:
    """Networks by name, each with the sha256 of its weights."""

    path: Path  # evaluations go to path/evaluation
    data: DataConfig
    seed: int
    threats: tuple[Threat, ...]
    subjects: dict[str, Subject]
    images: Mapping[str, str] | None = None  # hashes of those with which training began, where they are known
    notes: tuple[str, ...] = ()  # what is to be said first


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """What a network that is no run's needs beside its name; None where nothing was said."""

    data: str | None = None  # data set of its test images; digits by default
    root: Path | None = None  # folder that holds the data set; for a run or a published model, where its images are now
    cache: str | None = None  # folder for decoded images
    network: str | None = None  # what a file of weights is of: resnet18, wrn-34-10, ...
    mapping: Path | None = None  # YAML that turns a file's names into ours

    @property
    def images(self) -> DataConfig:
        """The data set meant."""
        root, plain = self.root or Path(DataConfig().root), DataConfig()
        return DataConfig(name=self.data or plain.name, root=str(root.resolve()), cache=self.cache or plain.cache)

    def refuse(self, what: str) -> None:
        """Refuse what something that brings its own cannot obey.

        Raises:
            UsageError: names the flags.
        """
        given = {"--data.name": self.data, "--network": self.network, "--mapping": self.mapping}
        flags = [flag for flag, value in given.items() if value is not None]
        if flags:
            raise UsageError(
                f"{what} brings its own data set and network: {', '.join(flags)} cannot be obeyed. Leave "
                f"{'it' if len(flags) == 1 else 'them'} out (--data.root says where its images are now), or evaluate its file of "
                "weights: sparring export RUN, then sparring evaluate FILE.safetensors --network NETWORK --data.name DATA"
            )


def of_name(name: str, elsewhere: Elsewhere, *, agents: Sequence[str] = (), checkpoint: str = "best") -> Target:
    """What a name means: ``RUN``, ``ensemble:RUN``, ``models/NAME[/VERSION]``, ``file.py:function``, a file of weights.

    Args:
        name: as a user types it.
        elsewhere: for networks that are no run's.
        agents: of a run, when others than the method's products are meant.
        checkpoint: of a run: best on the held-out images, or last.

    Raises:
        UsageError: nothing of that name, or something said of it that it brings itself.
        BrokenCheckpoint: weights that cannot be read or do not fit.
    """
    if is_foreign(name):
        return foreign(name, network=elsewhere.network, data=elsewhere.images, mapping=elsewhere.mapping)
    version = model_folder.resolve(Path(name))
    if version is not None:
        elsewhere.refuse(f"the published model {name}")
        return of_model(version, root=elsewhere.root and elsewhere.root.resolve())
    path = name.removeprefix("ensemble:")
    folder = RunFolder.open(Path(path))
    elsewhere.refuse(f"the run {folder}")
    chosen = agents if path == name else (*agents, ENSEMBLE)
    target = of_run(folder, chosen, checkpoint=checkpoint)
    if elsewhere.root is None:
        return target
    return replace(target, data=replace(target.data, root=str(elsewhere.root.resolve())))


def of_run(folder: RunFolder, agents: Sequence[str] = (), *, checkpoint: str = "best") -> Target:
    """A run's products, or the named agents.

    Raises:
        UsageError: no such agent.
    """
    config = folder.config
    chosen = {a: subject(folder, a, checkpoint=checkpoint) for a in chosen_agents(folder, agents)}
    notes = tuple(folder.changed_code())
    return Target(folder.path, config.data, config.seed, config.threats, chosen, folder.images, notes)


def of_model(version: Path, *, root: Path | None = None) -> Target:
    """A published model, on the test images that its card names.

    Raises:
        BrokenCheckpoint: a file is missing or altered.
    """
    try:
        model, card = model_folder.load(version), model_folder.card(version)
    except CheckpointError as error:
        raise BrokenCheckpoint(str(error)) from error
    known = card["data"]
    data = DataConfig(name=known["name"], root=str(root or known["root"]), size=known["size"])
    facts = {"weights": model_folder.weights_sha256(version), "step": card["training"]["step"]}
    threats = tuple(map(Threat.parse, card["threats"]))
    images = {"test": known["sha256"], "cache": known.get("cache", "")}
    subjects = {card["name"]: Subject(model, facts)}
    return Target(version.resolve(), data, card["training"]["seed"], threats, subjects, images)


def is_foreign(spec: str) -> bool:
    """Whether ``spec`` is ``file.py:function`` or a file of weights."""
    return user.is_function(spec) or Path(spec).suffix in foreign_weights.SUFFIXES


def foreign(spec: str, *, network: str | None, data: DataConfig, seed: int = 0, mapping: Path | None = None) -> Target:
    """A network of anybody's: ``file.py:function`` that returns a module, or weights for a network that we can build.

    Its folder is named by content, so that another network, other data or an edited file has another one.

    Args:
        spec: the function gets no argument; a ``.pt`` is read as plain tensors only, never unpickled.
        network: for a file of weights, what they are of, for example ``wrn-34-10``.
        mapping: what turns the file's names into ours, and its normalisation (see ``agents/foreign_weights.py``).
        data: the test images.

    Raises:
        UsageError: no network named, or a file that holds none.
        BrokenCheckpoint: the weights do not fit.
    """
    stem = _stem(spec)
    facts: dict[str, Any] = {"network": network, "data": asdict(data), "seed": seed}
    try:
        facts["spec"] = user.kept(spec) if user.is_function(spec) else str(Path(spec).resolve())
        facts["data"]["name"] = user.kept(data.name)
        facts["network"] = network and user.kept(network)
        facts |= {"mapping": str(mapping.resolve())} if mapping else {}
        model = _made(facts)
        codes = user.codes([facts["spec"], facts["data"]["name"], facts["network"]])
    except ValueError as error:
        raise UsageError(str(error)) from error
    content = _sha256(model)
    named = hashlib.sha256(to_json([facts["spec"], network, facts["data"] | {"cache": ""}, content])).hexdigest()
    path = EVALUATED.resolve() / f"{stem}-{named[:8]}"
    path.mkdir(parents=True, exist_ok=True)
    keeping.keep(codes, path)
    write(path / "model.json", to_json(facts))
    return Target(path, DataConfig(**facts["data"]), seed, (), {stem: Subject(model, {"weights": content, "step": 0})})


def _made(facts: Mapping[str, Any]) -> nn.Module:
    """The network that model.json describes, in eval mode."""
    spec = facts["spec"]
    if not user.is_function(spec):
        return _weights(Path(spec), facts["network"], DataConfig(**facts["data"]), _path(facts)).eval()
    model = user.function(spec)()
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"{spec} returned {type(model).__name__}; expected a torch.nn.Module: pixels in [0, 1] -> logits"
        )
    return model.eval()


class Recorded:
    """The networks of a finished evaluation, found again for checking it."""

    def __init__(self, path: Path) -> None:
        elsewhere, published = (path / "model.json").is_file(), (path / "card.json").is_file()
        self._run = None if elsewhere or published else RunFolder.open(path)
        if self._run is not None:
            self.data = self._run.config.data
            return
        self._subjects: dict[str, Subject] = {}
        if published:
            target = of_model(path)
            self.data, self._subjects = target.data, target.subjects
            return
        facts = json.loads((path / "model.json").read_bytes())
        self.data = DataConfig(**facts["data"])
        try:
            keeping.know(path)
            model = _made(facts)
        except (ValueError, UsageError, BrokenCheckpoint):
            return
        self._subjects = {_stem(facts["spec"]): Subject(model, {"weights": _sha256(model), "step": 0})}

    def network(self, agent: str, facts: Mapping[str, Any]) -> nn.Module | None:
        """The network whose weights have the recorded sha256; None when there is none."""
        if self._run is not None:
            return recorded_subject(self._run, agent, facts)
        known = self._subjects.get(agent)
        return known.model if known is not None and known.record == dict(facts) else None


def _stem(spec: str) -> str:
    """The name under which a network from elsewhere is reported: that of its file."""
    return Path(spec.rpartition(":")[0] if user.is_function(spec) else spec).stem


def _weights(path: Path, network: str | None, data: DataConfig, mapping: Path | None) -> nn.Module:
    if network is None:
        raise UsageError(
            f"{path} holds weights only; say of what network: --network resnet18 (see docs/adding-a-network.md)"
        )
    return weights.load(path, network, data, mapping)


def _path(facts: Mapping[str, Any]) -> Path | None:
    return Path(facts["mapping"]) if "mapping" in facts else None


def _sha256(model: nn.Module) -> str:
    from safetensors.torch import save

    return hashlib.sha256(save({k: v.contiguous() for k, v in model.state_dict().items()})).hexdigest()
