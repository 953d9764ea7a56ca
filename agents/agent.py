"""An agent in plain Python: network, optimiser, role and method state, driven by four verbs.

    craft    attack the own network on the batch of step t
    answer   logits in the method's mode, no gradient
    predict  the train-mode passes, their graph kept for this step's learn
    learn    loss, backward, optimiser step: once per step

A learner refuses every verb whose step is not its own, so a call that survived a failure cannot move it. All randomness
is drawn from (seed, step, agent, purpose): there is no random state, and a saved agent is its tensors and a few numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sparring.agents import deeper
from sparring.agents.base import Base
from sparring.agents.exchange import detach
from sparring.agents.learner import Terms, copied, weighed
from sparring.agents.parts import cut, joined, mean, rows
from sparring.agents.robustness import BLOCK, Judging, accuracies
from sparring.agents.state import AgentState, NotFinite
from sparring.trainers import attacks
from sparring.trainers.config import Measure
from sparring.trainers.losses import cross_entropy
from sparring.trainers.methods.base import Method
from sparring.trainers.types import Adversarial, Answer, HeldOut, Loss, Message, Metrics, State, When

# values of terms and stats, weights of the terms, next state, names of the terms
_Learned: TypeAlias = tuple[dict[str, float], dict[str, float], State, list[str]]


class Agent(Base):
    """One agent of a run; what it is made of: :class:`Base`."""

    def craft(self, t: int, *, attack: str = "train", **hints: Any) -> Adversarial:
        """Attack the own network on the batch of step ``t``."""
        with self._verb("craft", t):
            ends = [self._attacked(t, attack, part, hints) for part in self._parts(t)]
            return self._publish(Adversarial(ends[0] if len(ends) == 1 else torch.cat(ends)))

    def _attacked(self, t: int, attack: str, part: slice, hints: dict[str, Any]) -> Tensor:
        (x, batch), rng = self._batches(t), self._rng(t, f"attack {attack}")  # draws for the whole batch, in every part
        chosen = self.method.attack(self.me, attack, self.attacks, state=self.method_state, when=self._when(t), rng=rng)
        n, first = len(batch.x), self.lanes.rows(len(x)).start or 0
        with self.views.held(chosen.bn) as view, self._seeded(t, f"dropout {attack}"):
            objective = self.method.objective(self.me, view, batch.rows(part), **rows(hints, part, n))
            return attacks.run(chosen, objective, x, rng=rng, rows=slice(first + part.start, first + part.stop))

    def answer(self, t: int, on: Mapping[str, Adversarial] | Adversarial | None = None) -> Answer | dict[str, Answer]:
        """Logits on the clean batch, on one message, or on each of several."""
        mode = self.method.answer_mode(self.me)
        with self._verb("answer", t), self.views.held(mode) as view, self._seeded(t, "answer"), torch.no_grad():
            say = partial(self.method.reply, self.me, view)

            def reply(x: Tensor) -> Answer:
                whole: Answer = joined([say(x[part]) for part in cut(len(x), self.speed.micro_batch)])
                return whole

            if isinstance(on, Mapping):
                return self._publish({k: reply(v.x) for k, v in on.items()})
            if on is not None or self.memo is None:
                return self._publish(reply(self._batch(t).x if on is None else on.x))
            return self._publish(self.memo.answer(t, lambda: reply(self._batch(t).x), device=self.batches.device))

    def predict(self, t: int, **seen: Any) -> Message:
        """Run the method's train-mode passes and keep their graph for this step's ``learn``."""
        with self._verb("predict", t):
            assert self._kept is None, f"{self.me}: step {t} was predicted twice"
            if not self._divided(t):
                own = self._forward(t, seen)
            else:
                with self._looking():
                    own = joined([self._forward(t, seen, part) for part in self._parts(t)])
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
            when, n, looked = self._when(t), len(self._batches(t)[0]), self._deeper(t)
            learned = self._in_parts if self._divided(t) else self._whole
            values, weights, state, terms = learned(t, when, n, seen)
            parts = {k: weights.get(k, 1.0) * values[k] for k in terms}
            shares = self.learner.shares(parts, lambda gradients: self.lanes.mean_(gradients, n))
            if (t + 1) % self.batches.steps_per_epoch == 0:
                steps = range(t + 1 - self.batches.steps_per_epoch, t + 1)
                with self._seeded(t, "swa"):
                    whole = (self._images(s).x for s in steps)
                    inputs = (x[part] for x in whole for part in cut(len(x), self.speed.micro_batch))
                    self.learner.end_epoch(when.epoch, inputs)
            self.views.changed()
            self.method_state, self.t = state, t + 1
            values |= {k: v for k, v in state.items() if isinstance(v, float)}  # weights, temperatures of the next step
            values |= looked | {"total": sum(parts.values())} | self.learner.said
        return self._metrics(values, shares)

    def _deeper(self, t: int) -> dict[str, float]:
        """See ``deeper``, in the steps that look; the same at every lane."""
        n, own = len(self._batches(t)[0]), self.attacks["train"]
        if n < deeper.FEWEST or not deeper.due(t, self.batches.steps_per_epoch, own):
            return {}
        found: dict[str, list[float]] = {}
        with self.views.held() as view:
            for part in self._parts(t):
                rng = self._rng(t, f"deeper {part.start}")
                for name, value in deeper.look(view, self._batch(t).rows(part), own, rng).items():
                    found.setdefault(name, []).append(float(value) * (part.stop - part.start))
        means = {name: sum(values) / len(self._batch(t).x) for name, values in found.items()}
        return self.lanes.mean(means, n, device=self.batches.device)

    def _whole(self, t: int, when: When, n: int, seen: dict[str, Any]) -> _Learned:
        """Step on the whole batch at once."""
        assert self.learner is not None
        own, given = self._kept or (self._forward(t, seen), seen)
        loss = self._loss(t, own, seen)
        values = self._values(loss, t, n)
        weights, state = self.method.balance(self.me, values, self.method_state, when)

        def again() -> Terms:
            return weighed(self._loss(t, self._forward(t, given), seen), weights)

        self.learner.begin(when, measured=self._measured(t, loss))
        self.learner.step(weighed(loss, weights), when, again, lambda gradients: self.lanes.mean_(gradients, n))
        return values, weights, state, list(loss.terms)

    def _in_parts(self, t: int, when: When, n: int, seen: dict[str, Any]) -> _Learned:
        """Step on the sum of the parts' gradients. Weights that depend on the whole batch's losses need a look at them first."""
        assert self.learner is not None
        given, parts, size = (self._kept or (None, seen))[1], self._parts(t), len(self._batch(t).x)
        shares = [(part.stop - part.start) / size for part in parts]

        def loss_of(part: slice) -> Loss:
            return self._loss(t, self._forward(t, given, part), seen, part)

        weights: dict[str, float] = {}
        if type(self.method).balance is not Method.balance:
            with self._looking():
                values = self._values(mean(shares, [loss_of(part) for part in parts]), t, n)
            weights, _ = self.method.balance(self.me, values, self.method_state, when)
        losses: list[Loss] = []
        for share, part in zip(shares, parts, strict=True):
            losses.append(loss_of(part))
            if len(losses) == 1:
                self.learner.begin(when, measured=self._measured(t, losses[0]))
            self.learner.backward(weighed(losses[-1], weights), share)
        whole = mean(shares, losses)
        values = self._values(whole, t, n)
        weights, state = self.method.balance(self.me, values, self.method_state, when)
        self.learner.end(lambda gradients: self.lanes.mean_(gradients, n))
        return values, weights, state, list(whole.terms)

    def report(self, t: int) -> Metrics:
        """What a frozen agent did in step ``t``: a learner's ``learn`` says it for a learner."""
        return self._metrics({})

    def evaluate(self, t: int, by: Measure) -> dict[str, HeldOut]:
        """Accuracies on the held-out images of the network ("") and of each average of its weights. Changes nothing."""
        self._guard(t)
        averages = self.learner.averages if self.learner else {}
        networks = {"": self.model}
        networks |= {name: a.network for name, a in averages.items() if a.n > 0}
        how = Judging(
            seed=self.seed,
            device=self.batches.device,
            dtype=self.batches.dtype,
            at_once=self.speed.micro_batch,
        )
        own = self.attacks["train"]
        with self._in_memory("evaluate", t, BLOCK):
            judged = {name: self.views.judged(n) for name, n in networks.items()}
            return {name: accuracies(n, self.held_out, by, how, own=own) for name, n in judged.items()}

    def state(self, t: int) -> AgentState:
        """A copy of everything that step ``t - 1`` left behind.

        Raises:
            NotFinite: a weight is NaN or infinite, so this state is not worth keeping.
        """
        self._guard(t)
        assert self._kept is None, f"{self.me}: step {t} was predicted but not learned"
        model = copied(self.model)
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
        self.views.changed()
        self._forget()

    def warm_up(self, lanes: int = 1) -> None:
        """Pay for the first, slow call of every kernel before the first step, and compile; changes nothing.

        Args:
            lanes: among how many a batch will be divided.
        """
        batch = self.batches.batch(0)
        share = -(-len(batch.x) // lanes)
        batch = batch.rows(cut(share, self.speed.micro_batch)[0])
        with self._in_memory("warm-up", self.t, share), self.views.held() as view:
            if self.learns:
                attacks.gradient(lambda x: cross_entropy(view(x), batch.y), batch.x)
            else:
                with torch.no_grad():
                    view(batch.x)

    def _forward(self, t: int, seen: dict[str, Any], part: slice | None = None) -> Message:
        if self.learner is not None and self._kept is None and self.learner.perturbs(self._when(t)):
            self.learner.remember_buffers()
        self.views.changed()  # batch norm moves
        batch = self._batch(t)
        if part is not None:
            batch, seen = batch.rows(part), rows(seen, part, len(batch.x))
        with self._seeded(t, "forward"), self.views.lower():
            return self.method.forward(self.me, self.view, batch, **seen)

    def _loss(self, t: int, own: Message, seen: dict[str, Any], part: slice | None = None) -> Loss:
        batch = self._batch(t)
        if part is not None:
            batch, seen = batch.rows(part), rows(seen, part, len(batch.x))
        return self.method.loss(self.me, own, batch, state=self.method_state, when=self._when(t), **seen)

    def _values(self, loss: Loss, t: int, n: int) -> dict[str, float]:
        """Means of all terms over a batch of ``n``; every lane sees the same, so all raise or none."""
        named, device = loss.terms | loss.stats, self.batches.device
        packed = torch.stack([v.detach().to(device) for v in named.values()]).double()  # a GPU is waited for once
        values = self.lanes.mean(dict(zip(named, packed.tolist(), strict=True)), n, device=device)
        for name, value in values.items():
            if not isfinite(value):
                raise NotFinite(self.me, f"loss term {name!r}", t, value)
        return values
