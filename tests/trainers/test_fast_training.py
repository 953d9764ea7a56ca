"""Adversarial training with one gradient a step: each method against its paper's algorithm written down here once more."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.agents.agent import Agent
from sparring.cluster.config.recipes import recipe
from sparring.trainers.config import Attack, OptimConfig
from sparring.trainers.methods.fgsm_rs import FgsmRs
from sparring.trainers.methods.free import Free
from sparring.trainers.methods.n_fgsm import NFgsm
from sparring.trainers.rng import generator
from tests.helpers import make_team

EPS = 0.1


def image_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]


def uniform(like: Tensor, agent: Agent, width: float) -> Tensor:
    rng = generator(agent.seed, 0, agent.index, "attack train")
    return (2 * torch.rand(like.shape, generator=rng, dtype=like.dtype) - 1) * width


def test_fgsm_rs_is_its_algorithm() -> None:
    """From the published code: noise, one step of 1.25 eps with the network in train mode, clipped to ball and box."""
    team = make_team(FgsmRs())
    agent = team["model"].agent
    seen, network = agent.batches.batch(0), copy.deepcopy(agent.model).train()
    crafted = agent.craft(0).x
    d = ((seen.x + uniform(seen.x, agent, EPS)).clamp(0, 1)) - seen.x
    d = (d + 1.25 * EPS * image_gradient(network, seen.x + d, seen.y).sign()).clamp(-EPS, EPS)
    assert torch.allclose(crafted, (seen.x + d).clamp(0, 1), rtol=0, atol=1e-12)
    moved = {k: v for k, v in agent.model.state_dict().items() if "running" in k}
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in moved.items())  # batch norm saw that pass


def test_n_fgsm_is_its_algorithm() -> None:
    """Noise of twice eps, one step of eps, clipped to the box alone: the examples leave the ball."""
    team = make_team(NFgsm())
    agent = team["model"].agent
    seen, network = agent.batches.batch(0), copy.deepcopy(agent.model).train()
    crafted = agent.craft(0).x
    noisy = (seen.x + uniform(seen.x, agent, 2 * EPS)).clamp(0, 1)
    right = (noisy + EPS * image_gradient(network, noisy, seen.y).sign()).clamp(0, 1)
    assert torch.allclose(crafted, right, rtol=0, atol=1e-12)
    reach = (crafted - seen.x).abs().max()
    assert EPS < reach <= 3 * EPS + 1e-12


def free_by_the_paper(agent: Agent, *, replays: int, steps: int, lr: float) -> Iterator[tuple[nn.Module, Tensor]]:
    """Algorithm 1 with plain SGD; network and perturbation after every step."""
    network = copy.deepcopy(agent.model).train()
    delta = torch.zeros_like(agent.batches.batch(0).x)
    for t in range(steps):
        seen = agent.batches.batch(t // replays)
        noise = delta.clone().requires_grad_(True)
        loss = F.cross_entropy(network((seen.x + noise).clamp(0, 1)), seen.y)
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in network.parameters():
                assert p.grad is not None
                p -= lr * p.grad
            assert noise.grad is not None
            delta = (delta + EPS * noise.grad.sign()).clamp(-EPS, EPS)
        yield network, delta


PLAIN = OptimConfig(lr=0.05, momentum=0, weight_decay=0, schedule="constant")


def test_free_is_its_algorithm() -> None:
    """Weights and perturbation over seven steps with three replays: batches are seen thrice, and d outlives its batch."""
    method = Free(replays=3)
    team = make_team(method, optim=PLAIN)
    agent = team["model"].agent
    for t, (network, delta) in enumerate(free_by_the_paper(agent, replays=3, steps=7, lr=0.05)):
        method.step(team, t)
        assert agent.view.helpers is not None
        assert torch.allclose(agent.view.helpers.delta, delta, rtol=0, atol=1e-12)
        for own, right in zip(agent.model.parameters(), network.parameters(), strict=True):
            assert torch.allclose(own, right, rtol=0, atol=1e-12)
    assert delta.abs().max() == EPS


def test_free_goes_on_from_a_checkpoint() -> None:
    """In the middle of a batch's replays: the perturbation is part of the state."""
    method = Free(replays=3)
    straight, broken = make_team(method, optim=PLAIN), make_team(method, optim=PLAIN)
    for t in range(6):
        method.step(straight, t)
        if t < 4:
            method.step(broken, t)
    fresh = make_team(method, optim=PLAIN)
    fresh["model"].agent.load_state(broken["model"].agent.state(4))
    for t in (4, 5):
        method.step(fresh, t)
    one, other = (team["model"].agent.state(6) for team in (straight, fresh))
    assert one.extra["helpers"].keys() == other.extra["helpers"].keys() == {"delta"}
    assert torch.equal(one.extra["helpers"]["delta"], other.extra["helpers"]["delta"])
    assert all(torch.equal(one.model[k], other.model[k]) for k in one.model)


def test_free_with_a_smaller_last_batch() -> None:
    """The rest of an epoch takes the first places of the perturbation; the others keep theirs."""
    method = Free(replays=1)
    team = make_team(method, n=20, batch_size=8, optim=PLAIN)
    agent = team["model"].agent
    sizes = []
    for t in range(4):
        before = agent.view.helpers.delta.clone() if agent.view.helpers is not None else torch.empty(0)
        method.step(team, t)
        sizes.append(len(agent.batches.batch(t).x))
        assert agent.view.helpers is not None
        if sizes[-1] == 4:
            assert torch.equal(agent.view.helpers.delta[4:], before[4:])
            assert not torch.equal(agent.view.helpers.delta[:4], before[:4])
    assert sorted(set(sizes)) == [4, 8]


def test_what_does_not_suit_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"fgsm_rs attacks with one step, attack.kind = 'pgd' takes 7; set --attack.kind fgsm"
    ):
        recipe("fgsm_rs").replace({"attack.kind": "pgd"})
    with pytest.raises(ValueError, match=r"n_fgsm is defined for linf, attack.norm = 'l2'"):
        recipe("n_fgsm").replace({"attack.norm": "l2"})
    with pytest.raises(ValueError, match=r"free is defined for linf"):
        recipe("free").replace({"attack.norm": "l2"})
    for setting in ({"lanes": 2}, {"micro_batch": 8}):
        with pytest.raises(ValueError, match=r"free needs every batch as a whole: --lanes and --micro-batch do not go"):
            recipe("free").replace(setting)


def test_a_step_given_by_hand_counts() -> None:
    method = FgsmRs()
    given = Attack(kind="fgsm", eps=EPS, step_size=0.03)
    hook = {"state": {}, "when": None, "rng": torch.Generator()}
    assert method.attack("model", "train", {"train": given}, **hook).length == 0.03  # type: ignore[arg-type]
    free = replace(given, step_size=None)
    assert method.attack("model", "train", {"train": free}, **hook).length == 1.25 * EPS  # type: ignore[arg-type]
