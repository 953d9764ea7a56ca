"""An agent's network as a method's hooks see it: to train it, and faster where batch norm is in eval mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.agents.fast import Fast
from sparring.agents.recomputed import as_a_whole, switch
from sparring.trainers import attacks
from sparring.trainers.config import SpeedConfig
from sparring.trainers.methods.base import Model
from sparring.trainers.repeated import hooked


class Views:
    """Both forms of one model.

    Args:
        network: the agent's, on its device.
        images: two of those that it will see [2, C, H, W].
        speed: precision, compilation, whether blocks are computed again.
        learns: the network is trained.
        helpers: what the method trains besides.
        beside: frozen networks that the method calls in its hooks here.

    Attributes:
        training: the model with the network itself.
        traced: nothing keeps the network from its faster form.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        speed: SpeedConfig,
        *,
        learns: bool = True,
        helpers: nn.Module | None = None,
        beside: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self._network, self._images, self._speed, self._current = network, images, speed, False
        self._recomputed = learns and speed.checkpointing
        if self._recomputed:
            switch(network, True)
        near = {name: Model(self._faster(n, speed) or n).eval() for name, n in (beside or {}).items()}
        self._fast = self._faster(network, speed)
        self.traced = self._fast is not None or not speed.folded
        self.training = Model(network, helpers=helpers, beside=near)
        self._still = Model(self._fast or network, helpers=helpers, beside=near)

    @contextmanager
    def held(self, bn: Literal["eval", "train"] = "eval") -> Iterator[Model]:
        """The model without parameter gradients, batch norm in the given mode, as fast as that can be had."""
        with attacks.frozen(self.training, bn=bn), self.lower():
            if bn == "train":
                self._current = False  # running statistics move
                with as_a_whole(self._network, checkpointing=self._recomputed):
                    yield self.training
                return
            if self._fast is None or hooked(self._network):
                yield self.training
                return
            if not self._current:
                self._fast.refresh()
                self._current = True
            yield self._still

    def changed(self) -> None:
        """Weights or running statistics are others than at the last look."""
        self._current = False

    def lower(self) -> AbstractContextManager[None]:
        """Networks compute in bfloat16 where the run asks for it; what is built on their logits stays as it is."""
        return torch.autocast(self._images.device.type, torch.bfloat16, enabled=self._speed.precision == "bf16")

    def judged(self, network: nn.Module) -> nn.Module:
        """``network`` in its own precision, whatever that of training is, for looking at it once."""
        return self._faster(network, SpeedConfig()) or network

    def _faster(self, network: nn.Module, speed: SpeedConfig) -> Fast | None:
        return Fast.of(network, self._images, speed) if self._speed.folded else None
