"""Networks from elsewhere: a user's function, a file of weights, a network of timm's; and how an evaluation finds them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from sparring.agents import foreign_weights, networks, timm_weights
from sparring.agents.checkpoint import to_json
from sparring.agents.networks import Network
from sparring.agents.networks.foreign import Foreign
from sparring.cluster.errors import BrokenCheckpoint, DataError, UsageError
from sparring.cluster.models import weights
from sparring.cluster.models.target import Elsewhere, Target, of_model
from sparring.cluster.models.trained import Subject, recorded_subject
from sparring.cluster.runs.folder import RunFolder
from sparring.trainers import datasets, keeping, user
from sparring.trainers.config import DataConfig

EVALUATED = Path("evaluated")  # folder of evaluations of networks from elsewhere


def is_elsewhere(net: str) -> bool:
    """Whether a name is ``file.py:function``, ``timm:NAME`` or that of a file of weights, or of a folder as timm writes it."""
    if user.is_function(net) or net.startswith("timm:"):
        return True
    return Path(net).suffix in foreign_weights.SUFFIXES or timm_weights.is_folder(Path(net))


def of_elsewhere(net: str, about: Elsewhere, *, seed: int = 0) -> Target:
    """A network of anybody's. Its folder is named by content: another network, other data or an edited file has another one.

    Args:
        net: ``file.py:function`` that returns a module, ``timm:NAME``, or a file of plain tensors, never unpickled.
        about: for a file of weights ``network``, what they are of, and perhaps ``mapping``; the test images.

    Raises:
        UsageError: no network named, or a file that holds none.
        BrokenCheckpoint: the weights do not fit.
        DataError: the data set cannot be read.
    """
    data, mapping = about.images, about.mapping
    stem = _stem(net)
    net, network = weights.unfolded(net, about.network, data)
    facts: dict[str, Any] = {"network": network, "data": asdict(data), "seed": seed}
    del facts["data"]["transforms"]  # nothing that evaluates: names from before there were any stay
    if data.middle == 1:
        del facts["data"]["middle"]
    try:
        file = Path(net).suffix in foreign_weights.SUFFIXES and not net.startswith("timm:")
        facts["spec"] = str(_file(Path(net))) if file else user.kept(net)
        facts["data"]["name"] = user.kept(data.name)
        facts["network"] = network and user.kept(network)
        facts |= {"mapping": str(mapping.resolve())} if mapping else {}
        model = _made(facts)
    except ValueError as error:
        raise UsageError(str(user.placed(error))) from error
    content = content_of(model)
    named = hashlib.sha256(to_json([facts["spec"], network, facts["data"] | {"cache": ""}, content])).hexdigest()
    path = EVALUATED.resolve() / f"{stem}-{named[:8]}"
    subjects = {stem: Subject(model, {"weights": content, "step": 0})}
    said = foreign_weights.stripped(Path(net), model) if file and isinstance(model, Network) and not mapping else None
    return Target(path, DataConfig(**facts["data"]), seed, (), subjects, notes=(said,) if said else (), facts=facts)


def _made(facts: Mapping[str, Any]) -> nn.Module:
    """The network that model.json describes, in eval mode."""
    spec, data = facts["spec"], DataConfig(**facts["data"])
    if not is_elsewhere(spec):
        raise UsageError(f"{spec} is no network from elsewhere")
    if not user.is_function(spec) and not spec.startswith("timm:"):
        return _weights(Path(spec), facts["network"], data, facts.get("mapping")).eval()
    try:
        dataset = datasets.load(data)
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error
    try:
        return networks.build(networks.configure(spec, dataset), facts["seed"]).eval()
    except Exception as error:
        own = user.placed(error)
        if own is error:
            raise
        raise UsageError(str(own)) from error


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
            keeping.look_through(facts, path)
            model = _made(facts)
        except (ValueError, UsageError, BrokenCheckpoint):
            return
        self._subjects = {_stem(facts["spec"]): Subject(model, {"weights": content_of(model), "step": 0})}

    def network(self, agent: str, facts: Mapping[str, Any]) -> nn.Module | None:
        """The network whose weights have the recorded sha256; None when there is none."""
        if self._run is not None:
            return recorded_subject(self._run, agent, facts)
        known = self._subjects.get(agent)
        return known.model if known is not None and known.record == dict(facts) else None


def _file(path: Path) -> Path:
    """A file of weights wherever it lies; in the Hub's cache by its link, which has its name, and its config.json beside it."""
    found = path.resolve()
    return found if found.suffix == path.suffix else path.parent.resolve() / path.name


def _stem(net: str) -> str:
    """The name under which a network from elsewhere is reported: that of its file, of a folder of timm's, or of the architecture."""
    if net.startswith("timm:"):
        return net.removeprefix("timm:").partition(",")[0]
    place = Path(net).parent if Path(net).name == timm_weights.WEIGHTS else Path(net)
    if timm_weights.is_folder(place):
        place = place.resolve()
        snapshot = place.parent.name == "snapshots"  # of the Hub's cache: models--USER--NAME/snapshots/COMMIT
        return place.parent.parent.name.rpartition("--")[2] if snapshot else place.name
    return Path(net.rpartition(":")[0] if user.is_function(net) else net).stem


def _weights(path: Path, network: str | None, data: DataConfig, mapping: str | None) -> nn.Module:
    if network is None:
        raise UsageError(
            f"{path} holds weights only; say of what network: --network resnet18 (see docs/adding-a-network.md)"
        )
    return weights.load(path, network, data, Path(mapping) if mapping else None)


def content_of(model: nn.Module) -> str:
    """Of the tensors; those of a user's module by the names that it gives them."""
    from safetensors.torch import save

    own = model.model if isinstance(model, Foreign) and not model.normalised else model
    return hashlib.sha256(save({k: v.contiguous() for k, v in own.state_dict().items()})).hexdigest()
