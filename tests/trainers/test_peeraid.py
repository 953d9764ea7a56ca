"""PeerAiD: what the attack depends on, closed gradients, detached targets, simultaneity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sparring.trainers import attacks, optim
from sparring.trainers.config import Attack, OptimConfig
from sparring.trainers.losses import kl, kl_elements
from sparring.trainers.methods.peeraid import Passes, Peeraid
from sparring.trainers.types import Adversarial, Answer, Batch, When
from tests.helpers import Handle, gradients, make_team

NOW = When(0, 0, 1.0)
B, K = 5, 10
ATTACK = Attack(eps=0.1, steps=4, start="gaussian")


def logits(seed: int, *, grad: bool = False) -> Tensor:
    z = 2 * torch.randn(B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z.requires_grad_(grad)


LABELS = torch.arange(B) % K


def joint(method: Peeraid, p: Tensor, target: Tensor, adv: Tensor, clean: Tensor) -> Tensor:
    """The whole loss, with every graph attached, as one backward through both networks sees it."""
    loss = method.loss(
        "peer",
        Passes(adv=p),
        Batch(torch.zeros(B, 1), LABELS),
        state={},
        when=NOW,
        other=Passes(adv=adv, target=target, clean=clean),
    )
    return torch.stack(list(loss.terms.values())).sum()


def test_gradients_in_closed_form() -> None:
    """With respect to all four passes, for weights and temperatures that use every term."""
    m = Peeraid(gamma1=0.7, gamma2=1.3, lambda1=0.4, lambda2=0.9, lambda3=1.1, peer_temperature=2.0, temperature=3.0)
    p, target, adv, clean = (logits(i, grad=True) for i in range(4))
    joint(m, p, target, adv, clean).backward()
    onehot, r, t = F.one_hot(LABELS, K), m.peer_temperature, m.temperature
    soft = [z.detach().div(tau).softmax(1) for z, tau in ((p, r), (target, r), (adv, t), (clean, t), (p, t))]
    p_r, target_r, adv_t, clean_t, p_t = soft

    def towards(q: Tensor, s: Tensor, each: Tensor) -> Tensor:
        return q * (q.log() - s.log() - each[:, None])

    expected = {
        "p": m.gamma1 * (p.detach().softmax(1) - onehot) / B + m.gamma2 * r / (B * K) * (p_r - target_r),
        "target": m.gamma2 * r / (B * K) * towards(target_r, p_r, kl(target.detach(), p.detach(), temperature=r)),
        "adv": m.lambda1 * (adv.detach().softmax(1) - onehot) / B
        + m.lambda2 * t / (B * K) * (adv_t - p_t)
        + m.lambda3 * t / (B * K) * (adv_t - clean_t),
        "clean": m.lambda3 * t / (B * K) * towards(clean_t, adv_t, kl(clean.detach(), adv.detach(), temperature=t)),
    }
    for (name, value), z in zip(expected.items(), (p, target, adv, clean), strict=True):
        torch.testing.assert_close(z.grad, value, rtol=0, atol=1e-14, msg=name)


def test_what_is_detached() -> None:
    """With every lambda 0 the student still learns through the peer's target, unless targets are detached."""
    only = {"lambda1": 0.0, "lambda2": 0.0, "lambda3": 0.0}
    for options, nonzero in (({}, True), ({"gamma2": 0.0}, False), ({"detach_targets": True}, False)):
        method = Peeraid(**(only | {"gamma2": 1.0} | options))  # type: ignore[arg-type]
        team = make_team(method, attack=ATTACK)
        method.step(team, 0)
        assert (sum(float(g.abs().sum()) for g in gradients(team["student"])) > 0) == nonzero
    quiet = Peeraid(gamma1=0.0, gamma2=0.0)
    team = make_team(quiet, attack=ATTACK)
    quiet.step(team, 0)
    assert all(float(g.abs().sum()) == 0 for g in gradients(team["peer"]))


def crafted(method: Peeraid, *, shift: float = 0.0, labels: int = 0) -> Tensor:
    team = make_team(method, attack=ATTACK)
    student = team["student"].agent
    batch = student.batches.batch(0)
    student._cached = (0, batch.x, replace(batch, y=(batch.y + labels) % 4))
    guide = team["peer"].agent.answer(0)
    assert isinstance(guide, Answer)
    adv: Adversarial = student.craft(
        0, guide=Answer(guide.logits + shift * torch.arange(1.0, len(batch.y) + 1)[:, None])
    )
    return adv.x


