"""Attacks: one table for all of them, properties under random images, and the geometry of the three balls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.trainers import attacks
from sparring.trainers.config import Attack, Msd, Threat
from sparring.trainers.losses import cross_entropy, kl, margin
from sparring.trainers.rng import generator

SHAPE = (5, 2, 6, 6)
EPS = {"linf": 0.1, "l2": 0.5, "l1": 3.0}
TABLE = {
    f"{kind}-{norm}-{start}-{steps}x{restarts}": Attack(
        kind=kind, norm=norm, eps=EPS[norm], steps=steps, start=start, restarts=restarts
    )
    for norm in EPS
    for kind, start, steps, restarts in [
        ("fgsm", None, 1, 1),
        ("pgd", "none", 3, 1),
        ("pgd", "uniform", 1, 1),
        ("pgd", "uniform", 4, 2),
        ("pgd", "gaussian", 3, 1),
        ("pgd", "uniform", 0, 1),
    ]
}


class Net(nn.Module):
    """Batch norm, dropout and a frozen parameter: everything that an attack could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)
        self.fc.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(torch.relu(self.bn(self.conv(x)))).mean((2, 3)))


def objectives(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, attacks.Objective]:
    clean = model(x).detach()
    return {
        "ce": lambda z: cross_entropy(model(z), y),
        "kl": lambda z: kl(clean, model(z)),
        "margin": lambda z: margin(model(z), y),
    }


def snapshot(model: nn.Module) -> list[object]:
    """Everything that an attack must leave alone, in a form that compares with ==."""
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    return [
        [t.tolist() for t in tensors],
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("objective", ["ce", "kl", "margin"])
@pytest.mark.parametrize("name", TABLE)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), extreme=st.booleans())
def test_in_ball_and_box_and_leaves_no_trace(name: str, objective: str, seed: int, extreme: bool) -> None:
    attack = TABLE[name]
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Net()
    x = torch.rand(SHAPE, generator=rng)
    x = x.round() if extreme else x  # corners of the box
    y = torch.randint(0, 5, (SHAPE[0],), generator=rng)
    model(x).sum().backward()  # a gradient that must survive
    model.bn.eval()  # mixed modes that must survive
    before, x_before = snapshot(model), x.clone()
    with attacks.frozen(model):
        adv = attacks.run(attack, objectives(model, x, y)[objective], x, rng=generator(seed, "test"))
    assert snapshot(model) == before
    assert torch.equal(x, x_before)
    assert not adv.requires_grad
    assert adv.shape == x.shape
    length = attacks.BALLS[attack.norm].length(adv - x)
    assert bool((length <= attack.eps * (1 + 1e-5) + 1e-6).all())
    assert adv.min() >= 0
    assert adv.max() <= 1
    if attack.iterations == 0:
        assert torch.equal(adv, x)


@pytest.mark.parametrize("norm", EPS)
def test_pgd_raises_the_objective_and_more_than_a_random_point(norm: str) -> None:
    torch.manual_seed(0)
    model, x, y = Net().eval(), torch.rand(64, 2, 6, 6), torch.randint(0, 5, (64,))
    attack = Attack(norm=norm, eps=EPS[norm], steps=20)
    loss = objectives(model, x, y)["ce"]
    adv = attacks.run(attack, loss, x, rng=generator(0))
    random = attacks.initial(attack, x, rng=generator(0))
    assert loss(adv).mean() > loss(random).mean() > loss(x).mean() - 0.1
    assert bool((loss(adv) >= loss(x) - 1e-4).float().mean() > 0.95)


def test_linf_fgsm_is_eps_times_sign() -> None:
    torch.manual_seed(0)
    model, y = Net().double().eval(), torch.randint(0, 5, (8,))
    x = torch.rand(8, 2, 6, 6, dtype=torch.float64) * 0.6 + 0.2
    x.requires_grad_(True)
    g = torch.autograd.grad(cross_entropy(model(x), y).sum(), x)[0]
    adv = attacks.fgsm(lambda z: cross_entropy(model(z), y), x.detach(), eps=0.1)
    torch.testing.assert_close(adv, x.detach() + 0.1 * g.sign(), rtol=0, atol=1e-15)


def test_linear_model_is_solved_exactly() -> None:
    """On a linear objective w.x the optimum in each ball is known in closed form."""
    w = torch.tensor([3.0, -2.0, 1.0, 0.5]).view(1, 1, 2, 2).double()
    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    best = {"linf": 0.1 * w.abs().sum(), "l2": 0.1 * w.norm(), "l1": 0.1 * w.abs().max()}
    for norm in ("linf", "l2"):
        attack = Attack(norm=norm, eps=0.1, steps=60, step_size=0.05, start="none")
        adv = attacks.run(attack, lambda z: (w * z).sum((1, 2, 3)), x, rng=generator(0))
        torch.testing.assert_close((w * (adv - x)).sum(), best[norm], rtol=1e-6, atol=0)
    attack = Attack(norm="l1", eps=0.1, steps=400, step_size=0.01, start="none")
    adv = attacks.run(attack, lambda z: (w * z).sum((1, 2, 3)), x, rng=generator(0))
    assert (w * (adv - x)).sum() > 0.5 * best["l1"]


