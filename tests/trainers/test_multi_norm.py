"""Training against several norms: AVG, MAX, MSD, E-AT, specialists and the generalist, and the union of norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sparring.agents.robustness import Judging, accuracies, correct
from sparring.trainers import attacks
from sparring.trainers.config import NORM_NAMES, Attack, Measure, Msd
from sparring.trainers.losses import cross_entropy
from sparring.trainers.methods.avg import Avg
from sparring.trainers.methods.eat import Eat
from sparring.trainers.methods.mat_multi import MatMulti
from sparring.trainers.methods.max import Max
from sparring.trainers.methods.msd import MultiSteepestDescent
from sparring.trainers.types import When
from tests.helpers import TinyNet, gradients, losses, make_team

EACH = {
    "linf": Attack(norm="linf", eps=0.1, steps=4, start="none"),
    "l2": Attack(norm="l2", eps=0.5, steps=4, start="none"),
    "l1": Attack(norm="l1", eps=2.0, steps=4, start="none"),
}


@pytest.fixture
def model() -> TinyNet:
    return TinyNet().double().eval()


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return torch.rand(n, 1, 6, 6, generator=rng, dtype=torch.float64), torch.randint(0, 4, (n,), generator=rng)


def test_msd_of_one_ball_is_pgd_that_keeps_its_best_iterate(model: TinyNet) -> None:
    x, y = images()
    for norm in ("linf", "l2"):  # the l1 step draws how many coordinates it takes
        values: list[Tensor] = []
        iterates: list[Tensor] = []

        def objective(z: Tensor, values: list[Tensor] = values, iterates: list[Tensor] = iterates) -> Tensor:
            ce = cross_entropy(model(z), y)
            values.append(ce.detach())
            iterates.append(z.detach())
            return ce

        adv = attacks.run(EACH[norm], objective, x, rng=torch.Generator())
        values.append(cross_entropy(model(adv), y).detach())
        iterates.append(adv)
        best = torch.stack(values).argmax(0)
        expected = torch.stack(iterates)[best, torch.arange(len(x))]
        ours = attacks.run(Msd((EACH[norm],), 4), lambda z: cross_entropy(model(z), y), x, rng=torch.Generator())
        assert torch.equal(ours, expected)


def test_msd_stays_in_the_union_and_beats_its_start(model: TinyNet) -> None:
    x, y = images(40)
    adv = attacks.run(Msd(tuple(EACH.values()), 8), lambda z: cross_entropy(model(z), y), x, rng=torch.Generator())
    inside = [attacks.BALLS[p].length(adv - x) <= a.eps + 1e-9 for p, a in EACH.items()]
    assert torch.stack(inside).any(0).all()
    assert 0 <= adv.min() <= adv.max() <= 1
    gain = cross_entropy(model(adv), y) - cross_entropy(model(x), y)
    assert (gain >= 0).all()
    assert gain.mean() > 0


def test_msd_that_keeps_running_past_a_peak_returns_the_peak() -> None:
    """An objective with its maximum inside the ball: later steps overshoot."""
    x = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64)
    attack = Attack(norm="linf", eps=0.3, step_size=0.1)
    adv = attacks.run(Msd((attack,), 5), lambda z: -(z - 0.62).square().sum((1, 2, 3)), x, rng=torch.Generator())
    torch.testing.assert_close(adv, torch.full_like(x, 0.6))


def test_average_is_below_the_maximum_and_the_maximum_above_every_norm() -> None:
    """Per batch, on the same examples: mean over norms <= worst per example, which is >= each norm's own mean."""
    method = Max()
    team = make_team(method)
    agent = team["model"].agent
    adv = {p: agent.craft(0, attack=p) for p in NORM_NAMES}
    said = agent.answer(0, adv)
    assert isinstance(said, dict)
    from sparring.trainers.methods.max import worst

    y = agent.batches.batch(0).y
    agent.model.eval()
    with torch.no_grad():
        each = {p: cross_entropy(agent.model(a.x), y) for p, a in adv.items()}
        highest = cross_entropy(agent.model(worst(y, adv, said)), y)
    torch.testing.assert_close(highest, torch.stack(list(each.values())).amax(0), rtol=0, atol=1e-12)
    assert torch.stack(list(each.values())).mean() <= highest.mean()
    assert all(highest.mean() >= e.mean() for e in each.values())


def test_avg_is_the_mean_of_the_norms() -> None:
    team = make_team(Avg(), bn=False)
    agent = team["model"].agent
    y = agent.batches.batch(0).y
    examples = [agent.craft(0, attack=p).x for p in NORM_NAMES]
    expected = torch.stack([F.cross_entropy(agent.model(x), y) for x in examples]).mean().item()
    Avg().step(team, 0)
    assert losses(team)["model"] == pytest.approx(expected, abs=1e-12)


