"""EMA, SWA with recomputed batch norm, and adversarial weight perturbation."""

from __future__ import annotations

from copy import deepcopy
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sparring.trainers.averaging import Average, recompute_batch_norm
from sparring.trainers.config import Measure, OptimConfig
from sparring.trainers.methods.at import At
from sparring.trainers.methods.mtard import Mtard
from sparring.trainers.methods.peeraid import Peeraid
from sparring.trainers.perturbation import perturbed
from tests.helpers import TinyNet, make_team

CONSTANT: dict[str, Any] = {"schedule": "constant", "lr": 0.05}


def weights(model: torch.nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_swa_is_the_mean_of_the_epochs_last_weights() -> None:
    team = make_team(At(), optim=OptimConfig(swa=True, swa_start=1, **CONSTANT))  # three steps an epoch
    agent = team["model"].agent
    assert agent.learner is not None
    swa = agent.learner.averages["swa"]
    snapshots = []
    for t in range(12):
        At().step(team, t)
        if t % 3 == 2 and t >= 3:
            snapshots.append(weights(agent.model))
            assert int(swa.n) == len(snapshots)
    for mine, each in zip(swa.network.parameters(), zip(*snapshots, strict=True), strict=True):
        torch.testing.assert_close(mine, torch.stack(each).mean(0), rtol=0, atol=1e-14)


def test_recomputed_statistics_are_weighted_and_recomputing_again_changes_nothing() -> None:
    net = TinyNet().double()
    batches = [torch.rand(b, 1, 6, 6, dtype=torch.float64) for b in (8, 8, 5)]
    recompute_batch_norm(net, batches)
    outs = [net.conv1(x).detach() for x in batches]
    sizes = torch.tensor([8.0, 8, 5], dtype=torch.float64) / 21
    mean = sum(w * o.mean((0, 2, 3)) for w, o in zip(sizes, outs, strict=True))
    var = sum(w * o.var((0, 2, 3), unbiased=True) for w, o in zip(sizes, outs, strict=True))
    assert isinstance(net.bn, torch.nn.BatchNorm2d)
    torch.testing.assert_close(net.bn.running_mean, mean)
    torch.testing.assert_close(net.bn.running_var, var)
    assert net.bn.momentum == 0.1
    before = net.bn.running_var.clone()  # type: ignore[union-attr]
    recompute_batch_norm(net, batches)
    assert torch.equal(net.bn.running_var, before)  # type: ignore[arg-type]


def test_default_start_is_the_first_milestone() -> None:
    config = OptimConfig(swa=True, schedule="multistep", milestones=(4, 6))
    learner = make_team(At(), optim=config)["model"].agent.learner
    assert learner is not None
    assert learner.swa_start == 4
    other = make_team(At(), optim=OptimConfig(swa=True))["model"].agent.learner  # 50 steps of 3 an epoch
    assert other is not None
    assert other.swa_start == 12


def test_ema_follows_with_its_decay_and_takes_the_buffers() -> None:
    team = make_team(At(), optim=OptimConfig(ema=0.9, **CONSTANT))
    agent = team["model"].agent
    assert agent.learner is not None
    expected = weights(agent.model)
    for t in range(4):
        At().step(team, t)
        expected = [0.9 * e + 0.1 * p for e, p in zip(expected, weights(agent.model), strict=True)]
    ema = agent.learner.averages["ema"].network
    for a, b in zip(ema.parameters(), expected, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=0, atol=1e-14)
    assert torch.equal(ema.bn.running_mean, agent.model.bn.running_mean)


def test_averages_are_saved_and_continue() -> None:
    config = OptimConfig(ema=0.9, swa=True, swa_start=0, **CONSTANT)
    one, other = (make_team(Peeraid(), optim=config) for _ in range(2))
    for t in range(4):
        Peeraid().step(one, t)
    for role, handle in one.items():
        other[role].agent.load_state(handle.agent.state(4))
    for team in (one, other):
        for t in range(4, 7):
            Peeraid().step(team, t)
    a, b = (team["student"].agent.state(7) for team in (one, other))
    assert set(a.extra) == {"ema", "swa"}
    for name, tensors in a.extra.items():
        assert all(torch.equal(tensors[k], b.extra[name][k]) for k in tensors)
    results = one["student"].agent.evaluate(7, Measure((), "pgd"))
    assert set(results) == {"", "ema", "swa"}


def test_an_average_of_nothing_is_not_saved() -> None:
    agent = make_team(At(), optim=OptimConfig(swa=True, swa_start=5, **CONSTANT))["model"].agent
    assert agent.state(0).extra == {}
    assert list(agent.evaluate(0, Measure((), "pgd"))) == [""]


def test_perturbation_raises_the_loss_and_comes_back_to_the_bit() -> None:
    net = TinyNet().double()
    x, y = torch.rand(8, 1, 6, 6, dtype=torch.float64), torch.arange(8) % 4
    before, loss = weights(net), F.cross_entropy(net(x), y)
    with perturbed(net, loss, size=0.02):
        assert F.cross_entropy(net(x), y) > loss
        for p, old in zip(net.parameters(), before, strict=True):
            moved = (p.detach() - old).norm()
            expected = 0.02 * old.norm() if p.dim() > 1 else torch.zeros((), dtype=torch.float64)
            torch.testing.assert_close(moved, expected)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(net), strict=True))


