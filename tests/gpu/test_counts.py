"""How often a step waits for its device, what it launches there, and that nothing mixes devices: without a GPU."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.trainers import methods
from sparring.trainers.config import Measure
from sparring.trainers.losses import cross_entropy
from sparring.trainers.methods.at import At
from sparring.trainers.methods.base import Model
from sparring.trainers.rng import generator
from sparring.trainers.types import Batch
from tests.gpu.stand_in import GPU, Mixed, Waits, Watch
from tests.gpu.teams import configured, second_step, step, team
from tests.helpers import CLONE

WAITS: dict[str, dict[str, int]] = json.loads((CLONE / "benchmarks" / "waits.json").read_text())
LAUNCHES: dict[str, dict[str, int]] = json.loads((CLONE / "benchmarks" / "launches.json").read_text())
VALUES, MESSAGE = "agents/agent.py _values", "agents/exchange.py _own"


@pytest.mark.parametrize("method", methods.names())
def test_a_step_waits_once_an_agent_and_once_a_message(method: str) -> None:
    """As the tables say, which ``python benchmarks/counts.py --save`` writes."""
    seen = second_step(method)
    assert dict(seen.waits) == WAITS[method]
    assert set(seen.waits) <= {VALUES, MESSAGE}  # none inside an attack
    learners = [role for role, r in configured(method).method.roles().items() if r.learns]
    assert seen.waits[VALUES] == len(learners)
    counted = LAUNCHES[method]
    assert {kind: seen.launches[kind] for kind in ("layers", "outside")} == {
        k: counted[k] for k in ("layers", "outside")
    }
    assert counted["outside"] <= 0.8 * counted["before"]


def test_the_tables_know_every_method() -> None:
    assert set(WAITS) == set(LAUNCHES) == set(methods.names())


OPTIONS: dict[str, dict[str, Any]] = {
    "averages": {"optim__ema": 0.9, "optim__swa": True, "optim__swa_start": 0},
    "perturbed weights": {"optim__awp": 0.01, "optim__awp_warmup": 0},
    "parts": {"micro_batch": 12},
    "clipped, adamw": {"optim__clip": 1.0, "optim__name": "adamw", "optim__momentum": 0.0},
    "l2": {"attack__norm": "l2", "attack__eps": 0.5},
    "l1": {"attack__norm": "l1", "attack__eps": 2.0},
    "restarts": {"attack__restarts": 2},
    "smoothed": {"method__label_smoothing": 0.1},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_what_else_a_step_may_do(name: str) -> None:
    """No waits but these: the length of clipped gradients, one number; the size of a perturbation, one of each weight."""
    more = {
        "clipped, adamw": {"agents/learner.py end": 1},
        "perturbed weights": {"trainers/perturbation.py perturbed": 4},
    }
    seen = second_step("at", **OPTIONS[name])
    assert dict(seen.waits) == {VALUES: 1, MESSAGE: 1, **more.get(name, {})}


def test_a_run_on_the_device() -> None:
    """A whole epoch with its measured last step, a look at held-out images, and a checkpoint: each waits at named places."""
    config = configured("at", attack__steps=2, data__fraction=0.05, optim__ema=0.9, optim__swa=True, optim__swa_start=0)
    with team(config) as local:
        agent = local["model"].endpoint.agent
        per_epoch = agent.batches.steps_per_epoch
        for t in range(per_epoch):
            step(local, config, t)
        with Watch() as seen:
            local.collect(local.evaluate(per_epoch, Measure((), "pgd")), timeout=0)
        assert {place.partition(" ")[0] for place in seen.waits} <= {"agents/robustness.py", "agents/fast.py"}
        with Watch() as seen:
            agent.state(per_epoch)
        assert {place.partition(" ")[0] for place in seen.waits} <= {
            "agents/learner.py",
            "agents/agent.py",
            "trainers/optim.py",
        }


Objective = Callable[[Tensor], Tensor]
_NOISE = torch.rand(10)  # of the CPU


def _plainly(model: Model, batch: Batch) -> Objective:
    return lambda x: cross_entropy(model(x), batch.y)


def _reads(model: Model, batch: Batch) -> Objective:
    return lambda x: cross_entropy(model(x), batch.y) * (1.0 if x.sum().item() > 0 else 2.0)


def _mixes(model: Model, batch: Batch) -> Objective:
    return lambda x: cross_entropy(model(x) + _NOISE, batch.y)


def _mixes_in_a_layer(model: Model, batch: Batch) -> Objective:
    return lambda x: cross_entropy(torch.nn.functional.linear(model(x), torch.eye(10)), batch.y)


def _masks(model: Model, batch: Batch) -> Objective:
    return lambda x: cross_entropy(model(x)[batch.y > 0], batch.y[batch.y > 0])


def _draws_elsewhere(model: Model, batch: Batch) -> Objective:
    rng = generator(0)
    return lambda x: cross_entropy(model(x + torch.rand(x.shape, generator=rng, device=x.device)), batch.y)


def _by_numpy(model: Model, batch: Batch) -> Objective:
    return lambda x: cross_entropy(model(torch.from_numpy(x.detach().cpu().numpy()).to(x.device) + 0 * x), batch.y)


PLANTED: Mapping[str, tuple[Callable[[Model, Batch], Objective], type[Exception] | None]] = {
    "nothing": (_plainly, None),
    "an item in an attack": (_reads, None),
    "a tensor of the CPU": (_mixes, Mixed),
    "a weight of the CPU": (_mixes_in_a_layer, Mixed),
    "a mask as an index": (_masks, Waits),
    "a generator of the CPU": (_draws_elsewhere, Mixed),
    "a round trip by numpy": (_by_numpy, None),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_mistakes_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, raised = PLANTED[name]
    monkeypatch.setattr(At, "objective", lambda self, me, model, batch: objective(model, batch))
    config = configured("at", attack__steps=2)
    with team(config) as local:
        if raised is not None:
            with pytest.raises(raised):
                step(local, config, 0)
            return
        waits = Counter(step(local, config, 0).waits)
    assert (waits == Counter({VALUES: 1, MESSAGE: 1})) == (name == "nothing")


def test_the_stand_in_is_strict_where_meta_is_not() -> None:
    with Watch(), pytest.raises(Mixed):
        torch.zeros(3, device=GPU).index_select(0, torch.tensor([1]))
    with Watch() as seen:
        assert float(torch.zeros(3, device=GPU).sum()) == 1.0
        torch.zeros(3).to(GPU)
    assert seen.waits.total() == 1
    assert seen.uploads.total() == 1