@pytest.mark.parametrize("kind", [Attack(eps=0.1, steps=3), Msd((Attack(eps=0.1), Attack(norm="l2", eps=0.5)), 3)])
def test_an_objective_of_another_kind_leads_the_same_way(kind: Attack | Msd) -> None:
    """Of one number per example and class, or in another precision: what is raised is the sum."""
    x, w = torch.rand(4, 1, 3, 3), torch.randn(4, 1, 3, 3)

    def each(z: torch.Tensor) -> torch.Tensor:
        return (w * z).flatten(1)

    plain = attacks.run(kind, lambda z: each(z).sum(1), x, rng=generator(0))
    assert torch.equal(attacks.run(kind, lambda z: each(z).sum(1).double(), x, rng=generator(0)), plain)
    if isinstance(kind, Attack):
        assert torch.equal(attacks.run(kind, lambda z: each(z), x, rng=generator(0)), plain)
        assert torch.equal(attacks.run(kind, lambda z: each(z).sum(), x, rng=generator(0)), plain)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(sorted(EPS)), scale=st.floats(0.01, 30))
def test_projection(seed: int, norm: str, scale: float) -> None:
    """On the sphere outside, the identity inside, idempotent, and no feasible point is nearer (mat oracle 12)."""
    rng = torch.Generator().manual_seed(seed)
    ball, eps = attacks.BALLS[norm], EPS[norm]
    center = torch.rand(4, 2, 5, 5, generator=rng, dtype=torch.float64)
    x = center + scale * torch.randn(center.shape, generator=rng, dtype=torch.float64)
    project = ball.region(center, eps, (-torch.inf, torch.inf))
    p = project(x)
    length = ball.length(x - center)
    outside = length > eps
    torch.testing.assert_close(
        ball.length(p - center)[outside], torch.full_like(length[outside], eps), rtol=1e-9, atol=0
    )
    assert torch.equal(p[~outside], x[~outside]) or torch.allclose(p[~outside], x[~outside], atol=1e-15)
    torch.testing.assert_close(project(p), p, rtol=0, atol=1e-12)
    for _ in range(20):
        other = center + ball.sample(center, eps, rng)
        assert bool(((x - p).flatten(1).norm(dim=1) <= (x - other).flatten(1).norm(dim=1) + 1e-9).all())


@pytest.mark.parametrize("norm", EPS)
def test_uniform_start_fills_the_ball(norm: str) -> None:
    like = torch.zeros(4000, 1, 2, 2, dtype=torch.float64)
    length = attacks.BALLS[norm].length(attacks.BALLS[norm].sample(like, EPS[norm], generator(1)))
    assert length.max() <= EPS[norm] + 1e-12
    # a uniform point of a d-ball has (length / eps)^d uniform on [0, 1]
    u = (length / EPS[norm]) ** 4
    assert abs(u.mean().item() - 0.5) < 0.02
    assert abs(u.var().item() - 1 / 12) < 0.01


def test_l1_step_skips_pixels_at_the_box() -> None:
    x = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    g = torch.tensor([[[[5.0, -4.0], [0.1, 0.0]]]])  # the two largest would leave the box
    moved = attacks.BALLS["l1"].step(x, g, 0.4, generator(0))
    assert moved[0, 0].tolist() == [[1.0, 0.0], [pytest.approx(0.6), 0.5]]


def test_restarts_keep_the_strongest() -> None:
    a, b = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    chosen = attacks.strongest(lambda x: x.flatten() * torch.tensor([1.0, -1.0]), [a, b])
    assert chosen.flatten().tolist() == [1.0, 0.0]


def test_bn_train_moves_the_statistics_once_per_step() -> None:
    torch.manual_seed(0)
    model, x, y = Net(), torch.rand(8, 2, 6, 6), torch.zeros(8, dtype=torch.int64)
    with attacks.frozen(model, bn="train"):
        attacks.run(Attack(eps=0.1, steps=3, bn="train"), lambda z: cross_entropy(model(z), y), x, rng=generator(0))
    assert model.bn.num_batches_tracked == 3


@pytest.mark.parametrize("text", ["linf:8", "linf8/255", "l3:0.1", "l2:-1", "linf:nan", "l2:x"])
def test_bad_threats(text: str) -> None:
    with pytest.raises(ValueError, match=r"linf|l2|NORM|eps|norm|number"):
        Threat.parse(text)


def test_eps_in_the_wrong_unit_names_the_right_one() -> None:
    with pytest.raises(ValueError, match=r"eps = 8 exceeds the pixel range.*8/255"):
        Attack(eps=8)
