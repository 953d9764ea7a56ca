"""Settings that were added after runs had been written. Not used, they leave the sha256 of a configuration what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sparring.trainers.config import DataConfig, OptimConfig

BEFORE = (("attack", "pgd"), ("looking", 0.0))  # how networks were compared before there was another way
OPTIM = ("betas", "eps", "decay", "clip", "layer_decay", "min_lr")
UNUSED = tuple((name, getattr(OptimConfig(), name)) for name in OPTIM)
UNCHANGED = tuple((name, None) for name in OPTIM)  # of one agent's optimiser
METHOD = (("label_smoothing", 0.0),)
DATA = tuple((name, asdict(DataConfig())[name]) for name in ("transforms", "middle", "encoded", "scaled", "bad"))


def without(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration less those that compute what was computed before there were such settings."""
    agents = {role: {**own, "optim": _less(own["optim"], UNCHANGED)} for role, own in values["agents"].items()}
    return {
        **values,
        "checkpoint": _less(values["checkpoint"], BEFORE),
        "data": _less(values["data"], DATA),
        "optim": _less(values["optim"], UNUSED),
        "method": _less(values["method"], METHOD),
        "agents": agents,
    }


def _less(values: Mapping[str, Any], left_out: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if (k, v) not in left_out}
