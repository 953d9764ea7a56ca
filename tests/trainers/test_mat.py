"""Oracles of mutual adversarial training: what must hold of the reconstruction whatever the numbers are."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sparring.trainers.config import Attack
from sparring.trainers.losses import kl
from sparring.trainers.methods.at import At
from sparring.trainers.methods.mat import Mat
from sparring.trainers.types import Adversarial
from tests.helpers import Handle, TinyNet, gradients, losses, make_team

PRESETS = ["mat", "own_sample", "peer_sample", "mat_hard"]


def close(a: list[torch.Tensor], b: list[torch.Tensor], scale: float = 1.0) -> None:
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, scale * y, rtol=1e-9, atol=1e-12)


def step(method: Mat | At, **options: object) -> dict[str, Handle]:
    team = make_team(method, **options)  # type: ignore[arg-type]
    method.step(team, 0)
    return team


def reference(method: Mat, **options: object) -> tuple[dict[str, Handle], list[Tensor]]:
    """The equation written out once more from the definition, on the examples that the agents craft: one loss per peer."""
    team = make_team(method, **options)  # type: ignore[arg-type]
    names = list(team)
    batch = team[names[0]].agent.batches.batch(0)
    adv = {i: team[i].craft(0).x for i in names}
    teacher = {}
    for j in names:
        team[j].agent.model.eval()
        with torch.no_grad():
            teacher |= {(j, i): F.softmax(team[j].agent.model(adv[i]) / method.temperature, 1) for i in names}
        team[j].agent.model.train()
    a = method.alpha if len(names) > 1 else 0.0
    w = 1 / max(len(names) - 1, 1)
    t2 = method.temperature**2
    values = []
    for i in names:
        f = team[i].agent.model
        own = f(adv[i])
        log_own = F.log_softmax(own / method.temperature, 1)
        hard = F.cross_entropy(own, batch.y)
        total = hard if method.hard_weight == "one" else (1 - a) * hard
        for j in names:
            if j == i:
                continue
            theirs = f(adv[j])
            log_theirs = F.log_softmax(theirs / method.temperature, 1)
            if method.own_share > 0 and a > 0:
                total = total + a * w * method.own_share * t2 * F.kl_div(log_own, teacher[j, i], reduction="batchmean")
            if method.own_share < 1 and a > 0:
                soft = F.kl_div(log_theirs, teacher[j, j], reduction="batchmean")
                total = total + a * w * (1 - method.own_share) * t2 * soft
            total = total + method.extra_weight * w * F.cross_entropy(theirs, batch.y)
        values.append(total)
    return team, values


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("peers", [1, 2, 3])
@pytest.mark.parametrize("hard_weight", ["one", "convex"])
def test_equals_the_equation(preset: str, peers: int, hard_weight: str) -> None:
    method = Mat(peers=peers, preset=preset, hard_weight=hard_weight, temperature=2.5)  # type: ignore[arg-type]
    assert list(losses(step(method)).values()) == pytest.approx([v.item() for v in reference(method)[1]], rel=1e-12)


def test_1_one_peer_is_adversarial_training() -> None:
    mat, at = step(Mat(peers=1, alpha=0.7, hard_weight="convex")), step(At())
    assert losses(mat)["peer0"] == losses(at)["model"]
    close(gradients(mat["peer0"]), gradients(at["model"]))


def test_2_alpha_zero_is_independent_training() -> None:
    team = make_team(Mat(peers=3, alpha=0))
    for t in range(4):
        Mat(peers=3, alpha=0).step(team, t)
    assert {h.agent.index for h in team.values()} == {0, 1, 2}
    alone = make_team(Mat(peers=1), {"peer0": TinyNet(seed=0)})
    for t in range(4):
        Mat(peers=1).step(alone, t)
    for a, b in zip(team["peer0"].agent.model.parameters(), alone["peer0"].agent.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_3_what_a_peer_sends_is_a_constant() -> None:
    """Peers reached by the same numbers, without their networks, give the same gradient: nothing flows through a message."""
    method = Mat(peers=2)
    team = step(method)
    probe = make_team(method)
    adv = {i: probe[i].craft(0) for i in probe}
    soft = {j: probe[j].answer(0, adv) for j in probe}
    assert not any(a.logits.requires_grad for answers in soft.values() for a in answers.values())
    probe["peer0"].learn(0, adv=adv, soft={"peer1": soft["peer1"]})
    close(gradients(probe["peer0"]), gradients(team["peer0"]))
    assert gradients(probe["peer1"]) == []


def test_4_one_backward_through_the_sum_is_every_peers_own() -> None:
    method = Mat(peers=3, preset="mat_hard", alpha=0.6)
    joint, values = reference(method)
    torch.stack(values).sum().backward()
    team = step(method)
    for role, handle in team.items():
        close(gradients(handle), gradients(joint[role]))


def test_5_permuting_peers_permutes_the_losses() -> None:
    method = Mat(peers=3)
    nets = [TinyNet(seed=s) for s in (11, 12, 13)]
    base = step(method, models={f"peer{i}": copy.deepcopy(n) for i, n in enumerate(nets)}, same_start=True)
    for order in itertools.permutations(range(3)):
        models = {f"peer{i}": copy.deepcopy(nets[k]) for i, k in enumerate(order)}
        permuted = losses(step(method, models=models, same_start=True))
        expected = [losses(base)[f"peer{k}"] for k in order]
        assert list(permuted.values()) == pytest.approx(expected, rel=1e-12)


def test_5b_answers_come_before_any_train_mode_pass() -> None:
    """The snapshot rule: a teacher asked after its train-mode pass would answer differently."""
    method = Mat(peers=2, preset="own_sample")
    right = losses(step(method))
    late = make_team(method)
    adv = {i: late[i].craft(0) for i in late}
    before = {j: late[j].answer(0, adv) for j in late}
    late["peer0"].learn(0, adv=adv, soft={"peer1": before["peer1"]})
    for p in late["peer0"].agent.model.parameters():  # undo the step itself: only the statistics have moved
        p.data.add_(late["peer0"].agent.config.lr * (p.grad + late["peer0"].agent.config.weight_decay * p.data))
    late["peer0"].agent.t = 0
    after = late["peer0"].answer(0, adv)
    assert not torch.allclose(after["peer1"].logits, before["peer0"]["peer1"].logits, atol=1e-6)
    late["peer1"].learn(0, adv=adv, soft={"peer0": before["peer0"]})
    assert losses({"peer1": late["peer1"]})["peer1"] == right["peer1"]


def test_6_clones_with_equal_starts_only_scale_adversarial_training() -> None:
    net = TinyNet(bn=False, seed=1)
    models = {"peer0": copy.deepcopy(net), "peer1": copy.deepcopy(net)}
    team = step(Mat(peers=2, alpha=0.4, hard_weight="convex"), models=models, same_start=True)
    alone = step(At(), models={"model": copy.deepcopy(net)})
    for i in team:
        assert losses(team)[i] == pytest.approx(0.6 * losses(alone)["model"], rel=1e-12)
        close(gradients(team[i]), gradients(alone["model"]), 0.6)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_7_eps_zero_is_deep_mutual_learning(beta: float) -> None:
    method = Mat(peers=3, alpha=0.5, beta=beta, hard_weight="convex")
    attack = Attack(eps=0.0, steps=3, step_size=0.1)
    team = make_team(method, bn=False, attack=attack)
    batch = team["peer0"].agent.batches.batch(0)
    logits = {i: h.agent.model(batch.x).detach() for i, h in team.items()}
    method.step(team, 0)
    for i in team:
        mutual = sum(kl(logits[j], logits[i]).mean() for j in team if j != i) / 2
        expected = 0.5 * F.cross_entropy(logits[i], batch.y) + 0.5 * mutual
        assert losses(team)[i] == pytest.approx(expected.item(), rel=1e-10)


def test_8_gradient_of_the_soft_term() -> None:
    torch.manual_seed(0)
    target, z, t = torch.randn(6, 4).double(), torch.randn(6, 4).double().requires_grad_(), 3.0
    (t**2 * kl(target, z, temperature=t).mean()).backward()
    expected = t * (F.softmax(z / t, 1) - F.softmax(target / t, 1)) / 6
    torch.testing.assert_close(z.grad, expected.detach(), rtol=1e-12, atol=1e-14)


def test_9_own_sample_equals_soft_targets() -> None:
    """T = 1, M = 2, beta = 1, convex: the gradient of cross entropy with target (1 - a) onehot + a q."""
    method = Mat(peers=2, preset="own_sample", alpha=0.4, hard_weight="convex")
    team = step(method)
    fresh = make_team(method)
    adv = {i: fresh[i].craft(0) for i in fresh}
    q = F.softmax(fresh["peer1"].answer(0, {"peer0": adv["peer0"]})["peer0"].logits, 1)
    agent = fresh["peer0"].agent
    y = F.one_hot(agent.batches.batch(0).y, 4).double()
    target = 0.6 * y + 0.4 * q
    (-(target * F.log_softmax(agent.model(adv["peer0"].x), 1)).sum(1).mean()).backward()
    close(gradients(team["peer0"]), gradients(fresh["peer0"]))


def test_10_direction_of_the_kl() -> None:
    a, b = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    p = F.softmax(a, 1)
    assert kl(a, b).item() == pytest.approx((p * (p.log() - F.log_softmax(b, 1))).sum().item(), rel=1e-5)
    assert abs(kl(a, b).item() - kl(b, a).item()) > 0.01


def test_16_saturated_logits_stay_finite() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = kl(torch.tensor([[-1e4, 1e4, 0.0]]), z).mean()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(z.grad).all()


def test_17_duplicating_the_batch_leaves_the_loss() -> None:
    method = Mat(peers=2, temperature=2.0)
    team = make_team(method, bn=False)
    batch = team["peer0"].agent.batches.batch(0)
    adv = {i: h.craft(0) for i, h in team.items()}
    soft = {"peer1": team["peer1"].answer(0, adv)}
    agent = team["peer0"].agent
    double = {i: Adversarial(torch.cat([a.x, a.x])) for i, a in adv.items()}
    twice = {"peer1": team["peer1"].answer(0, double)}
    results = []
    for given, answers, y in ((adv, soft, batch.y), (double, twice, torch.cat([batch.y, batch.y]))):
        own = method.forward("peer0", agent.model, batch, given, answers)
        labels = type(batch)(batch.x, y)
        loss = method.loss("peer0", own, labels, state={}, when=None, adv=given, soft=answers)  # type: ignore[arg-type]
        results.append({k: v.item() for k, v in loss.terms.items()})
    assert results[0] == pytest.approx(results[1], rel=1e-12)


def test_19_updates_are_simultaneous() -> None:
    """Had peer1 seen peer0 after its step, its loss would differ (mutation of the order)."""
    method = Mat(peers=2, preset="own_sample")
    right = losses(step(method))
    team = make_team(method)
    adv = {i: team[i].craft(0) for i in team}
    team["peer0"].learn(0, adv=adv, soft={"peer1": team["peer1"].answer(0, adv)})
    team["peer0"].agent.t = 0
    team["peer1"].learn(0, adv=adv, soft={"peer0": team["peer0"].answer(0, adv)})
    assert losses(team)["peer0"] == right["peer0"]
    assert losses(team)["peer1"] != pytest.approx(right["peer1"], rel=1e-6)


def test_trades_base() -> None:
    """Clean pass first, KL(p(x) || p(x~)) with weight 6 and nothing detached."""
    attack = Attack(eps=0.1, steps=3, start="gaussian")
    team = step(Mat(peers=1, base="trades"), attack=attack)
    fresh = make_team(Mat(peers=1, base="trades"), attack=attack)
    agent = fresh["peer0"].agent
    x, y = agent.batches.batch(0).x, agent.batches.batch(0).y
    adv = fresh["peer0"].craft(0).x
    assert (adv - x).abs().max() <= 0.1 + 1e-12
    clean = agent.model(x)
    robust = agent.model(adv)
    loss = F.cross_entropy(clean, y) + 6 * F.kl_div(
        F.log_softmax(robust, 1), F.softmax(clean, 1), reduction="batchmean"
    )
    loss.backward()
    assert losses(team)["peer0"] == pytest.approx(loss.item(), rel=1e-12)
    close(gradients(team["peer0"]), gradients(fresh["peer0"]))
    with pytest.raises(ValueError, match="random start"):
        Mat(base="trades").check({"train": Attack(eps=0.1, start="none")})


def test_teacher_bn_train_moves_statistics() -> None:
    eval_mode, train_mode = (step(Mat(peers=2, teacher_bn=mode)) for mode in ("eval", "train"))  # type: ignore[arg-type]
    counts = [t["peer0"].agent.model.bn.num_batches_tracked.item() for t in (eval_mode, train_mode)]
    assert counts == [2, 4]  # own and peer's example; two answers more


@pytest.mark.parametrize(
    ("options", "message"),
    [({"peers": 0}, "peers"), ({"alpha": 1.5}, "alpha"), ({"beta": -0.1}, "beta"), ({"temperature": 0}, "temperature")],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=rf"method\.{message} = .*must"):
        Mat(**options)  # type: ignore[arg-type]
