"""A network as the attacks of AutoAttack ask it: in pieces of bounded size, and counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PIXELS = (
    2**18
)  # values of all images that go through a network at once on a CPU; more ask for fresh memory at every pass
PIXELS_ELSEWHERE = 2**22
SMALLEST = 64  # images that go together all the same


class Passes:
    """Logits and gradients of ``network``: images [n, C, H, W] in [0, 1] -> logits [n, K].

    Args:
        network: differentiable; its modes and weights are left alone.
        rows: images at once; default: see :func:`pieces`.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], *, rows: int | None = None) -> None:
        self._network, self._rows = network, rows
        self.forward, self.backward = 0, 0  # images that went through so far

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """[n, K]."""
        self.forward += len(x)
        return torch.cat([self._network(x[part]) for part in self._parts(x)])

    def gradient(self, x: Tensor, value: Callable[[Tensor, slice], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of a value per image with respect to the images, the logits, the values.

        Args:
            value: of (logits of some consecutive images, which these are) -> [len].
        """
        self.forward += len(x)
        self.backward += len(x)
        found = []
        for part in self._parts(x):
            with torch.enable_grad():
                z = x[part].detach().requires_grad_(True)
                logits = self._network(z)
                values = value(logits, part)
                found.append((torch.autograd.grad(values.sum(), z)[0], logits.detach(), values.detach()))
        gradients, logits, values = (torch.cat(parts) for parts in zip(*found, strict=True))
        return gradients, logits, values

    def jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of all logits with respect to the images, [n, K, C, H, W], and the logits."""
        self.forward += len(x)
        found = []
        for part in self._parts(x):
            with torch.enable_grad():
                z = x[part].detach().requires_grad_(True)
                logits = self._network(z)
                each = [torch.autograd.grad(one.sum(), z, retain_graph=True)[0] for one in logits.unbind(1)]
            self.backward += len(z) * len(each)
            found.append((torch.stack(each, 1), logits.detach()))
        gradients, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
        return gradients, logits

    def _parts(self, x: Tensor) -> list[slice]:
        return pieces(x, self._rows)


def pieces(x: Tensor, rows: int | None = None) -> list[slice]:
    """Consecutive images of ``x`` [n, C, H, W] that go through a network at once; ``rows`` by default as its device takes gladly."""
    pixels = PIXELS if x.device.type == "cpu" else PIXELS_ELSEWHERE
    rows = rows or max(SMALLEST, pixels // x[0].numel())
    return [slice(start, start + rows) for start in range(0, len(x), rows)]