def test_generalist_without_teaching_is_avg_and_specialists_get_no_gradient() -> None:
    """alpha = 0: the generalist's step is AVG's, to the bit. With it, the specialists' steps stay what they were alone."""
    models = {"model": TinyNet(seed=9)}
    alone = make_team(Avg(), models, same_start=True)
    Avg().step(alone, 0)
    method = MatMulti(alpha=0.0)
    together = make_team(
        method,
        {**{p: TinyNet(seed=i) for i, p in enumerate(NORM_NAMES)}, "generalist": TinyNet(seed=9)},
        same_start=True,
    )
    method.step(together, 0)
    assert losses(together)["generalist"] == pytest.approx(losses(alone)["model"], abs=1e-14)
    for a, b in zip(gradients(together["generalist"]), gradients(alone["model"]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    taught = make_team(MatMulti(alpha=0.7), same_start=True)
    MatMulti(alpha=0.7).step(taught, 0)
    quiet = make_team(method, same_start=True)
    method.step(quiet, 0)
    for p in NORM_NAMES:
        assert all(torch.equal(a, b) for a, b in zip(gradients(taught[p]), gradients(quiet[p]), strict=True))
    assert not all(
        torch.equal(a, b) for a, b in zip(gradients(taught["generalist"]), gradients(quiet["generalist"]), strict=True)
    )


@pytest.mark.parametrize("select", ["avg", "max", "msd"])
@pytest.mark.parametrize("own_share", [0.0, 0.4, 1.0])
def test_generalist_loss_by_hand(select: Any, own_share: float) -> None:
    """Networks without batch norm, so that modes do not matter: the formula of the head, from the crafted examples."""
    a, t = 0.3, 2.0
    method = MatMulti(alpha=a, own_share=own_share, temperature=t, select=select, feedback=0.2, hard_weight="convex")
    team = make_team(method, bn=False)
    nets = {r: h.agent.model for r, h in team.items()}
    g, y = nets["generalist"], team["generalist"].agent.batches.batch(0).y
    mine = {p: team[p].agent.craft(0, attack=p).x for p in NORM_NAMES}
    own = {p: team["generalist"].agent.craft(0, attack=p).x for p in (*NORM_NAMES, "msd")}

    def soft(teacher: Any, student: Any, x: Tensor) -> Tensor:
        q, p = F.softmax(teacher(x) / t, 1), F.log_softmax(student(x) / t, 1)
        return t * t * F.kl_div(p, q, reduction="batchmean")

    each = torch.stack([cross_entropy(g(own[p]), y) for p in NORM_NAMES])
    hard = {"avg": each.mean(), "max": each.amax(0).mean(), "msd": cross_entropy(g(own["msd"]), y).mean()}[select]
    taught = sum((1 - own_share) * soft(nets[p], g, mine[p]) + own_share * soft(nets[p], g, own[p]) for p in NORM_NAMES)
    expected = {"generalist": ((1 - a) * hard + a * taught / 3).item()}
    for p in NORM_NAMES:
        expected[p] = (0.8 * cross_entropy(nets[p](mine[p]), y).mean() + 0.2 * soft(g, nets[p], mine[p])).item()
    method.step(team, 0)
    for role, value in losses(team).items():
        assert value == pytest.approx(expected[role], abs=1e-12), role


def test_frozen_specialists_craft_and_do_not_learn() -> None:
    method = MatMulti(specialists="frozen")
    team = make_team(method)
    before = {p: [v.clone() for v in team[p].agent.model.state_dict().values()] for p in NORM_NAMES}
    method.step(team, 0)
    assert list(losses(team)) == ["generalist"]
    for p in NORM_NAMES:
        assert all(torch.equal(a, b) for a, b in zip(before[p], team[p].agent.model.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="feedback needs specialists that learn"):
        MatMulti(specialists="frozen", feedback=0.1)


def test_eat_draws_the_norm_of_larger_error_more_often() -> None:
    method = Eat()
    state: Any = {"acc_linf": 0.9, "acc_l1": 0.1}
    draws = [method.drawn(state, When(t, 0, 1.0, seed=4)) for t in range(1000)]
    assert draws.count("l1") == pytest.approx(900, abs=40)
    assert draws == [method.drawn(state, When(t, 0, 1.0, seed=4)) for t in range(1000)]
    even = [Eat(uniform=True).drawn(state, When(t, 0, 1.0, seed=4)) for t in range(1000)]
    assert even.count("l1") == pytest.approx(500, abs=60)
    norm = method.drawn(state, When(0, 0, 1.0))
    _, after = method.balance("model", {"robust_accuracy": 1.0}, state, When(0, 0, 1.0))
    assert after[f"acc_{norm}"] == pytest.approx(0.9 * state[f"acc_{norm}"] + 0.1)
    assert sum(after[k] != state[k] for k in state) == 1


def test_union_is_at_most_every_norm_and_clean(model: TinyNet) -> None:
    split = make_team(Avg())["model"].agent.held_out
    how = Judging(seed=0, dtype=torch.float64)
    union = accuracies(model, split, Measure(tuple(EACH.values()), "pgd"), how, own=EACH["linf"]).robust
    clean = correct(model, split, None, how)
    single = [correct(model, split, a, how) for a in EACH.values()]
    assert union == (clean & torch.stack(single).all(0)).double().mean().item()
    assert union <= min(s.double().mean().item() for s in (clean, *single))


def test_msd_method_trains_on_the_union() -> None:
    method = MultiSteepestDescent()
    team = make_team(method)
    agent = team["model"].agent
    adv, x = agent.craft(0).x, agent.batches.batch(0).x
    inside = [attacks.BALLS[p].length(adv - x) <= agent.attacks[p].eps + 1e-9 for p in NORM_NAMES]
    assert torch.stack(inside).any(0).all()
    assert not torch.stack(inside).all(0).all()  # some leave the smallest ball for another
    method.step(team, 0)
    assert agent.t == 1
    with pytest.raises(ValueError, match="choose from linf, l2, l1"):
        MultiSteepestDescent(threats=("l3",))
