"""A team of every method whose agents are on the stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from sparring.agents.spec import AgentSpec
from sparring.agents.views import Views
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.team.assemble import specs
from sparring.cluster.team.team import LocalTeam
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.gpu.stand_in import GPU, Watch, generators_on_meta
from tests.helpers import small

STEPS = 10  # of every attack, as in the papers


@cache
def weights() -> str:
    """Of a network that frozen roles start from."""
    run = launch.train(
        small("at", team="local", max_steps=1), runs_dir=Path(mkdtemp()), name="w", how=Circumstances(quiet=True)
    )
    return str(run.path / "checkpoints" / "step-000001" / "agents" / "model")


def configured(method: str, **options: Any) -> RunConfig:
    """A run of a method on digits, its attacks as long as the papers'."""
    plain = small(method, attack__steps=STEPS)
    roles = plain.method.roles()
    frozen = [name for name in plain.networks() if name not in roles or not roles[name].learns]
    values: dict[str, Any] = {f"agents__{role}__init": weights() for role in frozen}
    values |= {f"attacks__{norm}__steps": STEPS for norm in plain.attacks}
    return small(method, **{"attack__steps": STEPS, "max_steps": 90, "team": "local", **values, **options})


@contextmanager
def on_stand_in() -> Iterator[None]:
    """Agents that are made inside are on the device that computes nothing. It knows no autocast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AgentSpec, "chosen_device", lambda self: GPU)
        patch.setattr(Views, "lower", lambda self: nullcontext())
        with generators_on_meta(patch):
            yield


@contextmanager
def team(config: RunConfig) -> Iterator[LocalTeam]:
    """The run's agents, made on the stand-in."""
    made = specs(config, quiet=True)
    with on_stand_in():
        with Watch():
            local = LocalTeam(made)
        try:
            yield local
        finally:
            local.close()


def step(local: LocalTeam, config: RunConfig, t: int) -> Watch:
    """What one step does to the device.

    Raises:
        Exception: what an agent raised.
    """
    with Watch() as seen:
        local.collect(local.submit(config.method, t), timeout=0)
    return seen


def second_step(method: str, **options: Any) -> Watch:
    """Of a fresh team: in the first one optimisers make their state."""
    config = configured(method, **options)
    with team(config) as local:
        step(local, config, 0)
        return step(local, config, 1)
