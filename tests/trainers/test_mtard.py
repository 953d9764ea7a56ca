"""MTARD and B-MTARD: properties of weights, temperatures, gradients and passes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sparring.trainers import optim
from sparring.trainers.config import Attack, OptimConfig
from sparring.trainers.losses import kl, kl_offset
from sparring.trainers.methods.mtard import Mtard, Passes
from sparring.trainers.types import Adversarial, Answer, Batch, When
from tests.helpers import TinyNet, make_team

NOW = When(0, 0, 1.0)
K, B = 10, 6
losses = st.floats(1e-3, 10)


def balance(method: Mtard, means: dict[str, float], state: Any, when: When = NOW) -> tuple[dict[str, float], Any]:
    return method.balance("student", {"E_adv": -0.1, "E_nat": -0.1, **means}, state, when)


def weights(method: Mtard, sequence: list[tuple[float, float]]) -> list[dict[str, float]]:
    state, seen = method.start_state("student"), []
    for adv, nat in sequence:
        w, state = balance(method, {"adv": adv, "nat": nat}, state)
        seen.append(w)
    return seen


@given(st.lists(st.tuples(losses, losses), min_size=1, max_size=12), st.floats(0.1, 50))
@settings(max_examples=50, deadline=None)
def test_weights(sequence: list[tuple[float, float]], factor: float) -> None:
    """Half each at first; a convex pair that moves by at most r_w; the same in both variants and for scaled losses."""
    eccv, balanced = (weights(Mtard(variant=v), sequence) for v in ("eccv", "balanced"))  # type: ignore[arg-type]
    assert eccv[0] == {"adv": 0.5, "nat": 0.5}
    for a, b in zip(eccv, balanced, strict=True):
        assert a["adv"] + a["nat"] == pytest.approx(1, abs=1e-12)
        assert 0 < a["adv"] < 1
        assert a["adv"] == pytest.approx(b["adv"], abs=1e-12)
    moves = [abs(b["adv"] - a["adv"]) for a, b in pairwise(eccv)]
    assert all(m <= 0.025 + 1e-12 for m in moves)
    scaled = weights(Mtard(), [(a, factor * n) for a, n in sequence])
    assert all(a["nat"] == pytest.approx(b["nat"], abs=1e-9) for a, b in zip(balanced, scaled, strict=True))


def test_the_loss_that_shrinks_faster_loses_weight_down_to_its_share() -> None:
    seen = weights(Mtard(weight_rate=0.5), [(1.0, 1.0), *[(0.9, 0.3)] * 60])
    assert seen[1]["nat"] < 0.5
    assert seen[-1]["nat"] == pytest.approx(0.3 / (0.9 + 0.3), abs=1e-12)  # the fixed point


def test_temperatures_move_by_signs_within_their_bounds() -> None:
    """Robust teacher less certain: tau_adv stays at 1, tau_nat climbs by r_tau until the entropies meet, at most to 10."""
    method = Mtard(temperature_rate=0.1)
    state: Any = method.start_state("student")
    for t in range(1, 121):
        _, state = balance(method, {"adv": 1, "nat": 1, "E_adv": -0.2, "E_nat": -0.05}, state)
        assert state["tau_adv"] == 1
        assert state["tau_nat"] == pytest.approx(min(1 + 0.1 * t, 10), abs=1e-9)
    turned: Any = method.start_state("student") | {"tau_adv": 4.0, "tau_nat": 2.0}
    straight: Any = method.start_state("student") | {"tau_adv": 2.0, "tau_nat": 4.0}
    _, turned = balance(method, {"adv": 1, "nat": 1, "E_adv": -0.05, "E_nat": -0.2}, turned)
    _, straight = balance(method, {"adv": 1, "nat": 1, "E_adv": -0.2, "E_nat": -0.05}, straight)
    assert (turned["tau_adv"], turned["tau_nat"]) == (straight["tau_nat"], straight["tau_adv"])  # teachers swapped
    _, same = balance(method, {"adv": 1, "nat": 1, "E_adv": -0.1, "E_nat": -0.1}, straight)
    assert (same["tau_adv"], same["tau_nat"]) == (straight["tau_adv"], straight["tau_nat"])  # equal entropies
    _, eccv = balance(Mtard(variant="eccv"), {"adv": 1, "nat": 1, "E_adv": -0.2}, method.start_state("student"))
    assert (eccv["tau_adv"], eccv["tau_nat"]) == (1, 1)


def test_rates_fall_with_the_learning_rate() -> None:
    config = OptimConfig(lr=0.1, schedule="multistep", milestones=(215, 260, 285))
    method = Mtard()
    for epoch, scale in ((214, 1.0), (215, 0.1), (259, 0.1), (260, 0.01), (285, 0.001)):  # counted from 0
        when = optim.when(config, epoch, steps_per_epoch=1, total_steps=300)
        start: Any = method.start_state("student") | {"first": [1.0, 1.0], "tau_nat": 5.0}
        w, state = balance(method, {"adv": 1.0, "nat": 3.0, "E_adv": -0.2, "E_nat": -0.05}, start, when)
        assert w["nat"] - 0.5 == pytest.approx(0.025 * scale * 0.25, rel=1e-9)
        assert state["tau_nat"] - 5 == pytest.approx(0.001 * scale, rel=1e-6)


def logits(seed: int) -> Tensor:
    return 3 * torch.randn(B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def terms(method: Mtard, own: Passes, state: Any) -> Any:
    batch = Batch(torch.zeros(B, 1, 1, 1), torch.zeros(B, dtype=torch.int64))
    return method.loss(
        "student",
        own,
        batch,
        state=state,
        when=NOW,
        adv=Adversarial(batch.x),
        clean=Answer(logits(3)),
        robust=Answer(logits(4)),
    )


def test_gradients_in_closed_form() -> None:
    """c (p - q) / (B K): student at temperature 1, no T^2; rows sum to 0; a hot teacher is uniform; c scales gradients only."""
    for c, tau in ((1.0, 1.0), (1.0, 4.0), (10.0, 2.5), (1.0, 1e6)):
        method = Mtard(scale=c, temperature_max=1e6)
        adv, nat = (logits(s).requires_grad_() for s in (1, 2))
        loss = terms(method, Passes(adv, nat), method.start_state("student") | {"tau_adv": tau, "tau_nat": tau})
        (0.3 * loss.terms["adv"] + 0.7 * loss.terms["nat"]).backward()
        for z, w, teacher in ((adv, 0.3, logits(4)), (nat, 0.7, logits(3))):
            expected = w * c * (z.detach().softmax(1) - (teacher / tau).softmax(1)) / (B * K)
            torch.testing.assert_close(z.grad, expected, rtol=0, atol=1e-12)
            assert z.grad is not None
            assert z.grad.sum(1).abs().max() < 1e-15
        if tau == 1e6:
            uniform = 0.7 * (nat.detach().softmax(1) - 1 / K) / (B * K)
            torch.testing.assert_close(nat.grad, uniform, rtol=0, atol=1e-8)


@given(st.integers(0, 10**6), st.floats(0.01, 30))
@settings(max_examples=50, deadline=None)
def test_offset_bounds(seed: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    s, t = (scale * torch.randn(4, K, generator=rng, dtype=torch.float64) for _ in range(2))
    q = t.softmax(1)
    excess = kl_offset(q, s) - kl(t, s).mean() / K
    assert -1e-12 <= excess <= 1e-5
    assert kl_offset(s.softmax(1), s) <= 1e-5
    e = Mtard()._negative_entropy(q).item()
    low, high = (torch.tensor(v, dtype=torch.float64).log().item() for v in (1 / K + 1e-5, 1 + 1e-5))
    assert low / K - 1e-12 <= e <= high + 1e-12


def test_passes_and_statistics() -> None:
    """Ten passes in eval mode, then x' and x in train mode: two updates; each teacher is asked once; labels only attack."""
    attack = Attack(eps=8 / 255, step_size=2 / 255, steps=10, start="gaussian")
    team = make_team(Mtard(), attack=attack)
    seen: dict[str, list[tuple[bool, Tensor]]] = {role: [] for role in team}
    before = {r: {k: v.clone() for k, v in h.agent.model.state_dict().items()} for r, h in team.items()}
    for role, handle in team.items():
        handle.agent.model.register_forward_pre_hook(
            lambda m, args, role=role: seen[role].append((m.training, args[0].detach()))  # type: ignore[misc]
        )
    Mtard().step(team, 0)
    x = team["student"].agent.batches.batch(0).x
    adv = seen["student"][10][1]
    assert [mode for mode, _ in seen["student"]] == [False] * 10 + [True] * 2
    assert torch.equal(seen["student"][11][1], x)
    assert (adv - x).abs().max() <= 8 / 255 + 1e-15
    assert 0 <= adv.min() <= adv.max() <= 1
    assert [len(seen[r]) for r in ("clean_teacher", "robust_teacher")] == [1, 1]
    assert torch.equal(seen["clean_teacher"][0][1], x)
    assert torch.equal(seen["robust_teacher"][0][1], adv)
    assert team["student"].agent.model.bn.num_batches_tracked == before["student"]["bn.num_batches_tracked"] + 2
    assert team["student"].agent.model.training
    for role in ("clean_teacher", "robust_teacher"):
        state = team[role].agent.model.state_dict()
        assert all(torch.equal(state[k], v) for k, v in before[role].items())


