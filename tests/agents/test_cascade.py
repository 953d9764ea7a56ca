"""Two networks as one: who answers, on whose gradients attacks go, and that they find what either alone hides."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.agents import carried
from sparring.agents.cascade import Cascade, Smooth, forms, margin
from sparring.agents.ensemble import together
from sparring.agents.robustness import Lenient
from sparring.cluster.evaluation.block import evaluate_block
from sparring.cluster.evaluation.named_attacks import Block
from sparring.trainers.config import Threat


class Linear(nn.Module):
    """Two classes: logits (0, scale * (mean of the pixels - half))."""

    def __init__(self, scale: float, half: float) -> None:
        super().__init__()
        self.scale, self.half, self.seen = scale, half, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        z = self.scale * (x.mean((1, 2, 3)) - self.half)
        return torch.stack([torch.zeros_like(z), z], 1)


def images(*means: float) -> Tensor:
    return torch.tensor(means).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def test_the_large_one_sees_only_what_the_small_one_is_unsure_of() -> None:
    """At 0.5 the small one has a margin of 0, at 0.1 and 0.9 one of tanh(4)."""
    small, large = Linear(20.0, 0.5), Linear(20.0, 0.9)
    logits, asked = Cascade(small, large, 0.5).eval().decide(images(0.1, 0.5, 0.9))
    assert asked.tolist() == [False, True, False]
    assert large.seen == 1
    each = [m(images(0.1, 0.5, 0.9)).log_softmax(1) for m in (small, large)]
    assert torch.equal(logits, torch.stack([each[0][0], each[1][1], each[0][2]]))


def test_margin() -> None:
    assert margin(torch.tensor([[0.7, 0.2, 0.1]]).log()).item() == torch.tensor(0.5).item()


def test_an_answer_that_is_no_number_is_not_sure() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), torch.nan)

    logits, asked = Cascade(Broken(), Linear(20.0, 0.5), 0.0).decide(images(0.9))
    assert asked.all()
    assert logits.argmax(1).item() == 1


def test_the_smooth_form_is_near_the_decision_away_from_it() -> None:
    cascade = Cascade(Linear(20.0, 0.5), Linear(2.0, 0.5), 0.5).eval()
    x = images(0.05, 0.95, 0.5)
    assert torch.allclose(Smooth(cascade)(x)[:2].exp(), cascade(x)[:2].exp(), atol=0.02)
    assert torch.allclose(Smooth(cascade)(x).exp().sum(1), torch.ones(3))


def test_forms() -> None:
    cascade = Cascade(Linear(20.0, 0.5), Linear(2.0, 0.5), 0.5).eval()
    assert [type(f) for f in forms(cascade, images(0.5))] == [Cascade, Smooth]
    assert [type(f) for f in forms(Lenient(cascade), images(0.5))] == [Lenient, Lenient]
    assert len(forms(Linear(1.0, 0.5).eval(), images(0.5))) == 1


class Hidden(nn.Module):
    """Sure and right everywhere; where the mean is below 0.45 sure no more. Its gradient is zero: an attack learns nothing from it."""

    def forward(self, x: Tensor) -> Tensor:
        sure = (x.mean((1, 2, 3), keepdim=False).detach() > 0.45).float() * 10
        return torch.stack([torch.zeros_like(sure), sure + 0 * x.sum((1, 2, 3))], 1)


def test_an_attack_finds_what_the_decision_alone_hides() -> None:
    """Every image is right where it is. Darker ones are answered by the large network, wrongly, which no gradient of the decision says:
    the smooth form does."""
    cascade = Cascade(Hidden(), Linear(20.0, 0.48), 0.5).eval()
    x, threat = images(*torch.linspace(0.5, 0.55, 16).tolist()), Threat("linf", 0.2)
    block = Block(x, torch.ones(16, dtype=torch.long), 0, 0)
    assert (cascade(x).argmax(1) == 1).all()

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cascade = cascade

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.cascade(x)
            return found

    alone = evaluate_block(Alone().eval(), block, attacks=["fgsm"], threat=threat)
    whole = evaluate_block(cascade, block, attacks=["fgsm"], threat=threat)
    assert not alone.broken["fgsm"].any()
    assert whole.broken["fgsm"].all()


def test_a_worker_gets_the_same_cascade() -> None:
    from tests.serve.made import SHAPE, network

    cascade = together([network(seed=0), network(seed=1)], 0.3)
    again = carried.unpack(carried.pack(cascade))
    x = torch.rand(4, *SHAPE)
    assert isinstance(again, Cascade)
    assert again.width == 0.3
    assert torch.equal(again(x), cascade(x))
    assert isinstance(carried.unpack(carried.pack(Lenient(cascade))), Lenient)
