"""The look for catastrophic overfitting."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.agents import deeper
from sparring.trainers.config import Attack
from sparring.trainers.types import Batch

ATTACK = Attack(kind="fgsm", eps=0.2)


class Bright(nn.Module):
    """Two classes by the mean of the image; ``asked`` holds what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(x.detach().clone())
        value = 4 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-value, value], 1)


def looked(batch: Batch) -> tuple[dict[str, float], list[torch.Tensor]]:
    model = Bright()
    rng = torch.Generator().manual_seed(0)
    found = deeper.look(model, batch, ATTACK, rng)  # type: ignore[arg-type]  # a plain module answers as a view does
    return {name: float(value) for name, value in found.items()}, model.asked


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_both_labels_of_a_mixed_image_count(lam: float) -> None:
    """With all the weight on one of them it is the look at images of that label; between, the accuracies are weighted."""
    x = torch.linspace(0.1, 0.9, 8).view(8, 1, 1, 1).expand(8, 1, 4, 4).contiguous()
    y = (x.mean((1, 2, 3)) > 0.5).long()
    mixed, seen = looked(Batch(x, y, y2=1 - y, lam=lam))
    label = y if lam > 0.5 else 1 - y  # that by which the attack moves: the heavier one
    plain, alike = looked(Batch(x, label))
    assert all(torch.allclose(a, b) for a, b in zip(seen[-1:], alike[-1:], strict=True))
    weight = max(lam, 1 - lam)
    for name, value in plain.items():
        assert mixed[name] == pytest.approx(weight * value + (1 - weight) * (1 - value))