def test_equal_teachers_without_attack_keep_the_weights() -> None:
    """R = N, no perturbation, no batch norm: both losses are one, and the weights stay a half; labels do not matter."""
    models = {r: TinyNet(bn=False, seed=0 if r == "student" else 1) for r in Mtard().roles()}
    team = make_team(Mtard(), models, bn=False, attack=Attack(eps=0.0, steps=0))
    for t in range(3):
        Mtard().step(team, t)
        metrics = team["student"].metrics
        assert metrics is not None
        assert metrics.values["adv"] == metrics.values["nat"]
        assert metrics.values["w_adv"] == pytest.approx(0.5, abs=1e-15)


def test_averages_of_equal_shards_are_the_whole() -> None:
    """Losses, entropies and therefore weights of two half batches average to those of the whole (statistics apart)."""
    method, state = Mtard(), Mtard().start_state("student")
    halves = []
    whole = terms(method, Passes(logits(1), logits(2)), state)
    for part in (slice(0, 3), slice(3, 6)):
        batch = Batch(torch.zeros(3, 1, 1, 1), torch.zeros(3, dtype=torch.int64))
        halves.append(
            method.loss(
                "student",
                Passes(logits(1)[part], logits(2)[part]),
                batch,
                state=state,
                when=NOW,
                adv=Adversarial(batch.x),
                clean=Answer(logits(3)[part]),
                robust=Answer(logits(4)[part]),
            )
        )
    for name, value in (whole.terms | whole.stats).items():
        parts = [(h.terms | h.stats)[name] for h in halves]
        torch.testing.assert_close(torch.stack(parts).mean(), value, rtol=0, atol=1e-12)


