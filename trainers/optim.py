"""Optimisers, and learning-rate schedules as pure functions of the step."""

from __future__ import annotations

from itertools import pairwise
from math import cos, pi

import torch
from torch import Tensor, nn

from sparring.trainers.config import OptimConfig
from sparring.trainers.groups import grouped
from sparring.trainers.lamb import Lamb
from sparring.trainers.optimisers import Optimiser
from sparring.trainers.types import When

TRIANGLE = (
    (0.0, 0.0),
    (0.4, 1.0),
    (0.8, 0.05),
    (1.0, 0.0),
)  # (share of the run, factor): Maini et al., arXiv 1909.04068


def build(model: nn.Module, config: OptimConfig, *, helpers: nn.Module | None = None) -> Optimiser:
    """The optimiser over all parameters of ``model`` and of ``helpers``.

    Raises:
        ValueError: layer_decay of a network that does not tell its blocks; lamb without the timm library.
    """
    groups = grouped(_parameters(model, helpers).values(), model, helpers, config)
    return Lamb(groups, config) if config.name == "lamb" else Optimiser(groups, config)


def _parameters(model: nn.Module, helpers: nn.Module | None) -> dict[str, nn.Parameter]:
    own = dict(model.named_parameters())
    return own | {f"helpers.{k}": v for k, v in helpers.named_parameters()} if helpers else own


def swa_start(config: OptimConfig, epochs: float) -> int:
    """First epoch that enters the average by default: the first milestone that the run reaches, else three quarters of it."""
    reached = config.schedule == "multistep" and config.milestones and config.milestones[0] < epochs
    return config.milestones[0] if reached else int(0.75 * epochs)


def when(config: OptimConfig, t: int, *, steps_per_epoch: int, total_steps: int, seed: int = 0) -> When:
    """Epoch and learning-rate factor of step ``t``: a pure function, so nothing of a schedule is ever saved.

    Example:
        >>> when(OptimConfig(schedule="linear"), 5, steps_per_epoch=10, total_steps=20).lr_scale
        0.75
    """
    epoch = t // steps_per_epoch
    progress = min(t / total_steps, 1.0)
    scale, floor = 1.0, config.min_lr / config.lr
    if config.schedule == "linear":
        scale = floor + (1 - floor) * (1 - progress)
    elif config.schedule == "cosine":
        scale = floor + (1 - floor) * (1 + cos(pi * progress)) / 2
    elif config.schedule == "multistep":
        scale = config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    elif config.schedule == "triangle":
        scale = interpolate(progress, TRIANGLE)
    warmup_steps = config.warmup * steps_per_epoch
    if t < warmup_steps:
        scale *= (t + 1) / warmup_steps
    return When(t, epoch, scale, seed)


def never(config: OptimConfig, epochs: float) -> list[str]:
    """What of a schedule does not happen in a run of so many epochs, a sentence each, with the first epoch at which it would."""
    said = []
    beyond = [m for m in config.milestones if m >= epochs]
    if config.schedule == "multistep" and beyond:
        which = (
            "no drop of the learning rate falls"
            if len(beyond) == len(config.milestones)
            else f"drops at {beyond} do not fall"
        )
        said.append(f"{which} into {epochs:g} epochs; optim.milestones has {list(config.milestones)}")
    if config.min_lr and config.schedule not in ("linear", "cosine"):
        said.append(
            f"the learning rate does not end at optim.min_lr = {config.min_lr:g}; optim.schedule is {config.schedule}"
        )
    if config.warmup > epochs:
        said.append(
            f"the learning rate's warm-up does not end within {epochs:g} epochs; optim.warmup is {config.warmup:g}"
        )
    if config.swa and config.swa_start is not None and config.swa_start >= epochs:
        said.append(f"no weight enters the average (SWA) in {epochs:g} epochs; optim.swa_start is {config.swa_start}")
    if config.awp > 0 and config.awp_warmup >= epochs:
        said.append(f"weights are never perturbed (AWP) in {epochs:g} epochs; optim.awp_warmup is {config.awp_warmup}")
    return said


def interpolate(x: float, points: tuple[tuple[float, float], ...]) -> float:
    """The value at ``x`` of straight lines through ``points``, which rise in x."""
    for (a, low), (b, high) in pairwise(points):
        if x <= b:
            return low + (high - low) * (x - a) / (b - a)
    return points[-1][1]


def state(model: nn.Module, optimiser: Optimiser, *, helpers: nn.Module | None = None) -> dict[str, Tensor]:
    """The optimiser's tensors as ``{"layer.weight/momentum_buffer": tensor}``, copied to the CPU."""
    return {
        f"{name}/{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, p in _parameters(model, helpers).items()
        for key, value in optimiser.state.get(p, {}).items()
        if isinstance(value, Tensor)
    }


def load_state(
    model: nn.Module,
    optimiser: Optimiser,
    saved: dict[str, Tensor],
    *,
    helpers: nn.Module | None = None,
) -> None:
    """Replace the optimiser's state by one of :func:`state`; moments take their parameter's device, type and memory format."""
    optimiser.state.clear()
    parameters = _parameters(model, helpers)
    for name, value in saved.items():
        parameter, key = name.rsplit("/", 1)
        p = parameters[parameter]
        held = value.to(p.device, copy=True) if value.dim() == 0 else torch.empty_like(p).copy_(value)
        optimiser.state.setdefault(p, {})[key] = held
