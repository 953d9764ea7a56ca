"""Everything needed to make an agent, as plain values that any process can turn into the same agent."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from sparring.agents import attention, checkpoint, networks, recomputed
from sparring.agents.agent import Agent
from sparring.agents.base import Makings
from sparring.agents.lanes import Lanes
from sparring.agents.loading.loader import node_loader
from sparring.agents.memo import Memo
from sparring.agents.networks.foreign import Foreign
from sparring.agents.robustness import check_classifier
from sparring.trainers import code, methods, user
from sparring.trainers.batches import Batches, MakesSteps, last_batch
from sparring.trainers.config import Attack, DataConfig, LoaderConfig, OptimConfig, SpeedConfig, require
from sparring.trainers.data import Dataset, Split
from sparring.trainers.datasets import Prepared
from sparring.trainers.methods.base import Method
from sparring.trainers.rng import seeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an agent says about itself before the first step."""

    steps_per_epoch: int
    total_steps: int
    data_sha256: str
    classes: int
    parameters: int
    device: str
    host: str
    pid: int
    node: str = ""  # address of its Ray node; empty without Ray
    attention: str = ""  # kernels of fused attention, as flash; empty where none is called
    traced: bool = True  # False: its forward runs as it is, slower: no trace of it computes the same, or it has hooks


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """An agent to be made: role, method by name, network, optimiser, data."""

    me: str
    index: int
    method: str  # name, or path of a .py file
    options: dict[str, object] = field(default_factory=dict)  # the method's fields
    network: str | None  # None: that of init
    init: str | None = None  # folder of a saved agent, or one file of weights in it, to start from
    others: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)  # network and init of every network
    optim: OptimConfig
    data: DataConfig
    images: Prepared  # the data set in this node's cache
    attacks: dict[str, Attack]
    batch_size: int
    epochs: int
    max_steps: int | None
    seed: int
    threads: int
    device: Literal["auto", "cpu"] = "auto"
    codes: tuple[code.Code, ...] = ()  # files of a user's that the above names
    memo: str | None = None  # folder of answers that runs share
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    team: str = ""  # names those who share a loader on each node

    def make_method(self) -> Method:
        """The method with its options."""
        return methods.load(self.method)(**self.options)

    def chosen_device(self) -> torch.device:
        """Where the agent computes on this machine."""
        return torch.device("cuda" if self.device == "auto" and torch.cuda.is_available() else "cpu")

    def build(self, lanes: Lanes = Lanes()) -> Agent:
        """The agent with fresh weights: a pure function of this specification, the same for every lane.

        Raises:
            ValueError: unknown method, network or data set.
        """
        device, dataset = self.chosen_device(), self.images.load()
        batches, held_out = self._batches(dataset, device, node_loader(self.loader, self.team))
        method = self.make_method()
        role = method.roles()[self.me]
        network = self._network(dataset, any_classes=not role.same_classes)
        helpers = None
        if type(method).helpers is not Method.helpers:
            configs = {name: _config(*other, dataset) for name, other in self.others.items()}
            with seeded("helpers", self.seed, self.index):
                helpers = method.helpers(self.me, {name: networks.widths(c) for name, c in configs.items()})
        made = Makings(
            me=self.me,
            index=self.index,
            method=method,
            model=network.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
            batches=batches,
            held_out=held_out,
            config=self.optim,
            attacks=self.attacks,
            seed=self.seed,
            total_steps=self.total_steps(batches.steps_per_epoch),
            classes=len(dataset.classes),
            helpers=helpers.to(device) if helpers else None,
            beside={name: self._beside(name, dataset).to(device) for name in role.beside},
            lanes=lanes,
            memo=self._memo(method, network, batches, lanes) if not role.learns else None,
            speed=self.speed,
        )
        return Agent(made)

    def _memo(self, method: Method, network: networks.Network, batches: Batches, lanes: Lanes) -> Memo | None:
        """Where the answers of a frozen network to clean batches are kept, if no hook of the method changes either."""
        own = type(method)
        changed = own.reply, own.inputs, own.answer_mode
        plain = changed == (Method.reply, Method.inputs, Method.answer_mode)
        if self.memo is None or lanes.count > 1 or not plain:
            return None
        how = (str(batches.device), str(self.speed))
        seen = (batches.sha256, self.batch_size, self.seed, str(self.data), *how)
        return Memo(Path(self.memo), network, repr(seen))

    def _beside(self, name: str, dataset: Dataset) -> networks.Network:
        network, init = self.others[name]
        return replace(self, me=name, network=network, init=init)._network(dataset).eval().requires_grad_(False)

    def _network(self, dataset: Dataset, *, any_classes: bool = False) -> networks.Network:
        """Fresh weights, or those of ``init``.

        Raises:
            ValueError: the saved network is for other images or classes.
        """
        if self.init is None:
            assert self.network is not None
            made = _built(networks.configure(self.network, dataset), self.seed, self.index)
            if user.is_function(self.network) or isinstance(made, Foreign):
                _check_users(made, dataset)
            return made
        self._check_fit(checkpoint.network_config(Path(self.init)), dataset, any_classes=any_classes)
        saved = checkpoint.load_model(Path(self.init))
        assert isinstance(saved, networks.Network)
        return saved

    def check_weights(self) -> None:
        """Refuse weights to start from that do not fit, and networks that cannot do what is asked, before any process is made.

        Raises:
            ValueError: they are for other images or classes, or of another network.
            CheckpointError: they cannot be read.
        """
        dataset, role = self.images.load(), self.make_method().roles()[self.me]
        for name in (self.me, *role.beside):
            network, init = self.others[name]
            if init is not None:
                any_classes = name == self.me and not role.same_classes
                own = replace(self, me=name, network=network, init=init)
                own._check_fit(checkpoint.network_config(Path(init)), dataset, any_classes=any_classes)
        network, init = self.others[self.me]
        named = checkpoint.network_config(Path(init)).spec if init is not None else str(network)
        if self.speed.checkpointing and role.learns and named.partition(":")[0] in networks.NETWORKS:
            raise recomputed.refusal(named)

    def _check_fit(self, saved: networks.NetworkConfig, dataset: Dataset, *, any_classes: bool) -> None:
        found = (saved.channels, saved.classes)
        wanted = (dataset.shape[0], saved.classes if any_classes else len(dataset.classes))
        if wanted != found or (self.network is not None and self.network != saved.spec):
            raise ValueError(
                f"{self.me}: the weights in {self.init} are of {saved.spec} for {found[0]} channels and {found[1]} classes; "
                f"the run wants {self.network or 'any network'} for {wanted[0]} channels and {wanted[1]} classes"
            )

    def _batches(
        self, dataset: Dataset, device: torch.device, loader: MakesSteps | None = None
    ) -> tuple[Batches, Split]:
        train, held_out = dataset.held_out(self.data.validation, seed=self.seed, fraction=self.data.fraction)
        extra = self.images.load_extra()
        shape = {"batch_size": self.batch_size, "seed": self.seed, "extra": extra, "device": device}
        return Batches(train, self.data, loader=loader, **shape), held_out  # type: ignore[arg-type]

    def length(self) -> int:
        """Steps of the run, before any agent is built."""
        batches, _ = self._batches(self.images.load(), torch.device("cpu"))
        return self.total_steps(batches.steps_per_epoch)

    def last_batch(self) -> int:
        """Images of an epoch's last batch, before any agent is built."""
        batches, _ = self._batches(self.images.load(), torch.device("cpu"))
        return batches.batch_size if batches.extra is not None else last_batch(len(batches.split), self.batch_size)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Length of the run."""
        total = self.epochs * steps_per_epoch if self.max_steps is None else self.max_steps
        require(total >= 1, f"the run has {total} steps; epochs and max_steps must be >= 1")
        return total


def _built(config: networks.NetworkConfig, *key: int | str) -> networks.Network:
    """With fresh weights; an error of a user's function has its place."""
    try:
        return networks.build(config, *key)
    except Exception as error:
        own = user.placed(error)
        if own is error:
            raise
        raise own from error


