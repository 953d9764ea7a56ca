"""What is searched, and what every trial is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from sparring.agents.checkpoint import to_json
from sparring.cluster.config import run_config
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.models.initial import by_content, vetted
from sparring.trainers.code import Code
from sparring.trainers.search import Choice, Space

Scheduler = Literal["asha", "pbt", "fifo"]
KEPT = 3  # checkpoints at least where trials take over from each other: they are at most two apart


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and how."""

    config: RunConfig  # of every trial, but for the searched settings
    spaces: Mapping[str, Space]
    trials: int = 16
    scheduler: Scheduler = "asha"
    sampler: Literal["random", "tpe", "grid"] = "random"
    objective: str = "w-robust"
    share_teachers: bool = True
    concurrent: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """What makes a search this one: plain values."""
        values = {k: getattr(self, k) for k in ("trials", "scheduler", "sampler", "objective")}
        spaces = {k: str(v) for k, v in sorted(self.spaces.items())}
        return {**values, "spaces": spaces, "config": _plain(self.config)}


def _plain(config: RunConfig) -> dict[str, Any]:
    """The configuration of all trials, without how they are carried out."""
    values: dict[str, Any] = json.loads(to_json(config.carried_out_as(None).to_dict()))
    return {k: v for k, v in values.items() if k not in run_config.OPERATIONAL}


def compared(known: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What search.json holds, as it is compared with what is asked for.

    Users' files by content, which version 0.1 kept by their paths; a grid's trials follow from its values.
    """
    config = by_content(RunConfig.from_dict(known["config"]))
    trials = asked["trials"] if asked["sampler"] == known["sampler"] == "grid" else known["trials"]
    return {**known, "config": _plain(config), "trials": trials}


def trials_of(asked: int | None, sampler: str, spaces: Mapping[str, Space]) -> int:
    """How many trials there are: as many as asked for, else a grid's combinations, else 16."""
    return asked if asked is not None else combinations(spaces) if sampler == "grid" else 16


def combinations(spaces: Mapping[str, Space]) -> int:
    """Of a grid; a range, which none can hold, counts as one value."""
    return prod(len(space.values) if isinstance(space, Choice) else 1 for space in spaces.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """What every trial is told."""

    folder: str  # of the search
    config: RunConfig
    objective: str
    command: list[str]
    codes: tuple[
        Code, ...
    ]  # users' files, looked at by the search: a trial's process knows them once they have arrived
    pbt: bool = False


def plan_of(search: Search, folder: Path) -> Plan:
    """What every trial is told."""
    keep = max(search.config.checkpoint.keep, KEPT if search.scheduler == "pbt" else 0)
    config = replace(search.config, checkpoint=replace(search.config.checkpoint, keep=keep))
    if any(path.startswith("attack") for path in search.spaces) and config.checkpoint.threat is None:
        config = replace(config, checkpoint=replace(config.checkpoint, threat=str(config.threats[0])))
    if search.share_teachers:
        config = replace(config, memo=str(folder / "teachers"))
    return Plan(str(folder), config, search.objective, sys.argv, vetted(config), pbt=search.scheduler == "pbt")
