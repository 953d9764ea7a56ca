"""MixACM: properties of the mixed batch, the channel maps, the three losses and the step."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.agents import networks
from sparring.agents.networks import NetworkConfig
from sparring.trainers import attacks
from sparring.trainers.methods.base import Model
from sparring.trainers.methods.mixacm import Mixacm
from sparring.trainers.rng import generator
from sparring.trainers.types import Answer, Batch, When
from tests.helpers import Handle, TinyNet, gradients, make_team, small

NOW = When(0, 0, 1.0)


def batch(b: int = 6, *, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(b, 1, 6, 6, generator=rng, dtype=torch.float64)
    return Batch(x, torch.randint(0, 4, (b,), generator=rng))


def loss_of(method: Mixacm, own: Answer, given: Batch, teacher: Answer) -> dict[str, Tensor]:
    return method.loss("student", own, given, state={}, when=NOW, teacher=teacher).terms


def test_copy_of_the_teacher_has_no_distance() -> None:
    """Equal networks in eval mode, identity transforms: no map loss, no soft-label loss; the labels' loss stays."""
    method = Mixacm()
    model = Model(TinyNet().double().eval(), helpers=method.helpers("student", {"student": [5, 6], "teacher": [5, 6]}))
    mixed = method.inputs(batch(), generator(0))
    answer = method.reply("teacher", model, mixed.x)
    terms = loss_of(method, method.forward("student", model, mixed, teacher=answer), mixed, answer)
    assert terms["acm"].item() == 0
    assert abs(terms["kld"].item()) < 1e-12
    assert terms["mix"].item() > 0.5


def test_teacher_is_untouched_and_everything_of_the_student_gets_a_gradient() -> None:
    method = Mixacm(transform="forced_affine")
    team = make_team(method)
    before = {k: v.clone() for k, v in team["teacher"].agent.model.state_dict().items()}
    for t in range(3):
        method.step(team, t)
    after = team["teacher"].agent.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in team["teacher"].agent.model.parameters())
    student = team["student"].agent
    assert student.view.helpers is not None
    parameters = [*student.model.parameters(), *student.view.helpers.parameters()]
    assert len(parameters) == 8 + 4
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


