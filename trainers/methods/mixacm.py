"""MixACM, robustness transfer by activated channel maps of mixed images (Muhammad et al., NeurIPS 2021, arXiv 2111.05073).

A student S learns from a robust, frozen teacher T without any attack. One mixed batch goes to both:

    x~    = lam x + (1 - lam) x[pi],  lam ~ Beta(alpha, alpha),  pi a permutation; labels stay the pair (y, y[pi])
    a_i   = g(A_i) = mean over H and W of |A_i|^p               activated channel map of block i: [B, C_i]
    L_MIX = lam CE(S(x~), y) + (1 - lam) CE(S(x~), y[pi])
    L_KLD = tau^2 KL( T(x~) || S(x~) ), averaged over the batch
    L_ACM = sum_i || n(a_i^T) - n(T_i(a_i^S)) ||^2, averaged over the batch;  n(v) = v / max(||v||, 1e-12)
    L     = label_weight L_MIX + kd_weight L_KLD + acm_weight L_ACM

T_i takes the student's map from C_i^S to C_i^T channels: the identity where they agree, else a trained affine map, which is
no part of the product. Blocks: the deepest four (of a CIFAR ResNet's stem and four stages; a wide ResNet's stem and three
groups), paired from the end when their numbers differ; ``taps`` and ``pairs`` choose others. The teacher's answer is channel maps and logits only,
and it runs ahead of the student by the run's window.

Differences from the paper: its equations could not be read. The structure (mixed batch for both, scalar per channel,
student-side transformation after the mapping, sum of three losses, no attack, the blocks) is the paper's; p, n, the squared
distance, tau and the weights are RECONSTRUCTED and options. Soft labels of a teacher of another label set: ``kd_weight 0``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, cross_entropy, kl, scaled
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.rng import on_cpu
from sparring.trainers.search import Choice, Space, Uniform
from sparring.trainers.types import LEARNER, Answer, Batch, Loss, Role, State, Team, When

T = TypeVar("T")
SHORTEST = 1e-12  # maps that are shorter count as so long, as in F.normalize


@dataclass(frozen=True, kw_only=True)
class Mixacm(Method):
    """A student of a robust teacher, without adversarial examples."""

    alpha: float = 1.0
    """Both parameters of the Beta distribution of lam; 0: images are not mixed."""
    label_weight: float = 1.0
    """Weight of the labels; 0 needs none."""
    kd_weight: float = 1.0
    """Weight of the soft labels."""
    acm_weight: float = 3.0
    """Weight of the channel maps."""
    temperature: float = 4.0
    """Temperature tau of the soft labels."""
    map: Literal["abs_pow", "relu_mean", "l2", "max"] = "abs_pow"
    """From a channel's plane to a scalar: mean |A|^p, mean max(A, 0), root of the sum of squares, maximum."""
    power: float = 2.0
    """p of abs_pow."""
    taps: Literal["deepest_four", "all", "all_but_last"] = "deepest_four"
    """Blocks whose maps are compared."""
    pairs: tuple[str, ...] = ()
    """Blocks by number from 0 instead, as TEACHER:STUDENT, for example 1:2 3:4."""
    transform: Literal["affine", "affine_relu", "adaptive_pool", "forced_affine"] = "affine"
    """T_i: affine where channels differ; followed by ReLU; parameter-free pooling; affine everywhere."""
    normalize: Literal["l2", "sum", "none"] = "l2"
    """n: division by the length, by the sum of magnitudes, or nothing."""
    distance: Literal["l2_squared", "l2", "mse", "l1", "cos"] = "l2_squared"
    """Distance of two maps, averaged over the batch."""

    DEPLOY: ClassVar[tuple[str, ...]] = ("student",)
    SEARCH: ClassVar[Mapping[str, Space]] = {
        "method.acm_weight": Uniform(0.3, 30, log=True),
        "method.kd_weight": Uniform(0.1, 10, log=True),
        "method.temperature": Uniform(1, 10),
        "method.alpha": Choice((0.2, 0.4, 1.0)),
    }

    def __post_init__(self) -> None:
        for name in ("alpha", "label_weight", "kd_weight", "acm_weight"):
            require(getattr(self, name) >= 0, f"method.{name} = {getattr(self, name)} must be >= 0")
        for name in ("temperature", "power"):
            require(getattr(self, name) > 0, f"method.{name} = {getattr(self, name)} must be > 0")
        for pair in self.pairs:
            good = all(part.isdigit() for part in pair.split(":")) and pair.count(":") == 1
            require(good, f"method.pairs: {pair!r} is not TEACHER:STUDENT; write for example 1:2")
        weights = self.label_weight + self.kd_weight + self.acm_weight
        require(weights > 0, "method: one of label_weight, kd_weight and acm_weight must be > 0")

    def roles(self) -> dict[str, Role]:
        return {"student": LEARNER, "teacher": Role(False, same_classes=self.kd_weight > 0)}

    def step(self, team: Team[Any], t: int) -> None:
        team["student"].learn(t, teacher=team["teacher"].answer(t))

    def inputs(self, batch: Batch, rng: Generator) -> Batch:
        if self.alpha == 0:
            return replace(batch, y2=batch.y)
        a, b = (_gamma(self.alpha, on_cpu(rng)) for _ in range(2))
        lam = a / (a + b) if a + b > 0 else 0.5
        pi = torch.randperm(len(batch.x), generator=rng, device=batch.x.device)
        return replace(batch, x=lam * batch.x + (1 - lam) * batch.x[pi], y2=batch.y[pi], lam=lam)

    def helpers(self, me: str, widths: Mapping[str, list[int]]) -> nn.Module | None:
        if me != "student" or self.acm_weight == 0:
            return None
        student, teacher = (self.chosen(role, widths[role]) for role in ("student", "teacher"))
        n = min(len(student), len(teacher))  # paired from the end
        return nn.ModuleList(self._transform(s, t) for s, t in zip(student[-n:], teacher[-n:], strict=True))

    def chosen(self, role: str, blocks: Sequence[T]) -> list[T]:
        """What is compared of a network's blocks, in order."""
        if self.pairs:
            numbers = [int(pair.split(":")[role == "student"]) for pair in self.pairs]
            most = max(numbers)
            require(most < len(blocks), f"method.pairs: the {role} has blocks 0 to {len(blocks) - 1}, seen {most}")
            return [blocks[i] for i in numbers]
        kept = list(blocks)
        return kept[-4:] if self.taps == "deepest_four" else kept[:-1] if self.taps == "all_but_last" else kept

    def _transform(self, student: int, teacher: int) -> nn.Module:
        if self.transform == "adaptive_pool":
            return nn.AdaptiveAvgPool1d(teacher)
        if student == teacher and self.transform != "forced_affine":
            return nn.Identity()
        affine = nn.Linear(student, teacher)
        return nn.Sequential(affine, nn.ReLU()) if self.transform == "affine_relu" else affine

    def reply(self, me: str, model: Model, x: Tensor) -> Answer:
        if self.acm_weight == 0:
            return Answer(model(x))
        maps, logits = model.features(x)
        return Answer(logits, tuple(self.channel_map(a) for a in self.chosen(me, maps)))

    def channel_map(self, a: Tensor) -> Tensor:
        """g: ``[B, C, H, W] -> [B, C]``."""
        if self.map == "relu_mean":
            return a.clamp_min(0).mean((2, 3))
        if self.map == "l2":
            length: Tensor = torch.linalg.vector_norm(a, dim=(2, 3))
            return length
        if self.map == "max":
            return a.amax((2, 3))
        powers = a.square() if self.power == 2 else a.abs().pow(self.power)
        return powers.mean((2, 3))

    def forward(self, me: str, model: Model, batch: Batch, teacher: Answer) -> Answer:
        own = self.reply(me, model, batch.x)
        if model.helpers is None:
            return own
        transforms = list(model.helpers.children())
        require(
            len(own.maps) >= len(transforms) <= len(teacher.maps),
            f"student and teacher give {len(own.maps)} and {len(teacher.maps)} channel maps; expected {len(transforms)}",
        )
        own_maps = own.maps[len(own.maps) - len(transforms) :]
        return Answer(own.logits, tuple(f(a).to(a.dtype) for f, a in zip(transforms, own_maps, strict=True)))

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When, teacher: Answer) -> Loss:
        assert batch.y2 is not None
        lam, tau, terms = batch.lam, self.temperature, {}
        if self.label_weight > 0:
            first, second = cross_entropy(own.logits, batch.y).mean(), cross_entropy(own.logits, batch.y2).mean()
            terms["mix"] = scaled(self.label_weight, lam * first + (1 - lam) * second)
        if self.kd_weight > 0:
            soft = kl(teacher.logits, own.logits, temperature=tau).mean()
            terms["kld"] = self.kd_weight * tau**2 * soft
        if self.acm_weight > 0:
            theirs = teacher.maps[len(teacher.maps) - len(own.maps) :]
            terms["acm"] = self.acm_weight * torch.stack(self.distances(theirs, own.maps)).sum()
        right = lam * accuracy(own.logits, batch.y) + (1 - lam) * accuracy(own.logits, batch.y2)
        return Loss(terms, {"mixed_accuracy": right})

    def distances(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
        """Of each pair of channel maps [B, C] after ``normalize``, averaged over the batch: scalars."""
        if self.distance == "cos":
            pairs = zip(map(self._normalised, teacher), map(self._normalised, student), strict=True)
            return [(1 - F.cosine_similarity(t, s, dim=1)).mean() for t, s in pairs]
        theirs, own = (torch.cat([self._normalised(v) for v in maps], dim=1) for maps in (teacher, student))
        d = own - theirs  # of all pairs at once
        widths = [v.shape[1] for v in student]
        if self.distance == "l2":
            return [torch.linalg.vector_norm(part, dim=1).mean() for part in torch.split(d, widths, dim=1)]
        parts = torch.split(d.abs() if self.distance == "l1" else d.square(), widths, dim=1)
        return [part.mean() if self.distance == "mse" else part.sum(1).mean() for part in parts]

    def _normalised(self, v: Tensor) -> Tensor:
        if self.normalize == "none":
            return v
        length = torch.linalg.vector_norm(v, 2 if self.normalize == "l2" else 1, dim=1, keepdim=True)
        return v / F.threshold(length, SHORTEST, SHORTEST)  # clamped by one kernel each way


def _gamma(alpha: float, rng: Generator) -> float:
    """One draw of Gamma(alpha, 1) from a generator: torch's own sampler knows only the global one (Marsaglia, Tsang 2000)."""
    if alpha < 1:
        u = torch.rand((), generator=rng, dtype=torch.float64).item()
        return float(_gamma(alpha + 1, rng) * u ** (1 / alpha))
    d = alpha - 1 / 3
    c = 1 / (9 * d) ** 0.5
    while True:
        z = torch.randn((), generator=rng, dtype=torch.float64).item()
        u = torch.rand((), generator=rng, dtype=torch.float64).item()
        v = (1 + c * z) ** 3
        if v > 0 and torch.tensor(u).log().item() < 0.5 * z * z + d - d * v + d * torch.tensor(v).log().item():
            return float(d * v)
