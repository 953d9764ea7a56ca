"""Attacks as functions of an objective and images.

An objective maps images [B, C, H, W] to one value per example [B], which the attack raises. An attack differentiates by the images only:
``.grad``, modes, buffers and the global random state stay as they were; ``frozen`` is the network's part. Results lie in the box, and in the
ball but for a ``NoiseStep``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from sparring.trainers import half
from sparring.trainers.balls import BALLS as BALLS
from sparring.trainers.balls import spread as spread
from sparring.trainers.config import Attack, Msd, NoiseStep, NormName, Threat
from sparring.trainers.rng import on_cpu

Objective = Callable[[Tensor], Tensor]  # [B, C, H, W] -> [B]

GAUSSIAN_START = 0.001  # standard deviation of the gaussian start (TRADES, RSLAD, PeerAiD)


@contextmanager
def frozen(model: nn.Module, *, bn: Literal["eval", "train"] = "eval") -> Iterator[None]:
    """Put every submodule into the mode ``bn`` and switch parameter gradients off; give each its own back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        model.train(bn == "train")
        for p in trainable:
            p.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for p in trainable:
            p.requires_grad_(True)


def run(
    attack: Attack | Msd | NoiseStep, objective: Objective, x: Tensor, *, rng: Generator, rows: slice = slice(None)
) -> Tensor:
    """Carry out ``attack`` on ``x`` [B, C, H, W] in [0, 1] and return detached examples of the same shape.

    With restarts, each example's best end point by the objective is kept. Images in half precision are attacked in float32, which
    the objective gets rounded; what is returned is rounded towards the image, so it lies in the ball still.

    Args:
        rows: attack only these; random starts are drawn for all of ``x`` all the same, so that shares of a batch get what
            the whole would.
    """
    if x.dtype in half.TYPES:
        wide = run(attack, lambda z: objective(z.to(x.dtype)).float(), x.float(), rng=rng, rows=rows)
        return half.towards(wide, x[rows])
    if isinstance(attack, Msd):
        return msd(objective, x[rows], attacks=attack.attacks, steps=attack.steps, rng=on_cpu(rng))
    if isinstance(attack, NoiseStep):
        noisy = (x + BALLS["linf"].sample(x, attack.noise, rng)).clamp(0, 1)[rows]
        return BALLS["linf"].step(noisy, gradient(objective, noisy), attack.step_size, rng).clamp(0, 1)
    numbers = on_cpu(rng)
    ends = [
        pgd(
            objective,
            initial(attack, x, rng=rng)[rows],
            center=x[rows],
            threat=Threat(attack.norm, attack.eps),
            step_size=attack.length,
            steps=attack.iterations,
            rng=numbers,
        )
        for _ in range(attack.restarts)
    ]
    return ends[0] if len(ends) == 1 else strongest(objective, ends)


def pgd(
    objective: Objective, start: Tensor, *, center: Tensor, threat: Threat, step_size: float, steps: int, rng: Generator
) -> Tensor:
    """Projected gradient ascent from ``start`` within the ball around ``center`` and the box.

    Source: Madry et al., arXiv 1706.06083. ``rng``, of the CPU, serves the l1 step only. The start itself is not clipped.
    """
    ball, ones = BALLS[threat.norm], start.new_ones(len(start))
    inside = ball.region(center, threat.eps)
    adv = start
    for _ in range(steps):
        adv = inside(ball.step(adv, gradient(objective, adv, ones), step_size, rng))
    return adv.detach()


def msd(objective: Objective, x: Tensor, *, attacks: tuple[Attack, ...], steps: int, rng: Generator) -> Tensor:
    """Multi steepest descent (Maini et al., arXiv 1909.04068): the result lies in the union of the balls and in the box.

    Every step makes one candidate per norm from the same gradient, with that norm's own steepest step and projection; the
    one of highest objective goes on. Each example's best iterate is returned, ``x`` itself included.
    """
    now = best = x
    score, ones = _ranked(objective, [x])[1], x.new_ones(len(x))
    inside = [BALLS[a.norm].region(x, a.eps) for a in attacks]
    for _ in range(steps):
        g = gradient(objective, now, ones)
        moved = [BALLS[a.norm].step(now, g, a.length, rng) for a in attacks]
        candidates = [project(candidate) for project, candidate in zip(inside, moved, strict=True)]
        now, value = _ranked(objective, candidates)
        better = value > score
        best, score = torch.where(spread(better, best), now, best), torch.where(better, value, score)
    return best.detach()


def fgsm(objective: Objective, x: Tensor, *, norm: NormName = "linf", eps: float) -> Tensor:
    """One step of length ``eps`` from the clean image (Goodfellow et al., arXiv 1412.6572)."""
    return run(Attack(kind="fgsm", norm=norm, eps=eps), objective, x, rng=torch.Generator(x.device))


def initial(attack: Attack, x: Tensor, *, rng: Generator) -> Tensor:
    """Where the attack starts; which starts are clipped to the box follows the published codes."""
    if attack.iterations == 0 or attack.initial == "none":
        return x
    if attack.initial == "gaussian":
        return x + GAUSSIAN_START * torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
    start = x + BALLS[attack.norm].sample(x, attack.eps, rng)
    return start if attack.initial == "unclipped" else start.clamp(0, 1)


class NoGradient(ValueError):
    """The images do not reach the objective through differentiable operations."""


def gradient(objective: Objective, x: Tensor, ones: Tensor | None = None) -> Tensor:
    """Gradient of the summed objective with respect to the images only: no parameter's ``.grad`` is touched.

    Args:
        ones: [B], where many gradients are asked for.

    Raises:
        NoGradient: the objective does not depend on the images through differentiable operations.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        value = objective(x)
        if not value.requires_grad:
            raise NoGradient(
                "the model gives no gradient with respect to its images (it detaches them, or computes outside torch); "
                "attack it without gradients: --attacks square-1000"
            )
        # a caller's objective may give one number, or another precision
        alike = ones is not None and ones.shape == value.shape and ones.dtype == value.dtype
        return torch.autograd.grad(value, x, ones if alike else torch.ones_like(value))[0]


def strongest(objective: Objective, candidates: list[Tensor]) -> Tensor:
    """Per example, the candidate of highest objective; the earlier one on ties."""
    return _ranked(objective, candidates)[0]


@torch.no_grad()
def _ranked(objective: Objective, candidates: list[Tensor]) -> tuple[Tensor, Tensor]:
    best, score = candidates[0], objective(candidates[0])
    for other in candidates[1:]:
        value = objective(other)
        better = value > score
        best, score = torch.where(spread(better, best), other, best), torch.where(better, value, score)
    return best, score
