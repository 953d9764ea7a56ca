"""What distinguishes an agent from a fresh one, and what can be wrong with it."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.trainers.types import State


class TooLarge(Exception):
    """The memory of an agent's device does not hold what a verb needs."""

    def __init__(self, agent: str, verb: str, t: int, device: str, images: int) -> None:
        super().__init__(agent, verb, t, device, images)
        self.agent, self.verb, self.t, self.device, self.images = agent, verb, t, device, images

    def __str__(self) -> str:
        return (
            f"{self.agent} ran out of memory ({self.device}) in {self.verb} of step {self.t} with {self.images} images at once. "
            f"Train with --micro-batch {max(1, self.images // 2)}, --precision bf16, --lanes 2 or a smaller --batch-size"
        )


class WrongStep(RuntimeError):
    """A learner was called for a step that is not its own: the call belongs to a history that was rolled back."""


class NotFinite(ArithmeticError):
    """A loss term or a weight became NaN or infinite."""

    def __init__(self, agent: str, term: str, t: int, value: float) -> None:
        super().__init__(agent, term, t, value)
        self.agent, self.term, self.t, self.value = agent, term, t, value

    def __str__(self) -> str:
        return f"{self.agent}: {self.term} became {self.value} in step {self.t}"


@dataclass
class AgentState:
    """All that distinguishes an agent from a fresh one."""

    t: int
    model: dict[str, Tensor]
    optim: dict[str, Tensor]
    method: State = field(default_factory=dict)
    lr_factor: float = 1.0  # below 1 after a rollback from a collapse
    extra: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # averages, the method's helpers: one file each


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