def distance_of(method: Mixacm, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Of one pair of maps."""
    (found,) = method.distances([teacher], [student])
    return found


def test_map_forgets_positions_and_scale_but_not_channels() -> None:
    method = Mixacm()
    a = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    shuffled = a.flatten(2)[:, :, torch.randperm(25)].view_as(a)
    torch.testing.assert_close(method.channel_map(shuffled), method.channel_map(a))
    base = method.channel_map(a)
    assert distance_of(method, base, method.channel_map(3.7 * a)) < 1e-28
    assert distance_of(method, base, method.channel_map(a[:, [1, 0, 2, 3]])) > 1e-6


def test_distance_is_twice_one_minus_cosine_and_at_most_two() -> None:
    method = Mixacm()
    u, v = torch.rand(2, 8, 7, dtype=torch.float64)
    d = distance_of(method, u, v)
    torch.testing.assert_close(d, 2 * (1 - F.cosine_similarity(u, v)).mean())
    torch.testing.assert_close(distance_of(Mixacm(distance="cos"), u, v), d / 2)
    one, other = torch.eye(2, dtype=torch.float64)
    assert distance_of(method, one[None], other[None]) == 2


def test_pair_and_soft_labels_are_the_same_loss() -> None:
    method, given = Mixacm(acm_weight=0, kd_weight=0), batch()
    mixed = method.inputs(given, generator(1))
    z = torch.randn(6, 4, dtype=torch.float64)
    soft = mixed.lam * F.one_hot(mixed.y, 4) + (1 - mixed.lam) * F.one_hot(mixed.y2, 4)  # type: ignore[arg-type]
    ours = loss_of(method, Answer(z), mixed, Answer(z))["mix"]
    torch.testing.assert_close(ours, F.cross_entropy(z, soft.double()))


def test_dead_block_stays_finite() -> None:
    """A block that is zero everywhere: loss and gradients are finite, for every choice of map, norm and distance."""
    teacher = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    for kind in ("abs_pow", "relu_mean", "l2", "max"):
        for normalize in ("l2", "sum", "none"):
            for distance in ("l2_squared", "l2", "mse", "l1", "cos"):
                method = Mixacm(map=kind, normalize=normalize, distance=distance)  # type: ignore[arg-type]
                dead = torch.zeros(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
                loss = distance_of(method, method.channel_map(teacher), method.channel_map(dead))
                (g,) = torch.autograd.grad(loss, dead)
                assert loss.isfinite()
                assert g.isfinite().all()


def test_numbers_by_hand() -> None:
    planes = torch.tensor([[[[1.0, -1], [1, 1]], [[2, 2], [2, 2]]]], dtype=torch.float64)
    student = torch.tensor([[[[3.0, 3], [-3, 3]], [[0, 0], [0, 4]]]], dtype=torch.float64)
    for power, at, as_, distance in ((2.0, (1, 4), (9, 4), 0.7687119), (1.0, (1, 2), (3, 1), 0.5857864)):
        method = Mixacm(power=power)
        t, s = method.channel_map(planes), method.channel_map(student)
        assert t[0].tolist() == list(at)
        assert s[0].tolist() == list(as_)
        assert distance_of(method, t, s).item() == pytest.approx(distance, abs=1e-7)
    zs, zt = torch.tensor([[2.0, 0, 0]], dtype=torch.float64), torch.tensor([[0.0, 1, 0]], dtype=torch.float64)
    given = Batch(zs, torch.tensor([0]), torch.tensor([0]))
    for tau, value in ((1.0, 0.8403341), (4.0, 0.8128414)):
        method = Mixacm(temperature=tau, acm_weight=0, label_weight=0)
        assert loss_of(method, Answer(zs), given, Answer(zt))["kld"].item() == pytest.approx(value, rel=3e-6)
        turned = loss_of(method, Answer(zt), given, Answer(zs))["kld"].item()
        assert turned != pytest.approx(value, abs=1e-3)  # the teacher comes first


def test_no_attack_and_one_pass_each() -> None:
    """Neither an attack nor a gradient with respect to images; one forward of each network, on the same mixed images."""
    method = Mixacm()
    team = make_team(method)
    seen: dict[str, list[Tensor]] = {role: [] for role in team}
    for role, handle in team.items():
        handle.agent.model.register_forward_pre_hook(lambda m, args, role=role: seen[role].append(args[0]))  # type: ignore[misc]
        features = handle.agent.model.features
        handle.agent.model.features = lambda x, role=role, f=features: (seen[role].append(x), f(x))[1]  # type: ignore[assignment, misc]
    with (
        mock.patch.object(attacks, "run", side_effect=AssertionError("an attack")),
        mock.patch.object(torch.autograd, "grad", side_effect=AssertionError("an input gradient")),
    ):
        method.step(team, 0)
    assert [len(seen[r]) for r in ("student", "teacher")] == [1, 1]
    assert torch.equal(seen["student"][0], seen["teacher"][0])
    assert not seen["student"][0].requires_grad
    assert not torch.equal(seen["student"][0], team["student"].agent.batches.batch(0).x)


def test_without_mixing_it_is_the_plain_batch() -> None:
    given = batch()
    mixed = Mixacm(alpha=0).inputs(given, generator(3))
    assert torch.equal(mixed.x, given.x)
    assert mixed.lam == 1
    z = torch.randn(6, 4, dtype=torch.float64)
    terms = loss_of(Mixacm(alpha=0, kd_weight=0, acm_weight=0), Answer(z), mixed, Answer(z))
    torch.testing.assert_close(terms["mix"], F.cross_entropy(z, given.y))
    mixed = Mixacm().inputs(given, generator(3))
    turned = replace(mixed, y=mixed.y2, y2=mixed.y, lam=1 - mixed.lam)  # type: ignore[arg-type]
    torch.testing.assert_close(_mix(z, turned), _mix(z, mixed))


def _mix(z: Tensor, m: Batch) -> Tensor:
    return loss_of(Mixacm(kd_weight=0, acm_weight=0), Answer(z), m, Answer(z))["mix"]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_weights_are_beta_distributed(alpha: float) -> None:
    """E[lam^2 + (1 - lam)^2] = (alpha + 1) / (2 alpha + 1), the factor of the Jacobian penalty; the mean is 1/2."""
    given = batch(2)
    lams = torch.tensor([Mixacm(alpha=alpha).inputs(given, generator(i)).lam for i in range(3000)])
    assert lams.mean().item() == pytest.approx(0.5, abs=0.03)
    kappa = (lams**2 + (1 - lams) ** 2).mean().item()
    assert kappa == pytest.approx((alpha + 1) / (2 * alpha + 1), abs=0.02)


def test_labels_alone_are_mixup_training() -> None:
    """Both distillation weights 0: the step is that of plain mixup, to the bit; alpha 0 besides: that of plain training."""
    for alpha in (1.0, 0.0):
        method = Mixacm(alpha=alpha, kd_weight=0, acm_weight=0)
        team, by_hand = make_team(method), make_team(method)["student"].agent
        method.step(team, 0)
        given = method.inputs(by_hand.batches.batch(0), generator(by_hand.seed, 0, "inputs"))
        z = by_hand.model(given.x)
        first, second = F.cross_entropy(z, given.y), F.cross_entropy(z, given.y2)  # type: ignore[arg-type]
        (given.lam * first + (1 - given.lam) * second).backward()
        theirs = [p.grad for p in by_hand.model.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(gradients(team["student"]), theirs, strict=True))  # type: ignore[arg-type]


def config(spec: str, classes: int = 10) -> NetworkConfig:
    return NetworkConfig(spec, 3, 32, 32, classes, (0.0,) * 3, (1.0,) * 3)


def test_other_families_are_paired_from_the_end() -> None:
    """A CIFAR ResNet (stem and four stages) and a wide ResNet (stem and three groups): sizes and numbers may differ."""
    student, teacher = config("resnet18"), config("wrn-16-4")
    widths = {"student": networks.widths(student), "teacher": networks.widths(teacher)}
    assert widths == {"student": [64, 64, 128, 256, 512], "teacher": [16, 64, 128, 256]}
    method = Mixacm()
    helpers = method.helpers("student", widths)
    assert isinstance(helpers, nn.ModuleList)
    shapes = [(m.in_features, m.out_features) for m in helpers if isinstance(m, nn.Linear)]
    assert shapes == [(64, 16), (128, 64), (256, 128), (512, 256)]
    x = torch.rand(2, 3, 32, 32)
    said = method.reply("teacher", Model(networks.build(teacher, 0).eval()), x)
    own = method.forward("student", Model(networks.build(student, 1), helpers=helpers), Batch(x, x), teacher=said)
    assert [m.shape[1] for m in own.maps] == [16, 64, 128, 256]
    terms = loss_of(method, own, Batch(x, torch.tensor([0, 1]), torch.tensor([1, 0])), said)
    assert terms["acm"].isfinite()
    assert len(Mixacm(taps="all_but_last").helpers("student", widths) or []) == 3  # type: ignore[arg-type]
    same = {"student": widths["student"], "teacher": widths["student"]}
    assert len(method.helpers("student", same) or []) == 4  # type: ignore[arg-type]  # of five blocks, the deepest four
    assert len(Mixacm(taps="all").helpers("student", same) or []) == 5  # type: ignore[arg-type]
    chosen = Mixacm(pairs=("1:2", "3:4"))
    assert [(m.in_features, m.out_features) for m in chosen.helpers("student", widths) or []] == [(128, 64), (512, 256)]  # type: ignore[union-attr, arg-type]
    with pytest.raises(ValueError, match="the teacher has blocks 0 to 3, seen 7"):
        Mixacm(pairs=("7:0",)).helpers("student", widths)
    with pytest.raises(ValueError, match="is not TEACHER:STUDENT"):
        Mixacm(pairs=("1-2",))
    with pytest.raises(ValueError, match="expected 4"):
        method.forward(
            "student", Model(networks.build(student, 1), helpers=helpers), Batch(x, x), teacher=Answer(said.logits, ())
        )


@pytest.mark.parametrize("transform", ["affine", "affine_relu", "adaptive_pool", "forced_affine"])
def test_transforms(transform: Any) -> None:
    helpers = Mixacm(transform=transform).helpers("student", {"student": [4, 8], "teacher": [6, 8]})
    assert isinstance(helpers, nn.ModuleList)
    outs = [f(torch.rand(3, w)) for f, w in zip(helpers, (4, 8), strict=True)]
    assert [o.shape for o in outs] == [(3, 6), (3, 8)]
    trained = sum(p.numel() for p in helpers.parameters())
    affine = 4 * 6 + 6
    assert (
        trained
        == {"affine": affine, "affine_relu": affine, "adaptive_pool": 0, "forced_affine": affine + 72}[transform]
    )


def test_teacher_of_another_label_set_needs_the_soft_labels_off() -> None:
    assert Mixacm().roles()["teacher"].same_classes
    assert not Mixacm(kd_weight=0).roles()["teacher"].same_classes
    with pytest.raises(ValueError, match="one of label_weight"):
        Mixacm(kd_weight=0, acm_weight=0, label_weight=0)


def test_a_step_takes_at_most_four_tenths_of_adversarial_training() -> None:
    """Teacher and student of equal size, one process, PGD-10: the median of interleaved ratios."""
    from sparring.agents.spec import AgentSpec
    from sparring.cluster.runs.images import prepare
    from sparring.trainers.types import Team

    def team(method: str, **options: Any) -> tuple[Any, Any]:
        made = small(method, team="local", network="small_cnn:width=24", batch_size=128, **options)
        specs: list[AgentSpec] = made.specs(prepare(made.data, quiet=True))
        return made.method, {s.me: Handle(replace(s, init=None, network=made.network).build()) for s in specs}

    pairs: list[tuple[Any, Team[Any]]] = [team("mixacm"), team("at", attack__steps=10)]  # type: ignore[list-item]
    seconds: list[list[float]] = [[], []]
    for t in range(20):
        for i, (method, agents) in enumerate(pairs):
            started = time.perf_counter()
            method.step(agents, t)
            seconds[i].append(time.perf_counter() - started)
    assert statistics.median(mixacm / at for mixacm, at in zip(*(s[4:] for s in seconds), strict=True)) <= 0.4
