"""Lanes: shares of a batch, means over them, and the same training as in one process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Event, Lock
from typing import Any

import pytest
import torch
from torch import distributed

from sparring.agents.lanes import LaneBroken, Lanes
from sparring.trainers.config import Attack, OptimConfig
from sparring.trainers.methods.at import At
from sparring.trainers.methods.mat import Mat
from sparring.trainers.methods.mixacm import Mixacm
from sparring.trainers.methods.mtard import Mtard
from sparring.trainers.methods.peeraid import Peeraid
from sparring.trainers.methods.trades import Trades
from tests.helpers import TinyNet, make_team


def in_lanes(count: int, work: Callable[[Callable[[str], Lanes]], Any]) -> list[Any]:
    """Run ``work`` in every lane, each a thread; it gets what makes its lanes by the name of an agent."""
    store = distributed.HashStore()

    def lane(index: int) -> Any:
        def lanes(agent: str) -> Lanes:
            own = distributed.PrefixStore(agent, store)
            return Lanes(index, count, distributed.ProcessGroupGloo(own, index, count, timedelta(seconds=20)))

        return work(lanes)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lane, range(count)))


def test_shares_cover_the_batch_once() -> None:
    for n in (4, 5, 7, 128):
        rows = [Lanes(i, 4).rows(n) for i in range(4)]
        assert [i for r in rows for i in range(n)[r]] == list(range(n))
        assert sum(Lanes(i, 4).share(n) for i in range(4)) == pytest.approx(1)
    with pytest.raises(ValueError, match="a batch of 3 examples cannot be split into 4 lanes"):
        Lanes(0, 4).rows(3)


def test_means_of_unequal_shares_are_the_whole_batches() -> None:
    values = torch.arange(7, dtype=torch.float64)

    def work(lanes: Callable[[str], Lanes]) -> Any:
        lane = lanes("a")
        mine = values[lane.rows(7)]
        gradient = mine.mean().repeat(3)
        lane.mean_([gradient], 7)
        return lane.mean({"x": mine.mean().item()}, 7, device=torch.device("cpu"))["x"], gradient

    for mean, gradient in in_lanes(3, work):
        assert mean == pytest.approx(3.0, abs=1e-15)
        assert torch.allclose(gradient, torch.full((3,), 3.0, dtype=torch.float64), atol=1e-15)


def test_a_lost_lane_is_infrastructure() -> None:
    store, ended = distributed.HashStore(), Event()

    def lane(index: int) -> None:
        group = distributed.ProcessGroupGloo(store, index, 2, timedelta(seconds=2))
        if index == 1:
            ended.wait(30)  # silent, but there
            return
        with pytest.raises(LaneBroken, match="lane 0 of 2 lost the others"):
            Lanes(0, 2, group).mean({"x": 1.0}, 4, device=torch.device("cpu"))
        ended.set()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lane, range(2)))


METHODS = {
    "at": At(),
    "trades": Trades(),
    "mat": Mat(peers=2, alpha=0.5),
    "peeraid": Peeraid(),
    "mtard": Mtard(),
    "mixacm": Mixacm(),
    "clipped": Trades(),
}
CONSTANT = OptimConfig(schedule="constant")
OPTIM = {"clipped": replace(CONSTANT, clip=0.05)}  # by the length of the whole batch's gradient


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", METHODS)
def test_lanes_train_as_one_process(name: str, count: int) -> None:
    """Three steps in float64 without batch norm: losses, method state and weights equal to 1e-12."""
    method = METHODS[name]
    alone = Lock()
    attack = Attack(**{"eps": 0.1, "steps": 3, **method.ATTACK})

    def train(lanes: Callable[[str], Lanes]) -> Any:
        own = {role: lanes(role) for role in method.roles()}
        with alone:  # initialisation draws from the global generator, which these threads share
            models = {role: TinyNet(bn=False, seed=i) for i, role in enumerate(own)}
            with torch.random.fork_rng():
                torch.manual_seed(0)
                team = make_team(method, models, attack=attack, optim=OPTIM.get(name, CONSTANT), n=16, lanes=own)
        own[next(iter(own))].mean({"built": 1.0}, 16, device=torch.device("cpu"))  # no step before all are built
        values = []
        for t in range(3):
            method.step(team, t)  # type: ignore[arg-type]
            values.append({r: h.metrics.values for r, h in team.items() if h.metrics is not None})
        return values, {r: h.agent.method_state for r, h in team.items()}, {r: h.agent.model for r, h in team.items()}

    (one_values, one_state, one_models), *_ = in_lanes(1, train)
    for values, state, models in in_lanes(count, train):
        for a, b in zip(one_values, values, strict=True):
            for role in a:
                assert b[role] == pytest.approx(a[role], abs=1e-12)
        for role, model in models.items():
            plain = {k: v for k, v in state[role].items() if isinstance(v, float)}
            assert plain == pytest.approx({k: one_state[role][k] for k in plain}, abs=1e-12)
            for p, q in zip(model.parameters(), one_models[role].parameters(), strict=True):
                assert torch.allclose(p, q, atol=1e-12, rtol=0)
