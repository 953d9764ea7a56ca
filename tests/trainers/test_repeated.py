"""A second pass over the same images that is not made: its logits, gradient and effect on batch norm."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from sparring.trainers.repeated import twice
from tests.helpers import TinyNet


def images() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x, other = torch.rand(2, 6, 1, 8, 8, dtype=torch.float64)
    return x, other


def test_as_two_passes_with_another_in_between() -> None:
    x, other = images()
    once, plain = TinyNet().double(), TinyNet().double()
    first, again = twice(once, x)
    once(other)
    second = again()
    again()
    ours = (first * second.detach() + 3 * second).sum()
    ours.backward()
    a = plain(x)
    plain(other)
    b = plain(x)
    plain(x)
    (a * b.detach() + 3 * b).sum().backward()
    for p, q in zip(once.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-13)
    for p, q in zip(once.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = TinyNet(), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.drop(self.inner(x))
        return out


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyNet()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        out: torch.Tensor = self.inner(x)
        return out


class Sharing(nn.Module):
    """One batch norm in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.fc = nn.BatchNorm2d(1), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.bn(self.bn(x).sin()).flatten(1))
        return out


def cumulative() -> nn.Module:
    network = TinyNet()
    network.bn.momentum = None  # type: ignore[union-attr, assignment]
    return network


def listened() -> nn.Module:
    network = TinyNet()
    network.register_forward_hook(lambda m, args, out: None)
    return network


@pytest.mark.parametrize("make", [Dropping, Remembering, Sharing, cumulative, listened], ids=lambda f: f.__name__)
def test_where_the_second_is_not_the_first_it_is_made(make: type[nn.Module]) -> None:
    x, other = images()
    network = make().double()
    plain = deepcopy(network)
    torch.manual_seed(1)
    first, again = twice(network, x)
    network(other)
    second = again()
    torch.manual_seed(1)
    a = plain(x)
    plain(other)
    b = plain(x)
    assert first is not second
    assert torch.equal(first, a)
    assert torch.equal(second, b)
    for p, q in zip(network.buffers(), plain.buffers(), strict=True):
        assert torch.equal(p, q)


def test_in_eval_mode_nothing_moves() -> None:
    x, _ = images()
    network = TinyNet().double().eval()
    before = deepcopy(network.state_dict())
    first, again = twice(network, x)
    assert again() is first
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
