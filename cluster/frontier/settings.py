"""What is compared: methods, budgets, seeds; and each single run of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sparring.agents.checkpoint import to_json
from sparring.cluster.config import run_config
from sparring.cluster.config.recipes import RECIPES, recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.config.values import flat
from sparring.cluster.errors import UsageError
from sparring.trainers.config import number

Unit = Literal["seconds", "passes"]
IN_EPOCHS = ("optim.warmup", "optim.swa_start", "optim.awp_warmup", "method.begin")  # settings that grow with a run


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What is compared, and how."""

    methods: Mapping[str, RunConfig]  # label -> its runs, but for length and seed
    budgets: tuple[float, ...]  # in ``unit``
    unit: Unit = "seconds"
    seeds: int = 3  # runs per method and budget: the configuration's seed and those after it
    attacks: tuple[str, ...] = ("clean", "scaled-pgd-20")
    examples: str | None = None

    def __post_init__(self) -> None:
        if len(set(map(slug, self.methods))) < len(self.methods):
            raise UsageError(f"two of the methods {', '.join(self.methods)} would share a folder; name each once")
        if not self.budgets or min(self.budgets) <= 0:
            raise UsageError(
                f"budgets {list(self.budgets)} are not allowed; expected numbers above 0: --budgets 60,240"
            )
        if self.seeds < 1:
            raise UsageError(f"seeds = {self.seeds} must be >= 1")

    def to_dict(self) -> dict[str, Any]:
        """What makes it this one: plain values. Further budgets and seeds make it longer, not another one."""
        values = {k: getattr(self, k) for k in ("unit", "seeds", "examples")}
        plain = {label: _plain(config) for label, config in self.methods.items()}
        return {**values, "budgets": sorted(self.budgets), "attacks": list(self.attacks), "methods": plain}


@dataclass(frozen=True, slots=True)
class Point:
    """One run: ``Point("mat:alpha=1", 60.0, 0, 1432)``."""

    label: str
    budget: float
    seed: int
    steps: int  # that fit into the budget

    @property
    def name(self) -> str:
        """Of its run's folder."""
        return f"{slug(self.label)}-{self.budget:g}-seed{self.seed}"


def slug(label: str) -> str:
    """A label as part of a folder's name: ``mat:alpha=1`` -> ``mat-alpha-1``."""
    head, colon, rest = label.partition(":")
    return re.sub(r"[^A-Za-z0-9._]+", "-", head.rpartition("/")[2] + colon + rest).strip("-.")


def method_of(text: str, changes: Mapping[str, Any], data: str) -> RunConfig:
    """The configuration that ``NAME[:SETTING=VALUE,...]`` means, with settings that are common to all.

    A bare setting is the method's: ``mat:alpha=1,optim.awp=0.005``. A bare method takes its recipe for the data, where there is one.

    Raises:
        UsageError: not of that form.
        ValueError: no such method or setting.
    """
    head, colon, rest = text.partition(":")
    on_data = f"{head}-{data}-short"
    config = RECIPES[on_data]() if on_data in RECIPES else recipe(head)
    own: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise UsageError(f"{part!r} in {text!r} is not SETTING=VALUE; for example: mat:alpha=1,optim.awp=0.005")
        own[key if "." in key else f"method.{key}"] = _value(value)
    return config.replace({**changes, **own})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return number(text)
    except ValueError:
        return text


def fitted(config: RunConfig, point: Point, steps_per_epoch: int) -> RunConfig:
    """The configuration of one run: its length, its seed, and what is counted in epochs stretched or shrunk with the length."""
    epochs = point.steps / steps_per_epoch
    ratio = epochs / config.epochs
    changes: dict[str, Any] = {"max_steps": point.steps, "epochs": max(1, round(epochs)), "seed": point.seed}
    if config.optim.milestones:
        changes["optim.milestones"] = tuple(sorted({max(1, round(m * ratio)) for m in config.optim.milestones}))
    values = flat(config.to_dict())
    for path in IN_EPOCHS:
        value = values.get(path)
        if value:
            changes[path] = value * ratio if isinstance(value, float) else round(value * ratio)
    every = min(config.checkpoint.every, max(1, point.steps // 4))  # so that a best one can differ from the last
    return config.replace({**changes, "checkpoint.every": every})


def known(values: Mapping[str, Any]) -> dict[str, Any]:
    """One method's configuration in a frontier that an earlier version began: settings that it did not know have their defaults."""
    return _plain(RunConfig.from_dict(values))


def _plain(config: RunConfig) -> dict[str, Any]:
    """Without how it is carried out, and what every run has of its own."""
    values: dict[str, Any] = json.loads(to_json(config.carried_out_as(None).to_dict()))
    return {k: v for k, v in values.items() if k not in (*run_config.OPERATIONAL, "seed", "max_steps")}