def _check_users(network: networks.Network, dataset: Dataset) -> None:
    """Try a user's network on two images before a step is spent on it."""
    x = dataset.train[torch.arange(2)].pixels()
    try:
        check_classifier(network, x, classes=len(dataset.classes))
    except Exception as error:  # whatever a user's forward raises
        raise ValueError(f"network {user.shown(network.config.spec)}: {user.told(error)}") from error


def _config(network: str | None, init: str | None, dataset: Dataset) -> networks.NetworkConfig:
    if init is not None:
        return checkpoint.network_config(Path(init))
    assert network is not None
    return networks.configure(network, dataset)


def _attention(agent: Agent) -> str:
    if not isinstance(agent.model, Foreign):  # those of our own have none
        return ""
    return attention.kernels(agent.model, agent.batches.batch(0).x[:2], precision=agent.speed.precision)


def describe(agent: Agent) -> Facts:
    """What the driver wants to know of an agent, and compares between agents."""
    return Facts(
        steps_per_epoch=agent.batches.steps_per_epoch,
        total_steps=agent.total_steps,
        data_sha256=agent.batches.sha256,
        classes=agent.classes,
        parameters=sum(p.numel() for p in agent.model.parameters()),
        device=str(agent.batches.device) if agent.batches.device.type == "cpu" else torch.cuda.get_device_name(),
        host=socket.gethostname(),
        pid=os.getpid(),
        attention=_attention(agent),
        traced=agent.views.traced,
    )