def test_the_attack_depends_on_the_guide_alone() -> None:
    """Not on labels, weights or temperatures; a constant per example in the peer's logits changes nothing."""
    x = crafted(Peeraid())
    assert torch.equal(crafted(Peeraid(), labels=1), x)
    assert torch.equal(crafted(Peeraid(gamma2=3.0, lambda1=2.0, temperature=9.0, peer_temperature=4.0)), x)
    assert torch.equal(crafted(Peeraid(), shift=1.0), x)


def test_raising_the_kl_is_raising_the_soft_cross_entropy_and_examples_are_independent() -> None:
    team = make_team(Peeraid(), attack=ATTACK)
    model, x = team["student"].agent.model.eval(), team["student"].agent.batches.batch(0).x
    q = torch.randn(len(x), 4, dtype=torch.float64)
    rng = torch.Generator()
    attack = replace(ATTACK, start="none", steps=3)
    start = x + 0.01 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    by_kl = attacks.run(attack, lambda v: kl(q, model(v)), start, rng=rng)
    by_ce = attacks.run(attack, lambda v: -(q.softmax(1) * model(v).log_softmax(1)).sum(1), start, rng=rng)
    assert torch.equal(by_kl, by_ce)
    order = torch.randperm(len(x))
    permuted = attacks.run(attack, lambda v: kl(q[order], model(v)), start[order], rng=rng)
    torch.testing.assert_close(permuted, by_kl[order], rtol=0, atol=1e-12)
    z = [torch.randn(len(x), 4, dtype=torch.float64) for _ in range(4)]
    batch = team["student"].agent.batches.batch(0)

    def total(o: Tensor) -> float:
        loss = Peeraid(lambda1=1.0).loss(
            "peer",
            Passes(adv=z[0][o]),
            Batch(batch.x[o], batch.y[o]),
            state={},
            when=NOW,
            other=Passes(adv=z[1][o], target=z[2][o], clean=z[3][o]),
        )
        return float(torch.stack(list(loss.terms.values())).sum())

    assert total(order) == pytest.approx(total(torch.arange(len(x))), abs=1e-14)


def test_the_mean_over_elements_is_the_classes_times_below_the_batch_mean() -> None:
    a, b = logits(1), logits(2)
    assert (kl_elements(a, b, temperature=2.0) * K).item() == pytest.approx(kl(a, b, temperature=2.0).mean().item())


def test_both_step_at_once() -> None:
    """The order of the two learn calls changes nothing; learning from a peer that has already stepped does."""

    def turned(team: dict[str, Handle], t: int, *, late: bool) -> None:
        peer, student = team["peer"], team["student"]
        adv = student.craft(t, guide=peer.answer(t))
        zp, zs = peer.predict(t, adv=adv), student.predict(t, adv=adv)
        if late:
            peer.learn(t, other=zs)
            with torch.no_grad():
                zp = Passes(adv=peer.agent.model(adv.x))
            student.learn(t, other=zp)
        else:
            student.learn(t, other=zp)
            peer.learn(t, other=zs)

    results: list[list[Tensor]] = []
    for run in (
        lambda team: Peeraid().step(team, 0),
        lambda team: turned(team, 0, late=False),
        lambda team: turned(team, 0, late=True),
    ):
        team: Any = make_team(Peeraid(), attack=ATTACK)
        run(team)
        results.append([p.detach() for p in team["student"].agent.model.parameters()])
    normal, other, stale = results
    assert all(torch.equal(a, b) for a, b in zip(normal, other, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(normal, stale, strict=True))


def test_published_learning_rates() -> None:
    def rate(milestones: tuple[int, ...], epoch: int) -> float:
        config = OptimConfig(lr=0.1, schedule="multistep", milestones=milestones)
        return 0.1 * optim.when(config, epoch, steps_per_epoch=1, total_steps=300).lr_scale

    cifar = (214, 259, 284)
    for epoch, lr in ((213, 0.1), (214, 0.01), (258, 0.01), (259, 1e-3), (283, 1e-3), (284, 1e-4)):
        assert rate(cifar, epoch) == pytest.approx(lr)
    for milestones in ((99, 149), (49, 79)):
        assert [rate(milestones, e) for e in (milestones[0] - 1, milestones[0], milestones[1])] == pytest.approx(
            [0.1, 0.01, 1e-3]
        )
