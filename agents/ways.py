"""The ways from agent to agent, and the one place where they are chosen.

    one host, both on GPUs of which one sees the other's   ipc     a slot of the sender's GPU, opened by the reader
    one host                                               memory  a slot of memory that both see
    two hosts, both on GPUs                                nccl    from GPU to GPU
    two hosts                                              gloo    through sockets

``ipc`` and ``nccl`` are untried on GPUs: what is around CUDA's and NCCL's calls is tested on CPUs, the calls themselves are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from torch import Tensor

from sparring.agents.frames import Layout
from sparring.agents.program import Call, Value

Key: TypeAlias = tuple[Value, Call, int]  # whose message has one shape: the value, what makes it, for how many images
Kind: TypeAlias = Literal["ipc", "memory", "nccl", "gloo"]


class Way(Protocol):
    """Carries messages to and from the agents for which it was chosen."""

    def expect(self, t: int, key: Key) -> None:
        """A value of step ``t`` is to come."""

    def send(self, t: int, key: Key, layout: Layout, tensors: Sequence[Tensor], to: Sequence[str]) -> None:
        """Begin to send a message, which may change when this returns."""

    def receive(self, t: int, key: Key) -> tuple[Layout, list[Tensor]]:
        """A message's layout and its tensors, the receiver's alone until the next but one of this value."""

    def end(self, t: int) -> None:
        """Step ``t`` is over."""

    def close(self) -> None:
        """Leave, so that whoever waits for this agent knows."""


def chosen(*, near: bool, mine: str, theirs: str, opened: bool) -> Kind:
    """The way from this agent to another.

    Args:
        near: on one host, in each other's sight.
        mine: type of the device on which this agent computes.
        theirs: of the other.
        opened: the other could open memory of this one's GPU.
    """
    if near:
        return "ipc" if opened else "memory"
    return "nccl" if mine == theirs == "cuda" else "gloo"
