"""SGD and AdamW by torch's own fused kernels, without ``torch.optim.Optimizer``.

torch 2.15's class imports torch._dynamo when it is made, and again in every step: 1.3 s of CPU and 150 MiB in each process that trains and
compiles nothing. Its functional forms do not; they are what the class calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import adamw, sgd

from sparring.trainers.config import OptimConfig
from sparring.trainers.groups import Group

EPS = 1e-8  # torch's default of AdamW


class Optimiser:
    """One step at a time on parameters that have a gradient.

    Args:
        groups: what is changed, by weight decay and learning rate.
        config: name, learning rate, momentum and the like.

    Attributes:
        lr: learning rate of the next step; starts as the configuration's.
        state: of each parameter its tensors, by the names that torch gives them.
    """

    def __init__(self, groups: Sequence[Group], config: OptimConfig) -> None:
        self.groups, self.config, self.lr = groups, config, config.lr
        self.parameters = [p for group in groups for p in group.parameters]
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    @property
    def gradients(self) -> list[Tensor]:
        """Those that are there."""
        return [p.grad for p in self.parameters if p.grad is not None]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters."""
        for group in self.groups:
            changed = [p for p in group.parameters if p.grad is not None]
            if self.config.name == "adamw":
                self._adamw(group, changed)
            else:
                self._sgd(group, changed)

    def _sgd(self, group: Group, changed: list[nn.Parameter]) -> None:
        config = self.config
        buffers: list[Any] = [self.state.get(p, {}).get("momentum_buffer") for p in changed]
        sgd.sgd(
            changed,  # type: ignore[arg-type]
            [p.grad for p in changed],  # type: ignore[misc]
            buffers,
            fused=True,
            weight_decay=group.weight_decay,
            momentum=config.momentum,
            lr=self.lr * group.factor,
            dampening=0,
            nesterov=config.nesterov,
            maximize=False,
        )
        if config.momentum:
            self.state |= {p: {"momentum_buffer": buffer} for p, buffer in zip(changed, buffers, strict=True)}

    def _adamw(self, group: Group, changed: list[nn.Parameter]) -> None:
        for p in changed:
            if p not in self.state:
                zeros = [torch.zeros_like(p, memory_format=torch.preserve_format) for _ in range(2)]
                steps = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p] = {"step": steps, "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}
        held = [self.state[p] for p in changed]
        adamw.adamw(
            changed,  # type: ignore[arg-type]
            [p.grad for p in changed],  # type: ignore[misc]
            [s["exp_avg"] for s in held],
            [s["exp_avg_sq"] for s in held],
            [],
            [s["step"] for s in held],
            fused=True,
            amsgrad=False,
            beta1=self.config.betas[0],
            beta2=self.config.betas[1],
            lr=self.lr * group.factor,
            weight_decay=group.weight_decay,
            eps=EPS if self.config.eps is None else self.config.eps,
            maximize=False,
        )
