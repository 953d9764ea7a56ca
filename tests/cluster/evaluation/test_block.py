"""What counts as broken, where the verdict hangs on the batch that an example is judged in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.cluster.evaluation.block import evaluate_block
from sparring.cluster.evaluation.named_attacks import Block
from sparring.trainers.config import Threat

STUBBORN = 0.7  # of the first pixel: such an image stays right


class Together(nn.Module):
    """Two classes; the margin of class 0 falls with an image's mean and, four times as fast, with that of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        apart = torch.where(x[:, 0, 0, 0] > STUBBORN, 100.0, 2.9)
        margin = apart - x.flatten(1).mean(1) - 4 * x.mean()
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def test_a_witness_counts_only_in_its_block() -> None:
    """Attacked together, the first image is wrong by the shift of the second, which stays right and so has no witness. Beside the
    second image as it is, in which batch a witness is checked, the first is right."""
    model, x = Together().eval(), torch.full((2, 1, 4, 4), 0.5)
    x[1, 0, 0, 0] = 1.0
    moved = x + torch.tensor([0.1, 0.1]).view(2, 1, 1, 1)
    assert model(moved.clamp(0, 1)).argmax(1).tolist() == [1, 0]
    assert model(torch.stack([moved[0], x[1]])).argmax(1).tolist() == [0, 0]
    outcome = evaluate_block(model, Block(x, torch.tensor([0, 0]), 0, 0), attacks=["pgd-5"], threat=Threat("linf", 0.1))
    assert outcome.broken["pgd-5"].tolist() == [False, False]
    assert outcome.witness == [None, None]


def test_a_witness_that_holds_in_its_block_counts() -> None:
    model, x = Together().eval(), torch.full((2, 1, 4, 4), 0.5)
    outcome = evaluate_block(model, Block(x, torch.tensor([0, 0]), 0, 0), attacks=["pgd-5"], threat=Threat("linf", 0.1))
    assert outcome.broken["pgd-5"].tolist() == [True, True]
    assert None not in outcome.witness
