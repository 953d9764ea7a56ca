"""LAMB (You et al., ICLR 2020, arXiv 1904.00962) by timm's own class.

    u = m / (sqrt(v) + eps) + weight_decay * w,  m and v as in Adam
    w <- w - lr * ||w|| / ||u|| * u              per parameter; without weight decay: w - lr * u

timm's class is a ``torch.optim.Optimizer``: a process that uses it pays for the import of torch's compiler (see ``optimisers.py``).
Difference from its defaults: gradients are cut by ``optim.clip`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.trainers.config import OptimConfig
from sparring.trainers.groups import Group, timms_optim
from sparring.trainers.optimisers import Optimiser

EPS = 1e-6  # timm's default


class Lamb(Optimiser):
    """What it holds is timm's state, and beside it the number of steps, which timm keeps per group.

    Raises:
        ValueError: timm is not installed.
    """

    def __init__(self, groups: Sequence[Group], config: OptimConfig) -> None:
        super().__init__(groups, config)
        self._theirs = timms_optim("optim.name = 'lamb'").Lamb(
            [{"params": group.parameters, "weight_decay": group.weight_decay} for group in groups],
            lr=config.lr,
            betas=config.betas,
            eps=EPS if config.eps is None else config.eps,
            max_grad_norm=None,
        )
        self.state = self._theirs.state

    def step(self) -> None:
        """Change the parameters."""
        for group, theirs in zip(self.groups, self._theirs.param_groups, strict=True):
            theirs["lr"] = self.lr * group.factor
            theirs["step"] = self._steps(group)
        self._theirs.step()
        for theirs in self._theirs.param_groups:
            for p in theirs["params"]:
                if p in self.state:
                    self.state[p]["step"] = theirs["step"]

    def _steps(self, group: Group) -> Tensor:
        """How many a group has made, where timm looks for it: on the CPU."""
        made = [self.state[p]["step"] for p in group.parameters if p in self.state]
        return made[0].cpu() if made else torch.zeros(())