def test_resumed_state_is_not_started_again() -> None:
    team, other = make_team(Mtard()), make_team(Mtard())
    for t in range(3):
        Mtard().step(team, t)
    for role, handle in team.items():
        other[role].agent.load_state(handle.agent.state(3))
    for agents in (team, other):
        Mtard().step(agents, 3)
    a, b = (x["student"] for x in (team, other))
    assert a.metrics is not None
    assert b.metrics is not None
    assert a.metrics.values == b.metrics.values
    assert a.agent.method_state == b.agent.method_state
    assert a.agent.method_state["first"] is not None


def test_safe_edges_keep_the_state_where_the_code_divides_by_zero() -> None:
    state: Any = Mtard().start_state("student") | {"first": [0.0, 1.0]}
    with pytest.raises(ZeroDivisionError):
        balance(Mtard(), {"adv": 0.0, "nat": 1.0}, state)
    w, kept = balance(Mtard(edges="safe"), {"adv": 0.0, "nat": 1.0}, state)
    assert w == {"adv": 0.5, "nat": 0.5}
    assert kept["w_adv"] == 0.5
    sure = torch.zeros(1, K, dtype=torch.float64)
    sure[0, 0] = 60
    q = F.softmax(sure, 1)
    assert Mtard()._negative_entropy(q) > 0 >= Mtard(edges="safe")._negative_entropy(q)
