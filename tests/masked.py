"""Networks behind something that hides their gradients, each a kind of masking; every decision on clean images stays right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 2.0  # of a stripe, along pixels of random signs


class Wrapped(nn.Module):
    """A network, and another one where a kind needs two."""

    def __init__(self, model: nn.Module, other: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.other = model, other or model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


class Scaled(Wrapped):
    """Logits so far apart that the cross entropy's gradient vanishes in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return 100 * super().forward(x)


class Rescaled(Wrapped):
    """Logits times a constant, so that the two largest are ``gap`` apart in the median: no decision changes."""

    def __init__(self, model: nn.Module, x: Tensor, gap: float) -> None:
        super().__init__(model)
        with torch.no_grad():
            top = model(x).topk(2, dim=1).values
        self.factor = gap / float((top[:, 0] - top[:, 1]).median())

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * super().forward(x)


class Clamped(Wrapped):
    """A clamp whose gradient is zero at its own bounds, where most pixels of digits are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(0, 1))


class Quantised(Wrapped):
    """Rounding, which has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((8 * x).round() / 8)


class Shattered(Wrapped):
    """A ripple whose gradient says nothing of the way."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.02 * torch.sin(2000 * x))


class Random(Wrapped):
    """Another answer each time."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.3 * torch.randn(len(x), 10)


class Detector(Wrapped):
    """Where two networks disagree, a confident answer without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.model(x), self.other(x)
        sure = nn.functional.one_hot(b.argmax(1), 10) * 30.0
        return torch.where((a.argmax(1) == b.argmax(1))[:, None], a, sure)


class OnlyClean(Wrapped):
    """Gradients at images of 8 bits, none anywhere else: the first step sees something, the others do not."""

    def forward(self, x: Tensor) -> Tensor:
        bits = 255 * x.detach()
        whole = ((bits - bits.round()).abs() < 1e-3).flatten(1).all(1).view(-1, 1, 1, 1)
        return super().forward(torch.where(whole, x, x.detach()))


class Lucky(Wrapped):
    """Gradients in every other stripe of the images' space: half of all starts have none and stay where they are."""

    def forward(self, x: Tensor) -> Tensor:
        signs = torch.randint(0, 2, x[0].shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        stripe = (signs * x.detach()).sum((1, 2, 3)) / WIDTH
        seen = (stripe.remainder(2) < 1).view(-1, 1, 1, 1)
        return super().forward(torch.where(seen, x, x.detach()))


# the flags that every kind must raise; Rescaled is made with a gap besides
MASKED: dict[type[Wrapped], set[str]] = {
    Scaled: {"logit scale", "zero gradients"},
    Quantised: {"zero gradients", "black box beats white box"},
    Shattered: {"robust to anything"},
    Random: {"random output"},
    Detector: {"robust to anything"},
    Clamped: {"pixels without gradient"},
    OnlyClean: {"one step beats many"},
    Lucky: {"more effort keeps helping"},
}
SOFT, FAR = (1.0, 0.3, 0.1), (40.0, 100.0)  # gaps of Rescaled: softened logits; no gradient left for APGD under l2
