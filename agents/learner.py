"""The part of an agent that changes weights: optimiser, averages, weight perturbation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sparring.trainers import optim
from sparring.trainers.averaging import Average, recompute_batch_norm
from sparring.trainers.config import OptimConfig
from sparring.trainers.methods.base import Model
from sparring.trainers.perturbation import perturbed
from sparring.trainers.types import Loss, When


class Learner:
    """Steps a network and the method's helpers beside it.

    Args:
        model: the network with its helpers.
        config: optimiser, schedule, averages and perturbation.
        epochs: length of the run, for the default start of SWA.
    """

    def __init__(self, model: Model, config: OptimConfig, *, epochs: float) -> None:
        self.model, self.config = model, config
        self.optimiser = optim.build(model.network, config, helpers=model.helpers)
        self.averages: dict[str, Average] = {}
        if config.ema:
            self.averages["ema"] = Average(model.network)
        if config.swa:
            self.averages["swa"] = Average(model.network)
        self.swa_start = config.swa_start if config.swa_start is not None else optim.swa_start(config, epochs)
        self._buffers: list[Tensor] = []

    def perturbs(self, when: When) -> bool:
        """Whether the weights are perturbed in this step."""
        return self.config.awp > 0 and when.epoch >= self.config.awp_warmup

    def remember_buffers(self) -> None:
        """Note the batch-norm statistics before the pass that only finds the perturbation."""
        self._buffers = [b.clone() for b in self.model.network.buffers()]

    def step(
        self, total: Tensor, when: When, again: Callable[[], Tensor], average: Callable[[Sequence[Tensor]], None]
    ) -> None:
        """One optimiser step on the loss ``total``.

        Args:
            again: computes the loss anew where the weights are perturbed.
            average: replaces gradients in place by their means over all lanes.
        """
        self.begin(when)
        if self.perturbs(when):
            with perturbed(self.model.network, total, size=self.config.awp, average=average):
                for b, old in zip(self.model.network.buffers(), self._buffers, strict=True):
                    b.copy_(old)
                again().backward()  # type: ignore[no-untyped-call]
        else:
            total.backward()  # type: ignore[no-untyped-call]
        self.end(average)

    def begin(self, when: When) -> None:
        """Forget the last gradients; the learning rate of this moment."""
        self.optimiser.lr = self.config.lr * when.lr_scale
        self.optimiser.zero_grad()

    def end(self, average: Callable[[Sequence[Tensor]], None]) -> None:
        """Change the weights by the gradients that are there."""
        average(self.optimiser.gradients)
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


def weighed(loss: Loss, weights: Mapping[str, float]) -> torch.Tensor:
    """The sum of a loss's terms, each times its weight (1 where none is given)."""
    return torch.stack([weights.get(k, 1.0) * v for k, v in loss.terms.items()]).sum()
