"""How much each term of a loss weighs in a step: in its value, and in its gradient. A term of one per cent changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sparring.trainers.types import Share


class Gradients:
    """Gradients of single terms with respect to all that is trained, summed over the parts of a batch.

    Nothing that the step itself uses is touched: no ``.grad``, no buffer, no random number.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, terms: Mapping[str, Tensor], scale: float = 1.0) -> None:
        """Of a batch, or of a part that is ``scale`` of it; the graph stays."""
        for name, term in terms.items():
            sums = self._sums.setdefault(name, [torch.zeros_like(p) for p in self._parameters])
            if not term.requires_grad:
                continue
            found = torch.autograd.grad(term, self._parameters, retain_graph=True, allow_unused=True)
            for whole, g in zip(sums, found, strict=True):
                if g is not None:
                    whole.add_(g, alpha=scale)

    def shares(self, values: Mapping[str, float], average: Callable[[Sequence[Tensor]], None]) -> dict[str, Share]:
        """Per term |w v| / sum |w v| and the same of the gradients' Euclidean lengths.

        Args:
            values: the weighed terms, means over all lanes.
            average: replaces gradients in place by their means over all lanes.
        """
        for gradients in self._sums.values():
            average(gradients)
        lengths = {
            name: float(torch.stack([g.double().square().sum() for g in sums]).sum().sqrt())
            for name, sums in self._sums.items()
        }
        of_loss, of_gradient = sum(map(abs, values.values())), sum(lengths.values())
        return {
            name: Share(abs(values[name]) / (of_loss or 1.0), length / (of_gradient or 1.0))
            for name, length in lengths.items()
        }
