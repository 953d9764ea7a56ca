"""The part of an agent that changes weights: optimiser, clipping, averages, weight perturbation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from sparring.agents.recomputed import unmoved
from sparring.agents.shares import Gradients
from sparring.trainers import optim
from sparring.trainers.averaging import Average, recompute_batch_norm
from sparring.trainers.config import OptimConfig
from sparring.trainers.losses import scaled
from sparring.trainers.methods.base import Model
from sparring.trainers.perturbation import perturbed
from sparring.trainers.types import Loss, Share, When

Terms: TypeAlias = Mapping[str, Tensor]  # scalars that keep their graph


class Learner:
    """Steps a network and the method's helpers beside it.

    Args:
        model: the network with its helpers.
        config: optimiser, schedule, averages and perturbation.
        epochs: length of the run, for the default start of SWA.
        checkpointing: backward passes compute blocks of the network again.

    Attributes:
        said: learning rate of the last step and, where gradients are clipped, their length before, for its metrics.
    """

    def __init__(self, model: Model, config: OptimConfig, *, epochs: float, checkpointing: bool = False) -> None:
        self.model, self.config, self._checkpointing = model, config, checkpointing
        self.optimiser = optim.build(model.network, config, helpers=model.helpers)
        self.averages: dict[str, Average] = {}
        if config.ema:
            self.averages["ema"] = Average(model.network)
        if config.swa:
            self.averages["swa"] = Average(model.network)
        self.swa_start = config.swa_start if config.swa_start is not None else optim.swa_start(config, epochs)
        self.gradients: Gradients | None = None  # of single terms, in a step that is measured
        self.said: dict[str, float] = {}
        self._buffers: list[Tensor] = []

    def perturbs(self, when: When) -> bool:
        """Whether the weights are perturbed in this step."""
        return self.config.awp > 0 and when.epoch >= self.config.awp_warmup

    def remember_buffers(self) -> None:
        """Note the batch-norm statistics before the pass that only finds the perturbation."""
        self._buffers = [b.clone() for b in self.model.network.buffers()]

    def step(
        self, terms: Terms, when: When, again: Callable[[], Terms], average: Callable[[Sequence[Tensor]], None]
    ) -> None:
        """One optimiser step on the sum of weighed terms; ``begin`` comes before it.

        Args:
            again: computes the terms anew where the weights are perturbed.
            average: replaces gradients in place by their means over all lanes.
        """
        if self.perturbs(when):
            if self.gradients is not None:
                self.gradients.add(terms)
            with perturbed(self.model.network, total(terms), size=self.config.awp, average=average):
                for b, old in zip(self.model.network.buffers(), self._buffers, strict=True):
                    b.copy_(old)
                anew = total(again())
                with unmoved(self.model.network, checkpointing=self._checkpointing):
                    anew.backward()  # type: ignore[no-untyped-call]
        else:
            self.backward(terms)
        self.end(average)

    def begin(self, when: When, *, measured: bool = False) -> None:
        """Forget the last gradients; the learning rate of this moment.

        Args:
            measured: note each term's own gradient, too.
        """
        self.optimiser.lr = self.config.lr * when.lr_scale
        self.said = {"lr": self.optimiser.lr}
        self.optimiser.zero_grad()
        self.gradients = Gradients(self.model.parameters()) if measured else None

    def backward(self, terms: Terms, share: float = 1.0) -> None:
        """Add the gradients of a batch's weighed terms, or of a part that is ``share`` of the batch."""
        with unmoved(self.model.network, checkpointing=self._checkpointing):
            if self.gradients is not None:
                self.gradients.add(terms, share)
            (total(terms) * share if share != 1.0 else total(terms)).backward()  # type: ignore[no-untyped-call]

    def shares(self, values: Mapping[str, float], average: Callable[[Sequence[Tensor]], None]) -> dict[str, Share]:
        """Per term, where the step was measured, once; else nothing. ``values``: the weighed terms."""
        measured, self.gradients = self.gradients, None
        return measured.shares(values, average) if measured is not None else {}

    def end(self, average: Callable[[Sequence[Tensor]], None]) -> None:
        """Change the weights by the gradients that are there."""
        average(self.optimiser.gradients)
        if self.config.clip:
            self.said["gradient_norm"] = clip_grad_norm_(self.optimiser.parameters, self.config.clip).item()
        self.optimiser.step()
        if "ema" in self.averages:
            self.averages["ema"].decay(self.model.network, self.config.ema)

    def end_epoch(self, epoch: int, inputs: Iterable[Tensor]) -> None:
        """After the last step of an epoch: take the weights into SWA and recompute its statistics on ``inputs``."""
        if "swa" in self.averages and epoch >= self.swa_start:
            swa = self.averages["swa"]
            swa.merge(self.model.network)
            recompute_batch_norm(swa.network, inputs)

    def state(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """The optimiser's tensors; and those of helpers and of averages that hold something, by name."""
        extra = {name: copied(a) for name, a in self.averages.items() if a.n > 0}
        if self.model.helpers is not None:
            extra["helpers"] = copied(self.model.helpers)
        return optim.state(self.model.network, self.optimiser, helpers=self.model.helpers), extra

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, dict[str, Tensor]]) -> None:
        """Replace everything by a :meth:`state`. An average that it lacks starts anew from the network's weights."""
        optim.load_state(self.model.network, self.optimiser, tensors, helpers=self.model.helpers)
        self.optimiser.zero_grad()
        if self.model.helpers is not None:
            self.model.helpers.load_state_dict(extra["helpers"])
        for name in self.averages:
            self.averages[name] = Average(self.model.network)
            if name in extra:
                self.averages[name].load_state_dict(extra[name])


def copied(module: torch.nn.Module) -> dict[str, Tensor]:
    """Its tensors, copied to the CPU in the order in which files hold them."""
    own = module.state_dict().items()
    return {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in own}


def weighed(loss: Loss, weights: Mapping[str, float]) -> Terms:
    """A loss's terms, each times its weight (1 where none is given)."""
    return {k: scaled(weights.get(k, 1.0), v) for k, v in loss.terms.items()}


def total(terms: Terms) -> Tensor:
    """Their sum."""
    only, *others = terms.values()
    return torch.stack([only, *others]).sum() if others else only
