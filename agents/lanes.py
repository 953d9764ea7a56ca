"""Lanes: replicas of one agent that split every batch between them and average what they compute from it.

Images, augmentation, mixup and noise are drawn for the whole batch, of which each lane then takes its rows. So R lanes compute
what one process would, except that batch statistics are each lane's own, and that dropout draws the same in every lane.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

MEETING = 60.0  # seconds in which all lanes must have come; processes start at different times, names resolve slowly


class LaneBroken(RuntimeError):
    """Another lane of this agent is gone or silent: infrastructure, not the program's own error."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """One lane among ``count``. Collectives only run where ``count`` > 1, and the same ones in every lane.

    Args:
        index: which lane this is.
        count: how many there are.
        group: the torch.distributed process group of this agent's lanes.
    """

    index: int = 0
    count: int = 1
    group: Any = None

    def rows(self, n: int) -> slice:
        """This lane's rows of a batch of ``n``: contiguous shares whose sizes differ by at most one.

        Raises:
            ValueError: fewer examples than lanes.
        """
        if n < self.count:
            raise ValueError(
                f"a batch of {n} examples cannot be split into {self.count} lanes; every batch, also the last one of an epoch, "
                "needs one per lane: change --batch-size or take fewer lanes"
            )
        return slice(self.index * n // self.count, (self.index + 1) * n // self.count)

    def share(self, n: int) -> float:
        """This lane's part of a batch of ``n``, which weighs its means."""
        rows = self.rows(n)
        return float(rows.stop - rows.start) / n

    def mean(self, values: Mapping[str, float], n: int, *, device: torch.device) -> dict[str, float]:
        """Means over a batch of ``n`` from each lane's means over its rows."""
        if self.count == 1:
            return dict(values)
        packed = torch.tensor(list(values.values()), dtype=torch.float64, device=device) * self.share(n)
        self._sum(packed)
        return dict(zip(values, packed.tolist(), strict=True))

    def mean_(self, gradients: Sequence[Tensor], n: int) -> None:
        """The same for gradients, in place."""
        if self.count == 1 or not gradients:
            return
        flat = torch.cat([g.flatten() for g in gradients]) * self.share(n)
        self._sum(flat)
        for g, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            g.copy_(mean.view_as(g))

    def _sum(self, values: Tensor) -> None:
        try:
            self.group.allreduce([values]).wait()
        except RuntimeError as error:
            raise LaneBroken(f"lane {self.index} of {self.count} lost the others: {error}") from error


@dataclass(frozen=True, slots=True)
class Place:
    """Where the lanes of all agents meet: a store on the driver. ``attempt`` keeps lost members of earlier groups out."""

    host: str
    port: int
    attempt: int
    timeout: float


class Meeting:
    """The driver's store, for as long as the object lives.

    Args:
        host: the driver's address as the agents' hosts see it.
        timeout: seconds after which a lane that waits for another gives up.
    """

    def __init__(self, host: str, *, timeout: float) -> None:
        self._host, self._timeout, self._attempt = host, timeout, 0
        self._store = distributed.TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]

    def anew(self) -> Place:
        """A place where nobody has met."""
        self._attempt += 1
        return Place(self._host, self._store.port, self._attempt, self._timeout)


def _address(place: Place) -> str:
    """This host's address on the way to the driver; its own name may stand for the loopback."""
    with socket.create_connection((place.host, place.port), timeout=place.timeout) as connection:
        return str(connection.getsockname()[0])


def join(place: Place, agent: str, index: int, count: int, *, device: torch.device) -> Lanes:
    """Lane ``index`` of an agent, once all of its lanes have come: gloo on CPUs, NCCL on GPUs.

    Raises:
        LaneBroken: the others did not come in time.
    """
    timeout = timedelta(seconds=place.timeout)
    try:
        patient = timedelta(seconds=max(place.timeout, MEETING))
        store = distributed.TCPStore(place.host, place.port, is_master=False, timeout=patient)  # type: ignore[attr-defined]
        own = distributed.PrefixStore(f"{agent}-{place.attempt}", store)  # type: ignore[attr-defined]
        if device.type == "cuda":
            options = distributed.ProcessGroupNCCL.Options()
            options._timeout = timeout
            return Lanes(index, count, distributed.ProcessGroupNCCL(own, index, count, options))
        options = distributed.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timeout
        options._devices = [distributed.ProcessGroupGloo.create_device(hostname=_address(place))]
        return Lanes(index, count, distributed.ProcessGroupGloo(own, index, count, options))
    except (RuntimeError, OSError) as error:
        raise LaneBroken(f"lane {index} of {count} of {agent} met nobody: {error}") from error
