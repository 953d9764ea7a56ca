"""The messages between agents and the few values around them. Everything is frozen.

Tensors in a message are detached and contiguous, float32 unless a run computes in float64. B images per batch, C
channels, K classes. A method may define messages of its own in its file by subclassing :class:`Message`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from torch import Tensor

R = TypeVar("R")  # a message inside an agent; a reference to one on the driver
State: TypeAlias = dict[str, object]  # a method's mutable state: floats, ints, strings, None and lists of them (JSON)
Payload: TypeAlias = "R | Mapping[str, Payload[R]]"  # what a verb takes: one value, or named ones, nested at will


@dataclass(frozen=True, slots=True)
class When:
    """The moment of a step; a pure function of ``t``."""

    t: int
    epoch: int
    lr_scale: float  # learning rate now / base learning rate
    seed: int = 0  # the run's


@dataclass(frozen=True, slots=True)
class Batch:
    """Clean images and labels of one step, the same at every agent."""

    x: Tensor  # [B, C, H, W] in [0, 1]
    y: Tensor  # [B] int64
    y2: Tensor | None = None  # [B] int64, labels of the mixup partners
    lam: float = 1.0  # weight of y; that of y2 is 1 - lam
    epoch: int = 0  # counted from 0

    def rows(self, rows: slice) -> Batch:
        """The same of some examples only."""
        y2 = self.y2[rows] if self.y2 is not None else None
        return replace(self, x=self.x[rows], y=self.y[rows], y2=y2)


@dataclass(frozen=True, slots=True)
class Message:
    """Base of everything that travels between agents. Fields: tensors, None, tuples or dicts of tensors."""


@dataclass(frozen=True, slots=True)
class Adversarial(Message):
    """Adversarial examples, in the ball of their attack and in the box."""

    x: Tensor  # [B, C, H, W] in [0, 1]


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """What an agent says about images: ``Answer(logits=tensor([[2.1, -0.3, ...], ...]))``."""

    logits: Tensor  # [B, K]
    maps: tuple[Tensor, ...] = ()  # one [B, C_i] per tapped block (MixACM)


@dataclass(frozen=True, slots=True)
class Loss:
    """Named terms of a loss, before ``balance`` weighs them."""

    terms: dict[str, Tensor]  # scalars that keep their graph
    stats: dict[str, Tensor] = field(default_factory=dict)  # scalars without one: reported, and seen by ``balance``


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Accuracies of one network on the images held out of training, in [0, 1]."""

    clean: float
    robust: float  # right when clean and after every attack by which checkpoints are compared
    own_attack: float  # after the training attack's steps, which raise what the others do
    n: float  # images


class Share(NamedTuple):
    """What one term is of a whole loss, in [0, 1]."""

    loss: float  # of the sum of the terms' sizes
    gradient: float  # of the sum of the lengths of the terms' gradients


@dataclass(frozen=True, slots=True)
class Metrics:
    """What one learner reports of one step."""

    values: dict[str, float]  # loss terms, stats, total, lr: the same bytes on every team
    exchange_bytes: int  # bytes of tensors that this agent published in the step
    seconds: dict[str, float]  # wall time of each verb, of packing and unpacking (exchange), and of waiting (idle)
    memory: int = 0  # peak bytes of the agent so far
    spans: tuple[tuple[str, float, float], ...] = ()  # the same calls one by one: name, start (time.time), seconds
    shares: dict[str, Share] = field(default_factory=dict)  # per term, in an epoch's last step and the run's


@dataclass(frozen=True, slots=True)
class Role:
    """How an agent takes part: a learner has an optimiser and steps; a frozen one crafts and answers."""

    learns: bool
    beside: tuple[str, ...] = ()  # names of frozen networks that live with this agent and are called in its hooks
    same_classes: bool = True  # False: its network may tell other classes apart than the data's


LEARNER, FROZEN = Role(True), Role(False)


class Handle(Protocol[R]):
    """One agent as a method's ``step`` sees it. Only references pass through."""

    def craft(self, t: int, *, attack: str = "train", **hints: Payload[R]) -> R:
        """Attack the agent's own network on the batch of step ``t``; refers to an :class:`Adversarial`."""

    def answer(self, t: int, on: Payload[R] | None = None) -> R:
        """Logits without gradient on the clean batch (an :class:`Answer`), or on each named example (a dict of them)."""

    def predict(self, t: int, **seen: Payload[R]) -> R:
        """Run ``forward``, keep its graph for this step's ``learn`` and refer to the detached values."""

    def learn(self, t: int, **seen: Payload[R]) -> None:
        """Loss, backward and optimiser step: exactly once per learner and step."""


class Team(Protocol[R]):
    """All agents of a run by role name."""

    def __getitem__(self, role: str) -> Handle[R]: ...