@pytest.mark.parametrize("method", [At(), Peeraid()])
def test_awp_steps_along_the_gradient_of_the_perturbed_weights(method: Any) -> None:
    """Batch-norm statistics move as without it; before its warm-up it does nothing."""
    role = method.deploy()[0]
    plain = make_team(method, optim=OptimConfig(**CONSTANT))
    awp = make_team(method, optim=OptimConfig(awp=0.05, **CONSTANT))
    late = make_team(method, optim=OptimConfig(awp=0.05, awp_warmup=1, **CONSTANT))
    for team in (plain, awp, late):
        method.step(team, 0)
    a, b, c = (t[role].agent.model for t in (plain, awp, late))
    assert not torch.equal(a.conv1.weight, b.conv1.weight)
    assert torch.equal(a.conv1.weight, c.conv1.weight)
    assert int(a.bn.num_batches_tracked) == int(b.bn.num_batches_tracked)
    if isinstance(method, At):
        by_hand = make_team(method)[role].agent
        adv, net, y = by_hand.craft(0).x, by_hand.model, by_hand.batches.batch(0).y
        start = deepcopy(net)
        with perturbed(net, F.cross_entropy(net(adv), y), size=0.05):
            g = torch.autograd.grad(F.cross_entropy(net(adv), y), net.conv2.weight)[0]  # type: ignore[arg-type]
        decayed = g + 5e-4 * start.conv2.weight
        torch.testing.assert_close(b.conv2.weight, start.conv2.weight - 0.05 * decayed, rtol=0, atol=1e-12)


def test_average_is_a_copy() -> None:
    net = TinyNet()
    average = Average(net)
    with torch.no_grad():
        net.fc.bias.add_(1)
    assert not torch.equal(average.network.fc.bias, net.fc.bias)  # type: ignore[union-attr, arg-type]


def test_perturbed_step_uses_the_weights_that_it_reports() -> None:
    """MTARD moves its weights by the losses; the perturbed pass must not move them a second time."""
    method = Mtard(weight_rate=0.5)
    team = make_team(method, optim=OptimConfig(awp=0.1, **CONSTANT))
    calls: list[dict[str, float]] = []
    real = Mtard.balance

    def balance(self: Any, me: str, means: dict[str, float], state: Any, when: Any) -> Any:
        calls.append(means)
        return real(self, me, means, state, when)

    with mock.patch.object(Mtard, "balance", balance):
        for t in range(3):
            method.step(team, t)
    assert len(calls) == 3


class Dropping(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5, self.training))


def test_recomputing_with_dropout_is_a_function_of_the_step() -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # the global state must not matter
        team = make_team(At(), {"model": Dropping()}, optim=OptimConfig(swa=True, swa_start=0, **CONSTANT))
        for t in range(3):
            At().step(team, t)
        states.append(team["model"].agent.state(3).extra["swa"])
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
