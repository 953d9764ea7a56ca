"""The three norms: length of a perturbation, steepest step, projection on a ball, uniform sample of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

BOX = (0.0, 1.0)  # of pixels


class Region(Protocol):
    """Makes a projection for many steps around the same images."""

    def __call__(self, center: Tensor, eps: float, box: tuple[float, float] = BOX, /) -> Callable[[Tensor], Tensor]: ...


@dataclass(frozen=True, slots=True)
class Ball:
    """Geometry of one norm: length of a perturbation, steepest step, projection, uniform sample."""

    length: Callable[[Tensor], Tensor]  # d -> [B]
    step: Callable[[Tensor, Tensor, float, Generator], Tensor]  # (x, gradient, step_size, rng of the CPU) -> x
    region: Region  # the projection on the ball, then on the box
    sample: Callable[[Tensor, float, Generator], Tensor]  # (like, eps, rng) -> d uniform in the ball


def spread(per_example: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1], so that it broadcasts over images."""
    return per_example.view(-1, *[1] * (like.dim() - 1))


def _linf_sample(like: Tensor, eps: float, rng: Generator) -> Tensor:
    return (2 * torch.rand(like.shape, generator=rng, device=like.device, dtype=like.dtype) - 1) * eps


def _linf_step(x: Tensor, g: Tensor, size: float, rng: Generator) -> Tensor:
    return torch.add(x, g.sign(), alpha=size)


def _linf_region(center: Tensor, eps: float, box: tuple[float, float] = BOX, /) -> Callable[[Tensor], Tensor]:
    low, high = (center - eps).clamp_min(box[0]), (center + eps).clamp_max(box[1])
    return lambda x: torch.clamp(x, low, high)


def _l2_length(d: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(d.flatten(1), dim=1)
    return length


def _l2_step(x: Tensor, g: Tensor, size: float, rng: Generator) -> Tensor:
    smallest = torch.finfo(g.dtype).tiny  # a zero gradient takes no step instead of making NaN
    return x + size * g / spread(_l2_length(g).clamp_min(smallest), g)


def _l2_region(center: Tensor, eps: float, box: tuple[float, float] = BOX, /) -> Callable[[Tensor], Tensor]:
    smallest = torch.finfo(center.dtype).tiny

    def project(x: Tensor) -> Tensor:
        d = x - center
        length = _l2_length(d)
        near = center + d * spread(eps / length.clamp_min(smallest), d)
        return torch.where(spread(length > eps, d), near, x).clamp(*box)

    return project


def _l2_sample(like: Tensor, eps: float, rng: Generator) -> Tensor:
    d = torch.randn(like.shape, generator=rng, device=like.device, dtype=like.dtype)
    radius = torch.rand(len(like), generator=rng, device=like.device, dtype=like.dtype) ** (1 / like[0].numel())
    return eps * d * spread(radius / _l2_length(d), d)


def _l1_length(d: Tensor) -> Tensor:
    return d.flatten(1).abs().sum(1)


def _l1_step(x: Tensor, g: Tensor, size: float, rng: Generator) -> Tensor:
    """Step on the k coordinates of largest gradient, k uniform in 5..20, that can still move (Maini et al., MSD)."""
    k = min(int(torch.randint(5, 21, (), generator=rng)), x[0].numel())
    gap = size / 20  # a coordinate this close to the box in its direction is skipped
    stuck = torch.where(g > 0, x > 1 - gap, x < gap)
    free, flat = g.masked_fill(stuck, 0).flatten(1), x.flatten(1)
    top = free.abs().topk(k, dim=1).indices
    moved = torch.add(flat.gather(1, top), free.gather(1, top).sign(), alpha=size / k)
    return flat.scatter(1, top, moved).view_as(x)


def _l1_region(center: Tensor, eps: float, box: tuple[float, float] = BOX, /) -> Callable[[Tensor], Tensor]:
    """Euclidean projection on the l1 ball by sorting (Duchi et al., ICML 2008); the identity inside."""
    count = torch.arange(1, center[0].numel() + 1, device=center.device, dtype=center.dtype)

    def project(x: Tensor) -> Tensor:
        if eps == 0:
            return center
        d = (x - center).flatten(1)
        size = d.abs()
        u = size.sort(dim=1, descending=True).values
        excess = u.cumsum(1) - eps
        rho = (u * count > excess).sum(1, keepdim=True)
        theta = excess.gather(1, rho - 1) / rho
        near = center + (size - theta).clamp_min(0).copysign(d).view_as(x)
        return torch.where(spread(size.sum(1) > eps, x), near, x).clamp(*box)

    return project


def _l1_sample(like: Tensor, eps: float, rng: Generator) -> Tensor:
    b, n = len(like), like[0].numel()
    e = torch.empty(b, n + 1, device=like.device, dtype=like.dtype).exponential_(generator=rng)
    sign = torch.randint(0, 2, (b, n), generator=rng, device=like.device).to(like.dtype) * 2 - 1
    return (eps * sign * e[:, :n] / e.sum(1, keepdim=True)).view_as(like)


BALLS: dict[str, Ball] = {
    "linf": Ball(lambda d: d.flatten(1).abs().amax(1), _linf_step, _linf_region, _linf_sample),
    "l2": Ball(_l2_length, _l2_step, _l2_region, _l2_sample),
    "l1": Ball(_l1_length, _l1_step, _l1_region, _l1_sample),
}
