"""Disagreement as a sign of attacks: the figure itself, and that an attacker who knows of it gets past more often."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.agents.detection import auroc, detector
from sparring.agents.ensemble import Ensemble
from sparring.trainers.config import Threat


def test_auroc() -> None:
    """Of the six pairs four are in order, one is equal."""
    assert auroc(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0, 2.0])) == (1 + 0.5 + 0 + 3) / 6


class Half(nn.Module):
    """Two classes by the mean of one half of the image."""

    def __init__(self, upper: bool) -> None:
        super().__init__()
        self.rows = slice(0, 4) if upper else slice(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        z = 20 * (x[:, :, self.rows].mean((1, 2, 3)) - 0.5)
        return torch.stack([-z, z], 1)


def test_three_attackers() -> None:
    """Members that look at other halves: who attacks one moves only its half, which shows; who knows of it moves both alike."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(128, generator=generator)
    x = means.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
    y = (means > 0.5).long()
    found = detector(Ensemble([Half(True), Half(False)]).eval(), x, y, Threat("linf", 0.2), seed=0)
    assert found["n"] == 128
    assert min(found["succeeded"].values()) > 30
    assert found["clean_mean"] < 0.01
    one, adaptive = found["auroc"]["one"], found["auroc"]["adaptive"]
    assert one > 0.95
    assert adaptive < 0.8


def test_too_few_successes_say_nothing() -> None:
    x = torch.full((20, 1, 8, 8), 0.9)
    found = detector(Ensemble([Half(True), Half(False)]).eval(), x, torch.ones(20).long(), Threat("linf", 0.01), seed=0)
    assert found["auroc"] == {"one": None, "all": None, "adaptive": None}


def test_an_answer_that_is_no_number_says_nothing() -> None:
    class Broken(Half):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).masked_fill(x.mean((1, 2, 3))[:, None] > 0.9, torch.nan)

    x = torch.rand(20, 1, 8, 8)
    x[3] = 0.95
    ensemble = Ensemble([Broken(True), Half(False)]).eval()
    assert detector(ensemble, x, torch.zeros(20).long(), Threat("linf", 0.1), seed=0) is None
