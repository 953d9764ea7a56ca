"""Batches in parts: the same examples and answers, the same step where no batch statistics are involved, and the way there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.agents.lanes import Lanes
from sparring.agents.parts import cut, joined, rows
from sparring.agents.robustness import Judging, correct
from sparring.agents.state import NotFinite, TooLarge
from sparring.trainers.config import Attack, Measure, SpeedConfig
from sparring.trainers.methods.at import At
from sparring.trainers.methods.base import Method
from sparring.trainers.methods.mat import Mat
from sparring.trainers.methods.mtard import Mtard
from sparring.trainers.methods.peeraid import Peeraid
from sparring.trainers.methods.rslad import Rslad
from sparring.trainers.types import Adversarial, Answer
from tests.helpers import TinyNet, losses, make_team

THREE = SpeedConfig(micro_batch=3)


def test_cut_and_join() -> None:
    assert cut(8, None) == cut(8, 8) == cut(8, 9) == [slice(0, 8)]
    assert [p.stop - p.start for p in cut(8, 3)] == [2, 3, 3]
    assert [p.stop - p.start for p in cut(5, 1)] == [1] * 5
    said = Answer(torch.arange(16.0).view(8, 2), maps=(torch.ones(8, 3), torch.ones(5)))
    parts = [rows(said, part, 8) for part in cut(8, 3)]
    assert [len(p.logits) for p in parts] == [2, 3, 3]
    assert all(len(p.maps[1]) == 5 for p in parts)  # no row per example: not cut
    assert torch.equal(joined(parts).logits, said.logits)
    nested = {"a": Adversarial(torch.zeros(8, 1)), "b": {"c": said}}
    assert rows(nested, slice(0, 2), 8)["b"]["c"].logits.shape == (2, 2)


@pytest.mark.parametrize("method", [At(), Mat(), Rslad(), Mtard(), Peeraid()], ids=lambda m: type(m).__name__)
def test_without_batch_norm_a_step_in_parts_is_the_step(method: Method) -> None:
    """Losses, weights that follow them (MTARD) and what was predicted before (PeerAiD)."""
    whole, parts = make_team(method, bn=False), make_team(method, bn=False, speed=THREE)
    for t in range(3):
        method.step(whole, t)
        method.step(parts, t)
        assert losses(parts) == pytest.approx(losses(whole), rel=1e-10)
        for role, handle in parts.items():
            if handle.metrics is not None:
                assert handle.metrics.values == pytest.approx(whole[role].metrics.values, rel=1e-9)  # type: ignore[union-attr]
    for role, handle in parts.items():
        for ours, theirs in zip(handle.agent.model.parameters(), whole[role].agent.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_with_batch_norm_examples_and_answers_stay_and_statistics_are_those_of_the_parts() -> None:
    method = Mat()
    whole, parts = make_team(method), make_team(method, speed=THREE)
    ours, theirs = parts["peer0"].craft(0), whole["peer0"].craft(0)
    torch.testing.assert_close(ours.x, theirs.x, rtol=0, atol=1e-12)
    said = parts["peer1"].answer(0, ours).logits
    torch.testing.assert_close(said, whole["peer1"].answer(0, theirs).logits, rtol=0, atol=1e-12)
    method.step(parts, 0)
    method.step(whole, 0)
    seen = [h.agent.model.bn.num_batches_tracked.item() for h in (whole["peer0"], parts["peer0"])]  # type: ignore[union-attr]
    assert seen == [2, 6]  # two passes; three parts of each


class Asked(nn.Module):
    """Counts the images that come at once."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.most = TinyNet(bn=False), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.most = max(self.most, len(x))
        out: torch.Tensor = self.inner(x)
        return out


def test_no_more_go_through_the_network_at_once() -> None:
    network = Asked()
    team = make_team(At(), {"model": network}, speed=THREE)
    network.most = 0
    At().step(team, 0)
    assert network.most == 3


def test_a_loss_that_is_no_number_stops_before_the_weights_move() -> None:
    team = make_team(At(), speed=THREE, bn=False)
    agent = team["model"].agent
    with torch.no_grad():
        agent.model.fc.weight[0, 0] = torch.nan  # type: ignore[index, union-attr]
    before = [p.clone() for p in agent.model.parameters()]
    with pytest.raises(NotFinite, match="hard"):
        At().step(team, 0)
    assert all(torch.equal(a, b) for a, b in zip(agent.model.parameters(), before, strict=True) if not a.isnan().any())


class Greedy(TinyNet):
    full: Exception | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.full is not None:
            raise self.full
        return super().forward(x)


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
    ),
    RuntimeError("could not create a primitive"),  # oneDNN's words in torch 2.15 where memory is limited
]


@pytest.mark.parametrize(
    ("speed", "images"), [(SpeedConfig(folded=False), 8), (SpeedConfig(micro_batch=4, folded=False), 4)]
)
@pytest.mark.parametrize("full", FULL)
def test_out_of_memory_names_the_flag(speed: SpeedConfig, images: int, full: Exception) -> None:
    network = Greedy()
    team = make_team(At(), {"model": network}, speed=speed)
    network.full = full
    agent = team["model"].agent
    named = rf"with {images} images at once.*--micro-batch {images // 2}"
    with pytest.raises(TooLarge, match=f"in craft of step 0 {named}"):
        agent.craft(0)
    with pytest.raises(TooLarge, match=f"in warm-up of step 0 {named}"):
        agent.warm_up()
    with pytest.raises(TooLarge, match="in evaluate of step 0 with "):
        agent.evaluate(0, Measure((), "pgd"))


@pytest.mark.parametrize("lanes", [1, 2])
def test_no_more_images_than_asked_for_go_through_a_network(lanes: int) -> None:
    """Before, in and after a step: the warm-up, the verbs, the held-out accuracies."""
    team = make_team(Mat(), speed=SpeedConfig(micro_batch=3, folded=False), batch_size=8)
    seen: list[int] = []
    for handle in team.values():
        handle.agent.model.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
        handle.agent.warm_up(lanes)
    Mat().step(team, 0)
    for handle in team.values():
        handle.agent.evaluate(1, Measure((Attack(eps=0.1, steps=1),), "pgd"))
    assert max(seen) == 3


def test_accuracies_in_parts_are_the_whole_ones() -> None:
    agent = make_team(At())["model"].agent
    for attack in (None, Attack(eps=0.1, steps=3), Attack(norm="l1", eps=1.5, steps=3, restarts=2)):
        whole = correct(agent.model, agent.held_out, attack, Judging(seed=1, dtype=torch.float64))
        parts = correct(agent.model, agent.held_out, attack, Judging(seed=1, dtype=torch.float64, at_once=5))
        assert torch.equal(parts, whole)
        assert 0 < whole.sum() < len(whole)


def test_lanes_of_unequal_shares_divide_them_alike() -> None:
    """33 images in two lanes, at most 16 at once: the lane with 16 goes in parts too, or one would average oftener."""
    for index in (0, 1):
        lanes = {"model": Lanes(index, 2)}
        agent = make_team(At(), n=33, batch_size=33, lanes=lanes, speed=SpeedConfig(micro_batch=16))["model"].agent
        assert agent._divided(0)
        assert not make_team(At(), n=33, batch_size=33, lanes=lanes, speed=SpeedConfig(micro_batch=17))[
            "model"
        ].agent._divided(0)
