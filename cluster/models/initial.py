"""Where the weights of a role come from: runs, published models, files from elsewhere."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparring.agents import foreign_weights, hub_folder, model_folder, timm_weights
from sparring.agents.checkpoint import CheckpointError, network_config, save_model
from sparring.agents.networks import Network
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.config.settings import Own
from sparring.cluster.config.values import read
from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.models import hub, origins, weights
from sparring.cluster.models.elsewhere import content_of, is_elsewhere, of_elsewhere
from sparring.cluster.models.resolve import copy_of, published, single
from sparring.cluster.models.target import Elsewhere, check_code
from sparring.cluster.runs import mirror
from sparring.trainers import code, trusting, user
from sparring.trainers.config import DataConfig


def resolved(config: RunConfig) -> RunConfig:
    """The same run wherever its agents stand: every path absolute, every ``init`` the folder of weights that it means, or the commit
    of a repository of the Hub, which is then here.

    Raises:
        UsageError: an ``init`` that means nothing.
        BrokenCheckpoint: weights that cannot be read or do not fit.
    """
    config = config.absolute()
    learning = {role for role, r in config.method.roles().items() if r.learns}
    seeds = {role: config.seed if role in learning else None for role in config.agents}
    agents = {role: _resolved(role, own, config.data, seeds[role]) for role, own in config.agents.items()}
    return replace(config, agents=agents)


def by_content(config: RunConfig) -> RunConfig:
    """With the files of a user's by content, where they are there; version 0.1 kept their paths."""
    try:
        return config.absolute()
    except ValueError:
        return config


def as_begun(config: RunConfig, run: Path) -> RunConfig:
    """:func:`with_commits` of the run in this folder, if there is one; it is brought from the mirror where only that has it."""
    mirror.brought(config.mirror, run)
    file = run / "config.yaml"
    return with_commits(config, read(file)) if file.is_file() else config


def with_commits(config: RunConfig, begun: Mapping[str, Any]) -> RunConfig:
    """With the commits of ``begun``, a configuration as plain values, where a repository of the Hub is named without one."""
    known, agents = begun.get("agents", {}), dict(config.agents)
    for role, own in config.agents.items():
        init = known.get(role, {}).get("init")
        if own.init and init and init.startswith(hub_folder.PREFIX) and hub_folder.parse(init)[0] == _bare(own.init):
            agents[role] = replace(own, init=init)
    return replace(config, agents=agents)


def _bare(init: str) -> str | None:
    """USER/NAME of a repository without a revision."""
    return init.removeprefix(hub_folder.PREFIX) if init.startswith(hub_folder.PREFIX) and "@" not in init else None


def bring(config: RunConfig) -> None:
    """Fetch what the run starts from out of repositories of the Hub, where it is not here; errors as :func:`resolved`."""
    for own in config.agents.values():
        if own.init is not None and own.init.startswith(hub_folder.PREFIX):
            hub.fetched(own.init)


def vetted(config: RunConfig) -> tuple[code.Code, ...]:
    """The user's files that a run is made of, also those of the networks whose weights it starts from; his own from now on.

    Raises:
        Untrusted: one is somebody else's, and was not admitted.
        BrokenCheckpoint: weights that cannot be read.
    """
    places = [hub_folder.located(own.init) for own in config.agents.values()]
    try:
        of_weights = user.codes([network_config(Path(place)).spec for place in places if place is not None])
    except (CheckpointError, ValueError) as error:
        raise BrokenCheckpoint(str(error)) from error
    codes = (*config.codes, *of_weights)
    for one in codes:
        trusting.check(one)
        trusting.adopt(one)
    return codes


def _resolved(role: str, own: Own, data: DataConfig, seed: int | None) -> Own:
    if own.init is None:
        return own
    if own.init.startswith(hub_folder.PREFIX):
        own = replace(own, init=hub.meant(own.init))
    assert own.init is not None
    if own.init.startswith(hub_folder.PREFIX):
        found(role, own, data)
        return replace(own, mapping=None)
    path, network = found(role, own, data, seed)
    return replace(own, network=network, init=str(path), mapping=None)


def found(role: str, own: Own, data: DataConfig, seed: int | None = None) -> tuple[Path, str | None]:
    """The folder (or one file of weights in it) that ``own.init`` means, and the network in it where that is known.

    Any name of ``cluster/models/resolve.py``, or such a folder itself. A run means its agent's best checkpoint; a network from
    elsewhere is kept in the cache of decoded images.

    Args:
        seed: of a role that learns: weights of timm's are fitted to its images and classes, a new head drawn by it; None: they must fit.

    Raises:
        UsageError: nothing of that kind is there, or a file whose network is not named.
        BrokenCheckpoint: the file cannot be read or does not fit.
    """
    assert own.init is not None
    own = replace(own, init=copy_of(own.init))
    assert own.init is not None
    of_hub = own.init.startswith(hub_folder.PREFIX)
    path, version = Path(own.init), hub.fetched(own.init) if of_hub else published(own.init)
    if version is not None:
        check_code(version)
        wrong = model_folder.problems(version)
        if wrong:
            raise BrokenCheckpoint("; ".join(wrong))
        if not (version / "model.safetensors").is_file():
            raise UsageError(f"{version} is an ensemble of several networks; a role takes one")
        return version.resolve(), own.network
    if is_elsewhere(own.init) and timm_weights.is_folder(path):
        return _imported(role, own, data, seed)
    if (path / "model.safetensors").is_file() or (path.parent / "state.json").is_file():
        check_code(path if path.is_dir() else path.parent)
        return path.resolve(), own.network
    if is_elsewhere(own.init):
        return _imported(role, own, data, seed)
    _, subject, _ = single(own.init)
    if subject.folder is None:
        raise UsageError(f"{own.init} is an ensemble of several networks; a role takes one")
    return subject.folder.resolve(), own.network


def _imported(role: str, own: Own, data: DataConfig, seed: int | None) -> tuple[Path, str]:
    """A network from elsewhere as one of ours, in the cache of decoded images."""
    flag = f"--agents.{role.replace('_', '-')}"
    net, network = weights.unfolded(str(own.init), own.network, data)
    of_file = Path(net).suffix in foreign_weights.SUFFIXES and not net.startswith("timm:")
    if of_file and network is None:
        raise UsageError(f"{net} holds weights only; say of what network: {flag}.network wrn-34-10")
    mapping = Path(own.mapping) if own.mapping else None
    if of_file and network is not None and seed is not None and timm_weights.is_timms(network) and mapping is None:
        model, notes = weights.start(Path(net), network, data, seed=seed, role=role)
    else:
        about = Elsewhere(network=network if of_file else None, mapping=mapping, run=data)
        target = of_elsewhere(net, about)
        made, notes = target.one("")[1].model, target.notes
        assert isinstance(made, Network)
        model = made
    for note in notes:
        print(note, file=sys.stderr, flush=True)
    if not of_file and network not in (None, user.kept(net), model.config.spec):
        raise UsageError(f"{net} is a network itself: leave {flag}.network {network} out")
    content = content_of(model) + repr(model.config)
    folder = Path(data.cache).expanduser() / "weights" / hashlib.sha256(content.encode()).hexdigest()[:24]
    save_model(model, folder)
    if of_file:
        origins.write(folder, Path(net), notes)
    return folder.resolve(), model.config.spec
