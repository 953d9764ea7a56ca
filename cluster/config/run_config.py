"""One complete run as a value, to and from YAML.

``RunConfig`` is the settings and a method. Unknown keys are refused with the nearest allowed one; numbers may be written
as fractions (``8/255``); only plain YAML is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from sparring.agents.checkpoint import network_config, to_json
from sparring.agents.hub_folder import located
from sparring.agents.spec import AgentSpec
from sparring.cluster.config import later
from sparring.cluster.config.measuring import measure
from sparring.cluster.config.settings import Own, Settings
from sparring.cluster.config.values import parse, plain, read, unknown
from sparring.trainers import code, keeping, methods, uris, user
from sparring.trainers.config import Measure, Threat
from sparring.trainers.datasets import Prepared
from sparring.trainers.methods.base import Method

CHANGEABLE = ("method.", "attack.", "attacks.", "optim.")  # what can change while a run goes on
# may differ when a run is continued
OPERATIONAL = (
    *("memo", "trace", "log", "team", "address", "placement", "call_timeout", "exchange", "max_failures", "mirror"),
    *("checkpointing", "loader"),
)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """One complete run."""

    method: Method
    """The method and its options."""
    recipe: str = ""
    """Name of the recipe that this configuration started from; names the run's folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        methods.check(self.method, {"train": self.attack, **self.attacks}, self.data.transforms)
        if set(self.attacks) != set(self.method.norms()):
            wanted = ", ".join(self.method.norms()) or "none besides --attack"
            raise ValueError(f"attacks: {', '.join(self.attacks) or 'none'} are given; the method takes {wanted}")
        for name, attack in self.attacks.items():
            if attack.norm != name:
                raise ValueError(f"attacks.{name}.norm = {attack.norm!r} is not allowed; expected {name!r}")
        if self.method.WHOLE and (self.lanes > 1 or self.micro_batch is not None):
            name = Path(methods.name_of(self.method)).stem
            raise ValueError(f"{name} needs every batch as a whole: --lanes and --micro-batch do not go with it")
        every = self.checkpoint.every
        for t, changed in self.changes.items():
            if t < 1 or t % every:
                raise ValueError(f"changes: step {t} is not one of a checkpoint; checkpoint.every = {every}")
            for path in changed:
                if not path.startswith(CHANGEABLE) or path == "method.peers":
                    raise ValueError(f"changes.{t}: {path} cannot change during a run; {', '.join(CHANGEABLE)}* can")
        if self.changes:
            self.at(max(self.changes))  # refuses unknown paths and values
        for role in self.agents:
            if role not in self.networks():
                raise ValueError(f"agents.{role}: the method has no such role; it has {', '.join(self.networks())}")

    def networks(self) -> list[str]:
        """Names of all networks: the roles, then those that live beside another agent."""
        roles = self.method.roles()
        return [*roles, *(name for role in roles.values() for name in role.beside)]

    @property
    def label(self) -> str:
        """What names the run's folder: the recipe, or method and data when the recipe's data was replaced."""
        data = Path(self.data.name.rpartition(":")[0]).stem if user.is_function(self.data.name) else self.data.name
        return self.recipe if data in self.recipe else f"{Path(methods.name_of(self.method)).stem}-{data}"

    @property
    def sha256(self) -> str:
        """Of all settings that change what is computed; where and how is left out, and later settings that are not used."""
        values = {k: v for k, v in self.carried_out_as(None).to_dict().items() if k not in OPERATIONAL}
        return hashlib.sha256(to_json(later.without(values))).hexdigest()

    def carried_out_as(self, other: RunConfig | None) -> RunConfig:
        """The same computation, placed and watched over as ``other`` asks; without one, neither agents nor images have a place."""
        theirs = other.agents if other else {}
        agents = {}
        for role in dict.fromkeys([*self.agents, *theirs]):
            where = theirs.get(role, Own())
            agents[role] = replace(self.agents.get(role, Own()), gpus=where.gpus, label=where.label)
        agents = {role: own for role, own in agents.items() if own != Own()}
        if other is None:
            return replace(self, agents=agents, data=replace(self.data, root="", cache="", download=False))
        data = replace(self.data, root=other.data.root, cache=other.data.cache, download=other.data.download)
        operational = {name: getattr(other, name) for name in OPERATIONAL}
        return replace(self, agents=agents, data=data, **operational)

    @property
    def threats(self) -> tuple[Threat, ...]:
        """The run's threat models: those of the named attacks, else that of the training attack."""
        return tuple(Threat(a.norm, a.eps) for a in (self.attacks.values() or [self.attack]))

    @property
    def measure(self) -> Measure:
        """How networks are compared on the held-out images, under the run's threat models."""
        return measure(self, self.threats)

    def at(self, t: int) -> RunConfig:
        """The configuration that holds from step ``t`` until the next change."""
        so_far: dict[str, float] = {}
        for step in sorted(self.changes):
            if step <= t:
                so_far |= self.changes[step]
        return replace(self, changes={}).replace({k: self._alike(k, v) for k, v in so_far.items()})

    def _alike(self, path: str, value: float) -> float:
        """The value as a whole number where the setting is one."""
        now: Any = self
        for name in path.split("."):
            now = now.get(name) if isinstance(now, dict) else getattr(now, name, None)
        return int(value) if isinstance(now, int) and value == int(value) else value

    def specs(self, images: Prepared) -> list[AgentSpec]:
        """One specification per role, in role order.

        Args:
            images: the run's data set in the cache.
        """
        name = methods.name_of(self.method)
        options = {f.name: getattr(self.method, f.name) for f in fields(self.method)}
        own = {name: self.agents.get(name, Own()) for name in self.networks()}
        others = {n: (o.network or (None if o.init else self.network), located(o.init)) for n, o in own.items()}
        weights = [network_config(Path(init)).spec for _, init in others.values() if init is not None]
        return [
            AgentSpec(
                me=role,
                index=index,
                method=name,
                options=options,
                network=others[role][0],
                init=others[role][1],
                others=others,
                optim=own[role].optim.over(self.optim),
                data=self.data,
                images=images,
                attacks={"train": self.attack, **self.attacks},
                batch_size=self.batch_size,
                epochs=self.epochs,
                max_steps=self.max_steps,
                seed=self.seed,
                threads=self.threads_per_agent,
                memo=self.memo,
                codes=(*self.codes, *user.codes(weights)),
                speed=self.speed,
                device=self.device,
                loader=self.loader,
            )
            for index, role in enumerate(self.method.roles())
        ]

    def absolute(self) -> RunConfig:
        """The same with every path absolute and every file of a user's by content; what ``agents.*.init`` means, ``models/`` knows."""
        d = self.data
        extra = str(Path(d.extra).resolve()) if d.extra else None
        data = replace(d, name=user.kept(d.name), root=uris.absolute(d.root), extra=extra)
        agents = {role: replace(o, network=o.network and user.kept(o.network)) for role, o in self.agents.items()}
        agents = {role: own for role, own in agents.items() if own != Own()}
        return replace(self, network=user.kept(self.network), agents=agents, data=data)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.to_dict(), self.codes)  # in another process the user's files are known before the method

    @property
    def codes(self) -> tuple[code.Code, ...]:
        """The user's files that this run is made of, without those of the weights that it starts from."""
        networks = [self.network, *(own.network for own in self.agents.values())]
        return user.codes([methods.name_of(self.method), self.data.name, *networks])

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the method's name stands beside its options."""
        values = asdict(self)
        values["method"] = {"name": methods.name_of(self.method), **values["method"]}
        return {k: values[k] for k in ("recipe", "method", *(k for k in values if k not in ("recipe", "method")))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_dict`; what is missing takes its default, but for how networks are compared (``later``).

        Raises:
            ValueError: an unknown key or a value of the wrong type, with what is allowed.
        """
        values = dict(values)
        given, checkpoint = values.pop("method", None), values.get("checkpoint", {})
        if isinstance(checkpoint, Mapping):
            values["checkpoint"] = {**dict(later.BEFORE), **checkpoint}
        given = {"name": given} if isinstance(given, str) else given
        if not isinstance(given, Mapping) or "name" not in given:
            raise ValueError(
                f"method: expected a mapping with a name, seen {given!r}; allowed: {', '.join(methods.names())}"
            )
        method = parse(methods.load(given["name"]), {k: v for k, v in given.items() if k != "name"}, "method")
        config: RunConfig = parse(cls, {**values, "method": method}, "")
        return config

    def replace(self, overrides: Mapping[str, Any]) -> RunConfig:
        """The same run with values changed by path: ``{"epochs": 2, "attack.eps": "8/255", "peers": 3}``."""
        values = self.to_dict()
        for path, value in overrides.items():
            *parents, last = ("method.peers" if path == "peers" else path).split(".")
            level = values
            if parents[:1] == ["agents"] and len(parents) > 1:
                level["agents"].setdefault(parents[1], asdict(Own()))
            for parent in parents:
                if not isinstance(level.get(parent), dict):
                    unknown(path, parent, level)
                level = level[parent]
            level[last] = value
        return RunConfig.from_dict(values)


def _arrived(values: Mapping[str, Any], codes: object) -> RunConfig:
    return RunConfig.from_dict(values)


def dump(config: RunConfig) -> str:
    """As YAML."""
    return yaml.safe_dump(plain(config.to_dict()), sort_keys=False)


def load(path: Path, *, of_run: bool = False) -> RunConfig:
    """From a YAML file.

    Args:
        of_run: in a run's folder: files of users' that it names are somebody else's, where nothing says that they are the user's own.

    Raises:
        ValueError: the file is missing, is not plain YAML, or holds a key or value that is not allowed.
    """
    values = read(path)
    keeping.know(path.parent)
    if of_run or (path.parent / "checkpoints").is_dir():
        keeping.look_through(values, path.parent)
    try:
        return RunConfig.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
