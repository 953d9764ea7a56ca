"""Networks that a name means, with the images and the radius that belong to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.agents import model_folder
from sparring.agents.checkpoint import CheckpointError, to_json, write
from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.models.trained import ENSEMBLE, Subject, chosen_agents, subject
from sparring.cluster.runs import places
from sparring.cluster.runs.folder import RunFolder
from sparring.trainers import keeping, trusting, user
from sparring.trainers.config import DataConfig, Threat


@dataclass(frozen=True)
class Target:
    """Networks by name, each with the sha256 of its weights."""

    path: Path  # evaluations go to path/evaluation; see keep
    data: DataConfig
    seed: int
    threats: tuple[Threat, ...]
    subjects: dict[str, Subject]
    images: Mapping[str, str] | None = None  # hashes of those with which training began, where they are known
    notes: tuple[str, ...] = ()  # what is to be said first
    facts: Mapping[str, Any] | None = None  # of a network from elsewhere: what it was made of, as model.json keeps it
    hub: str | None = None  # of a model that came from the Hub: hf:USER/NAME@COMMIT

    @property
    def run(self) -> RunFolder | None:
        """The run that the networks are of; None for a published model and a network from elsewhere."""
        return RunFolder(self.path) if (self.path / "config.yaml").is_file() else None

    def keep(self) -> None:
        """Make ``path`` of a network from elsewhere, from which it can be made again; a run's and a model's is there."""
        if self.facts is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        named = (self.facts["spec"], self.facts["data"]["name"], self.facts["network"])
        keeping.keep(user.codes(named), self.path)
        write(self.path / "model.json", to_json(dict(self.facts)))

    def one(self, what: str) -> tuple[str, Subject]:
        """The only network and its name.

        Raises:
            UsageError: there are several.
        """
        if len(self.subjects) > 1:
            names = ", ".join(self.subjects)
            raise UsageError(
                f"run {self.path.name} has {len(self.subjects)} products; name one{what}: {names}, or {ENSEMBLE}"
            )
        return next(iter(self.subjects.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """What a network that is no run's needs beside its name; None where nothing was said."""

    data: str | None = None  # data set of its test images; digits by default
    root: Path | None = None  # folder that holds the data set; for a run or a published model, where its images are now
    cache: str | None = None  # folder for decoded images
    size: int | None = None  # side of the images
    middle: float | None = None  # share of their middle that is seen, where they stay encoded
    network: str | None = None  # what a file of weights is of: resnet18, wrn-34-10, ...
    mapping: Path | None = None  # YAML that turns a file's names into ours
    run: DataConfig | None = None  # the data of a run that asks, in place of the above

    @property
    def images(self) -> DataConfig:
        """The data set meant."""
        if self.run is not None:
            return self.run
        root, plain = self.root or Path(DataConfig().root), DataConfig()
        return DataConfig(
            name=self.data or plain.name,
            root=places.absolute(root),
            cache=self.cache or plain.cache,
            size=self.size,
            middle=plain.middle if self.middle is None else self.middle,
        )

    def refuse(self, what: str) -> None:
        """Refuse what something that brings its own cannot obey.

        Raises:
            UsageError: names the flags.
        """
        given = {
            "--data.name": self.data,
            "--data.size": self.size,
            "--data.middle": self.middle,
            "--network": self.network,
            "--mapping": self.mapping,
        }
        flags = [flag for flag, value in given.items() if value is not None]
        if flags:
            raise UsageError(
                f"{what} brings its own data set and network: {', '.join(flags)} cannot be obeyed. Leave "
                f"{'it' if len(flags) == 1 else 'them'} out (--data.root says where its images are now), or evaluate its file of "
                "weights: sparring export RUN, then sparring evaluate FILE.safetensors --network NETWORK --data.name DATA"
            )


def of_run(folder: RunFolder, agents: Sequence[str] = (), *, checkpoint: str = "best") -> Target:
    """A run's products, or the named agents.

    Raises:
        UsageError: no such agent.
    """
    config = folder.config
    chosen = {a: subject(folder, a, checkpoint=checkpoint) for a in chosen_agents(folder, agents)}
    notes = tuple(folder.changed_code())
    return Target(folder.path, config.data, config.seed, config.threats, chosen, folder.images, notes)


def of_model(version: Path, *, root: str | None = None) -> Target:
    """A published model, on the test images that its card names.

    Raises:
        BrokenCheckpoint: a file is missing or altered.
        Untrusted: code of somebody else's came with it, and was not admitted.
    """
    try:
        check_code(version)
        card = model_folder.card(version)
        keeping.look_through(card["data"], version)
        model = model_folder.load(version)
    except CheckpointError as error:
        raise BrokenCheckpoint(str(error)) from error
    known = card["data"]
    data = DataConfig(
        name=known["name"],
        root=root or str(known["root"]),
        size=known["size"],
        middle=card.get("preparation", {}).get("middle", 1.0),
        encoded=known.get("encoded", False),
    )
    facts = {"weights": model_folder.weights_sha256(version), "step": card["training"]["step"]}
    threats = tuple(map(Threat.parse, card["threats"]))
    images = {"test": known["sha256"], "cache": known.get("cache", "")}
    subjects = {card["name"]: Subject(model, facts, folder=version.resolve())}
    hub = trusting.came_from(version)
    notes = (f"{card['name']} is {hub}",) if hub else ()
    seed = card["training"]["seed"]
    return Target(version.resolve(), data, seed, threats, subjects, images, notes, hub=hub)


def check_code(version: Path) -> None:
    """Refuse a published model whose code is somebody else's and was not admitted.

    Raises:
        BrokenCheckpoint: a kept file is missing or altered.
        Untrusted: names the code.
    """
    try:
        codes = keeping.know_all(version)
    except ValueError as error:
        raise BrokenCheckpoint(str(error)) from error
    for code in codes:
        trusting.check(code)
