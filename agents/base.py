"""What the verbs of an agent stand on: its parts, and what follows from seed and step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparring.agents.exchange import nbytes
from sparring.agents.lanes import Lanes
from sparring.agents.learner import Learner
from sparring.agents.memo import Memo
from sparring.agents.meter import Meter
from sparring.agents.parts import cut
from sparring.agents.precision import arithmetic
from sparring.agents.state import TooLarge, WrongStep
from sparring.agents.views import Views
from sparring.trainers import optim
from sparring.trainers.batches import Batches
from sparring.trainers.config import Attack, OptimConfig, SpeedConfig
from sparring.trainers.data import Split
from sparring.trainers.methods.base import Method
from sparring.trainers.rng import generator, seeded
from sparring.trainers.types import Batch, Loss, Message, Metrics, Share, When

M = TypeVar("M")
NO_MEMORY = (
    "can't allocate memory",
    "could not create a primitive",
)  # torch's allocator; oneDNN, which does not say why (torch 2.15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Makings:
    """What an agent is made of."""

    me: str  # role name
    index: int  # place of the role in ``method.roles()``; part of every random key
    method: Method  # shared by all agents
    model: nn.Module  # its network, on its device
    batches: Batches  # the run's training batches
    held_out: Split  # examples on which ``evaluate`` compares checkpoints
    config: OptimConfig  # its optimiser and schedule
    attacks: Mapping[str, Attack]  # as configured, by name
    seed: int  # of the run
    total_steps: int  # length of the run, for the schedule
    classes: int
    helpers: nn.Module | None = None  # what the method trains besides the network
    beside: Mapping[str, nn.Module] | None = None  # frozen networks that the method calls in its hooks here
    lanes: Lanes = field(default_factory=Lanes)  # which share of every batch is this replica's
    memo: Memo | None = None  # where a frozen agent's answers to clean batches are kept
    speed: SpeedConfig = field(default_factory=SpeedConfig)  # precision, compilation and splitting of what is computed


class Base:
    """An agent without its verbs."""

    def __init__(self, made: Makings) -> None:
        self.me, self.index, self.method, self.model = made.me, made.index, made.method, made.model
        self.batches, self.held_out = made.batches, made.held_out
        self.config, self.attacks, self.speed = made.config, made.attacks, made.speed
        self.seed, self.total_steps, self.classes = made.seed, made.total_steps, made.classes
        self.lanes, self.memo = made.lanes, made.memo
        example = self.batches.batch(0).x[:2]
        helpers = made.helpers
        if helpers is None:
            carried = self.method.carried_tensors(self.me, self.attacks)
            helpers = carried.to(self.batches.device) if carried is not None else None
        self.learns = self.method.roles()[self.me].learns
        self.views = Views(self.model, example, self.speed, learns=self.learns, helpers=helpers, beside=made.beside)
        self.view = self.views.training
        epochs = self.total_steps / self.batches.steps_per_epoch
        again = self.speed.checkpointing
        self.learner = Learner(self.view, self.config, epochs=epochs, checkpointing=again) if self.learns else None
        self.method_state = self.method.start_state(self.me)
        self.t, self.lr_factor = 0, 1.0
        self.meter = Meter()
        self.view.train(self.learns)
        self._cached: tuple[int, Tensor, Batch] | None = None
        self._kept: tuple[Message, dict[str, Any]] | None = None  # what predict made, and from what

    def _forget(self) -> None:
        self._cached, self._kept = None, None
        self.meter.forget()

    def _metrics(self, values: dict[str, float], shares: dict[str, Share] | None = None) -> Metrics:
        metrics = self.meter.metrics(values, self.batches.device, shares or {})
        self._forget()
        return metrics

    def _guard(self, t: int) -> None:
        if self.learns and t != self.t:
            raise WrongStep(f"{self.me} is at step {self.t} and was called for step {t}")

    @contextmanager
    def _verb(self, name: str, t: int) -> Iterator[None]:
        self._guard(t)
        with self._in_memory(name, t), self.meter.timed(name), arithmetic(self.speed.precision):
            yield
            if name != "learn" and self.batches.device.type == "cuda":  # what is said next waits for it anyway
                torch.cuda.synchronize(self.batches.device)

    @contextmanager
    def _in_memory(self, name: str, t: int, images: int | None = None) -> Iterator[None]:
        """Say what to do where the device's memory does not hold so many images at once; default a share of the batch."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY):
                images = images or -(-self.batches.batch_size // self.lanes.count)
                at_once = min(images, self.speed.micro_batch or images)
                raise TooLarge(self.me, name, t, str(self.batches.device), at_once) from error
            raise

    def _publish(self, message: M) -> M:
        self.meter.published(nbytes(message))
        return message

    def _batches(self, t: int) -> tuple[Tensor, Batch]:
        """Images of the whole batch, and this lane's share of the batch."""
        if self._cached is None or self._cached[0] != t:
            rng = generator(self.seed, t, "inputs", device=self.batches.device)  # the same at every agent
            whole = self.method.inputs(self._images(t), rng)
            self._cached = (t, whole.x, whole.rows(self.lanes.rows(len(whole.x))))
        return self._cached[1:]

    def _images(self, t: int) -> Batch:
        """The batch that step ``t`` sees, of the step's own epoch."""
        steps = self.method.steps_on_a_batch()
        seen = self.batches.batch(t // steps)
        return seen if steps == 1 else replace(seen, epoch=t // self.batches.steps_per_epoch)

    def _batch(self, t: int) -> Batch:
        return self._batches(t)[1]

    def images_of(self, t: int) -> int:
        """How many images this agent sees in step ``t``."""
        return len(self._batch(t).x)

    def _when(self, t: int) -> When:
        at = optim.when(
            self.config, t, steps_per_epoch=self.batches.steps_per_epoch, total_steps=self.total_steps, seed=self.seed
        )
        return replace(at, lr_scale=self.lr_factor * at.lr_scale)

    def _seeded(self, t: int, purpose: str) -> AbstractContextManager[None]:
        """What a network draws itself (dropout) is a function of the step too."""
        return seeded(self.seed, t, self.index, purpose, device=self.batches.device)

    def _rng(self, t: int, purpose: str) -> torch.Generator:
        return generator(self.seed, t, self.index, purpose, device=self.batches.device)

    def _divided(self, t: int) -> bool:
        """Whether some lane's share is too large to go at once: then all lanes go in parts, and average equally often."""
        largest = -(-len(self._batches(t)[0]) // self.lanes.count)
        return len(cut(largest, self.speed.micro_batch)) > 1

    def _parts(self, t: int) -> list[slice]:
        return cut(len(self._batch(t).x), self.speed.micro_batch)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Passes without a graph that leave batch norm as it was."""
        buffers = [(b, b.clone()) for b in self.view.buffers()]
        with torch.no_grad():
            yield
            for b, before in buffers:
                b.copy_(before)

    def _measured(self, t: int, loss: Loss) -> bool:
        """Whether the share of each of several terms is noted: in an epoch's last step, and in the run's."""
        last = (t + 1) % self.batches.steps_per_epoch == 0 or t + 1 == self.total_steps
        return last and len(loss.terms) > 1
