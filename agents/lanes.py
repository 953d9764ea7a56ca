"""Lanes: replicas of one agent that split every batch between them and average what they compute from it.

Images, augmentation, mixup and noise are drawn for the whole batch, of which each lane then takes its rows. So R lanes compute
what one process would, except that batch statistics are each lane's own, and that dropout draws the same in every lane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.agents.meeting import Meeting, common_store, over_nccl


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


def joined(
    meeting: Meeting, addresses: Mapping[str, bytes], index: int, count: int, *, device: torch.device, timeout: float
) -> Lanes:
    """One lane, once all have come: over gloo on CPUs, NCCL on GPUs.

    Args:
        addresses: of all lanes of this agent.
        timeout: seconds after which a lane that waits for another gives up.

    Raises:
        PeerLost: the others did not come in time.
    """
    group = meeting.join(addresses, timeout=timeout)
    if device.type == "cuda":
        store = common_store(group, meeting.host, index, timeout=timeout)
        group = over_nccl(store, "lanes", index, count, timeout=timeout)
    return Lanes(index, count, group)
