"""An agent in plain Python: network, optimiser, role and method state, driven by four verbs.

    craft    attack the own network on the batch of step t
    answer   logits in the method's mode, no gradient
    predict  the train-mode passes, their graph kept for this step's learn
    learn    loss, backward, optimiser step: once per step

A learner refuses every verb whose step is not its own, so a call that survived a failure cannot move it. All randomness
is drawn from (seed, step, agent, purpose): there is no random state, and a saved agent is its tensors and a few numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from agents.exchange import detach, nbytes
from agents.lanes import Lanes
from agents.learner import Learner, weighed
from agents.memo import Memo
from agents.meter import Meter
from agents.robustness import accuracies
from agents.state import AgentState, NotFinite, WrongStep
from trainers import attacks, optim
from trainers.config import Attack, OptimConfig
from trainers.data import Batches, Split
from trainers.methods.base import Method, Model
from trainers.rng import generator, seeded
from trainers.types import Adversarial, Answer, Batch, Loss, Message, Metrics, When

M = TypeVar("M")


class Agent:
    """One agent of a run.

    Args:
        me: role name.
        index: place of the role in ``method.roles()``; part of every random key.
        method: the method, shared by all agents.
        model: its network, on its device.
        batches: the run's training batches.
        held_out: examples on which ``evaluate`` compares checkpoints.
        config: its optimiser and schedule.
        attacks: the configured attacks by name.
        seed: the run's seed.
        total_steps: length of the run, for the schedule.
        classes: number of classes.
        helpers: what the method trains besides the network.
        beside: frozen networks that the method calls in its hooks here.
        lanes: which share of every batch is this replica's.
    """

    def __init__(
        self,
        *,
        me: str,
        index: int,
        method: Method,
        model: nn.Module,
        batches: Batches,
        held_out: Split,
        config: OptimConfig,
        attacks: Mapping[str, Attack],
        seed: int,
        total_steps: int,
        classes: int,
        helpers: nn.Module | None = None,
        beside: Mapping[str, nn.Module] | None = None,
        lanes: Lanes = Lanes(),
        memo: Memo | None = None,
    ) -> None:
        self.me, self.index, self.method, self.model = me, index, method, model
        self.view = Model(model, helpers=helpers, beside=beside)  # what the method's hooks see
        self.batches, self.held_out, self.config, self.attacks = batches, held_out, config, attacks
        self.seed, self.total_steps, self.classes, self.lanes = seed, total_steps, classes, lanes
        self.memo = memo
        self.learns = method.roles()[me].learns
        self.learner = Learner(self.view, config, epochs=total_steps / batches.steps_per_epoch) if self.learns else None
        self.method_state = method.start_state(me)
        self.t, self.lr_factor = 0, 1.0
        self.meter = Meter()
        self.view.train(self.learns)
        self._cached: tuple[int, Tensor, Batch] | None = None
        self._kept: tuple[Message, dict[str, Any]] | None = None  # what predict made, and from what

    def craft(self, t: int, *, attack: str = "train", **hints: Any) -> Adversarial:
        """Attack the own network on the batch of step ``t``."""
        with self._verb("craft", t):
            (x, batch), rng = self._batches(t), self._rng(t, f"attack {attack}")
            chosen = self.method.attack(
                self.me, attack, self.attacks, state=self.method_state, when=self._when(t), rng=rng
            )
            with attacks.frozen(self.view, bn=chosen.bn), self._seeded(t, f"dropout {attack}"):
                objective = self.method.objective(self.me, self.view, batch, **hints)
                adv = attacks.run(chosen, objective, x, rng=rng, rows=self.lanes.rows(len(x)))
                return self._publish(Adversarial(adv))

    def answer(self, t: int, on: Mapping[str, Adversarial] | Adversarial | None = None) -> Answer | dict[str, Answer]:
        """Logits on the clean batch, on one message, or on each of several."""
        mode = self.method.answer_mode(self.me)
        with self._verb("answer", t), attacks.frozen(self.view, bn=mode), self._seeded(t, "answer"), torch.no_grad():
            if isinstance(on, Mapping):
                return self._publish({k: self.method.reply(self.me, self.view, v.x) for k, v in on.items()})
            if on is not None or self.memo is None:
                return self._publish(self.method.reply(self.me, self.view, self._batch(t).x if on is None else on.x))
            reply = partial(self.method.reply, self.me, self.view)
            return self._publish(self.memo.answer(t, lambda: reply(self._batch(t).x), device=self.batches.device))

    def predict(self, t: int, **seen: Any) -> Message:
        """Run the method's train-mode passes and keep their graph for this step's ``learn``."""
        with self._verb("predict", t):
            assert self._kept is None, f"{self.me}: step {t} was predicted twice"
            own = self._forward(t, seen)
            self._kept = (own, seen)
            values: Message = detach(own)
            return self._publish(values)

    def learn(self, t: int, **seen: Any) -> Metrics:
        """One optimiser step.

        Raises:
            NotFinite: a term is NaN or infinite; the weights stay as they were.
        """
        assert self.learner is not None, f"{self.me} is frozen and cannot learn"
        with self._verb("learn", t):
            when = self._when(t)
            own, given = self._kept or (self._forward(t, seen), seen)
            loss = self._loss(t, own, seen)
            n = len(self._batches(t)[0])
            values = self._values(loss, t, n)
            weights, state = self.method.balance(self.me, values, self.method_state, when)
            total, whole = weighed(loss, weights), sum(weights.get(k, 1.0) * values[k] for k in loss.terms)
            again = lambda: weighed(self._loss(t, self._forward(t, given), seen), weights)  # noqa: E731
            self.learner.step(total, when, again, lambda gradients: self.lanes.mean_(gradients, n))
            if (t + 1) % self.batches.steps_per_epoch == 0:
                steps = range(t + 1 - self.batches.steps_per_epoch, t + 1)
                with self._seeded(t, "swa"):
                    self.learner.end_epoch(when.epoch, (self.batches.batch(s).x for s in steps))
            self.method_state, self.t = state, t + 1
            values |= {k: v for k, v in state.items() if isinstance(v, float)}  # weights, temperatures of the next step
            values |= {"total": whole, "lr": self.config.lr * when.lr_scale}
        return self._metrics(values)

    def report(self, t: int) -> Metrics:
        """What a frozen agent did in step ``t``: a learner's ``learn`` says it for a learner."""
        return self._metrics({})

    def evaluate(self, t: int, by: Sequence[Attack]) -> dict[str, dict[str, float]]:
        """Accuracies on the held-out images of the network ("") and of each average of its weights. Changes nothing."""
        self._guard(t)
        averages = self.learner.averages if self.learner else {}
        networks = {"": self.model} | {name: a.network for name, a in averages.items() if a.n > 0}
        options: dict[str, Any] = {"seed": self.seed, "device": self.batches.device, "dtype": self.batches.dtype}
        own = self.attacks["train"]
        return {name: accuracies(n, self.held_out, by, own=own, **options) for name, n in networks.items()}

    def state(self, t: int) -> AgentState:
        """A copy of everything that step ``t - 1`` left behind.

        Raises:
            NotFinite: a weight is NaN or infinite, so this state is not worth keeping.
        """
        self._guard(t)
        assert self._kept is None, f"{self.me}: step {t} was predicted but not learned"
        model = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        for name, value in model.items():
            if not bool(value.isfinite().all()):
                raise NotFinite(self.me, f"weight {name}", t, value[~value.isfinite()][0].item())
        tensors, extra = self.learner.state() if self.learner else ({}, {})
        return AgentState(self.t, model, tensors, dict(self.method_state), self.lr_factor, extra)

    def load_state(self, state: AgentState) -> None:
        """Continue from ``state``; whatever was under way is forgotten."""
        self.model.load_state_dict(state.model)
        if self.learner is not None:
            self.learner.load_state(state.optim, state.extra)
        self.method_state, self.t, self.lr_factor = dict(state.method), state.t, state.lr_factor
        self._forget()

    def warm_up(self) -> None:
        """Pay for the first, slow call of every kernel before the first step; changes nothing."""
        batch = self.batches.batch(0)
        with attacks.frozen(self.view), torch.no_grad():
            self.view(batch.x)

    # Inside --------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._cached, self._kept = None, None
        self.meter.forget()

    def _metrics(self, values: dict[str, float]) -> Metrics:
        metrics = self.meter.metrics(values, self.batches.device)
        self._forget()
        return metrics

    def _guard(self, t: int) -> None:
        if self.learns and t != self.t:
            raise WrongStep(f"{self.me} is at step {self.t} and was called for step {t}")

    @contextmanager
    def _verb(self, name: str, t: int) -> Iterator[None]:
        self._guard(t)
        with self.meter.timed(name):
            yield

    def _publish(self, message: M) -> M:
        self.meter.published(nbytes(message))
        return message

    def _batches(self, t: int) -> tuple[Tensor, Batch]:
        """Images of the whole batch, and this lane's share of the batch."""
        if self._cached is None or self._cached[0] != t:
            rng = generator(self.seed, t, "inputs", device=self.batches.device)  # the same at every agent
            whole = self.method.inputs(self.batches.batch(t), rng)
            self._cached = (t, whole.x, whole.rows(self.lanes.rows(len(whole.x))))
        return self._cached[1:]

    def _batch(self, t: int) -> Batch:
        return self._batches(t)[1]

    def _when(self, t: int) -> When:
        at = optim.when(
            self.config, t, steps_per_epoch=self.batches.steps_per_epoch, total_steps=self.total_steps, seed=self.seed
        )
        return replace(at, lr_scale=self.lr_factor * at.lr_scale)

    def _forward(self, t: int, seen: dict[str, Any]) -> Message:
        if self.learner is not None and self._kept is None and self.learner.perturbs(self._when(t)):
            self.learner.remember_buffers()
        with self._seeded(t, "forward"):
            return self.method.forward(self.me, self.view, self._batch(t), **seen)

    def _loss(self, t: int, own: Message, seen: dict[str, Any]) -> Loss:
        return self.method.loss(self.me, own, self._batch(t), state=self.method_state, when=self._when(t), **seen)

    def _seeded(self, t: int, purpose: str) -> AbstractContextManager[None]:
        """What a network draws itself (dropout) is a function of the step too."""
        return seeded(self.seed, t, self.index, purpose, device=self.batches.device)

    def _rng(self, t: int, purpose: str) -> torch.Generator:
        return generator(self.seed, t, self.index, purpose, device=self.batches.device)

    def _values(self, loss: Loss, t: int, n: int) -> dict[str, float]:
        """Means of all terms over a batch of ``n``; every lane sees the same, so all raise or none."""
        own = {k: v.item() for k, v in (loss.terms | loss.stats).items()}
        values = self.lanes.mean(own, n, device=self.batches.device)
        for name, value in values.items():
            if not isfinite(value):
                raise NotFinite(self.me, f"loss term {name!r}", t, value)
        return values
