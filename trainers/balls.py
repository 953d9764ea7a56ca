"""The three norms: length of a perturbation, steepest step, projection on a ball, uniform sample of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class Ball:
    """Geometry of one norm: length of a perturbation, steepest step, projection, uniform sample."""

    length: Callable[[Tensor], Tensor]  # d -> [B]
    step: Callable[[Tensor, Tensor, float, Generator], Tensor]  # (x, gradient, step_size, rng) -> x
    project: Callable[[Tensor, Tensor, float], Tensor]  # (x, center, eps) -> x in the ball
    sample: Callable[[Tensor, float, Generator], Tensor]  # (like, eps, rng) -> d uniform in the ball


def spread(per_example: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1], so that it broadcasts over images."""
    return per_example.view(-1, *[1] * (like.dim() - 1))


def _linf_sample(like: Tensor, eps: float, rng: Generator) -> Tensor:
    return (2 * torch.rand(like.shape, generator=rng, device=like.device, dtype=like.dtype) - 1) * eps


def _linf_project(x: Tensor, center: Tensor, eps: float) -> Tensor:
    return torch.min(torch.max(x, center - eps), center + eps)


def _l2_length(d: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(d.flatten(1), dim=1)
    return length


def _l2_step(x: Tensor, g: Tensor, size: float, rng: Generator) -> Tensor:
    smallest = torch.finfo(g.dtype).tiny  # a zero gradient takes no step instead of making NaN
    return x + size * g / spread(_l2_length(g).clamp_min(smallest), g)


def _l2_project(x: Tensor, center: Tensor, eps: float) -> Tensor:
    d = x - center
    outside = _l2_length(d) > eps
    scale = torch.where(outside, eps / _l2_length(d).clamp_min(torch.finfo(d.dtype).tiny), 1.0)
    return torch.where(spread(outside, d), center + d * spread(scale, d), x)


def _l2_sample(like: Tensor, eps: float, rng: Generator) -> Tensor:
    d = torch.randn(like.shape, generator=rng, device=like.device, dtype=like.dtype)
    radius = torch.rand(len(like), generator=rng, device=like.device, dtype=like.dtype) ** (1 / like[0].numel())
    return eps * d * spread(radius / _l2_length(d), d)


def _l1_length(d: Tensor) -> Tensor:
    return d.flatten(1).abs().sum(1)


def _l1_step(x: Tensor, g: Tensor, size: float, rng: Generator) -> Tensor:
    """Step on the k coordinates of largest gradient, k uniform in 5..20, that can still move (Maini et al., MSD)."""
    k = min(int(torch.randint(5, 21, (), generator=rng, device=rng.device)), x[0].numel())
    gap = size / 20  # a coordinate this close to the box in its direction is skipped
    stuck = ((g > 0) & (x > 1 - gap)) | ((g < 0) & (x < gap))
    flat = g.masked_fill(stuck, 0).flatten(1)
    top = flat.abs().topk(k, dim=1).indices
    move = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign())
    return x + size / k * move.view_as(x)


def _l1_project(x: Tensor, center: Tensor, eps: float) -> Tensor:
    """Euclidean projection on the l1 ball by sorting (Duchi et al., ICML 2008); the identity inside."""
    d = (x - center).flatten(1)
    outside = d.abs().sum(1) > eps
    if eps == 0:
        return center
    u = d.abs().sort(dim=1, descending=True).values
    excess = u.cumsum(1) - eps
    count = torch.arange(1, u.shape[1] + 1, device=u.device, dtype=u.dtype)
    rho = (u * count > excess).sum(1, keepdim=True)
    theta = excess.gather(1, rho - 1) / rho
    shrunk = d.sign() * (d.abs() - theta).clamp_min(0)
    return torch.where(spread(outside, x), center + shrunk.view_as(x), x)


def _l1_sample(like: Tensor, eps: float, rng: Generator) -> Tensor:
    b, n = len(like), like[0].numel()
    e = torch.empty(b, n + 1, device=like.device, dtype=like.dtype).exponential_(generator=rng)
    sign = torch.randint(0, 2, (b, n), generator=rng, device=like.device).to(like.dtype) * 2 - 1
    return (eps * sign * e[:, :n] / e.sum(1, keepdim=True)).view_as(like)


BALLS: dict[str, Ball] = {
    "linf": Ball(
        lambda d: d.flatten(1).abs().amax(1), lambda x, g, size, rng: x + size * g.sign(), _linf_project, _linf_sample
    ),
    "l2": Ball(_l2_length, _l2_step, _l2_project, _l2_sample),
    "l1": Ball(_l1_length, _l1_step, _l1_project, _l1_sample),
}
