"""The agent: guard by step, what a verb may change, NaN, state."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from sparring.agents.state import NotFinite, WrongStep
from sparring.trainers import methods
from sparring.trainers.config import Attack, Measure
from sparring.trainers.methods.at import At
from sparring.trainers.methods.base import Method
from sparring.trainers.types import FROZEN, LEARNER, Answer, Batch, Loss, Message, Role
from tests.helpers import TinyNet, make_team


def everything(model: nn.Module) -> list[object]:
    state = [t.tolist() for t in model.state_dict().values()]
    return [
        state,
        [p.grad is None for p in model.parameters()],
        [m.training for m in model.modules()],
        torch.get_rng_state().tolist(),
    ]


def test_craft_answer_and_evaluate_change_nothing() -> None:
    agent = make_team(At())["model"].agent
    before = everything(agent.model)
    adv = agent.craft(0)
    agent.answer(0, {"a": adv})
    agent.answer(0)
    result = agent.evaluate(0, Measure((Attack(eps=0.1, steps=2),), "pgd"))[""]
    agent.warm_up()
    assert everything(agent.model) == before
    assert result.n == 24
    assert 0 <= result.robust <= result.clean <= 1


def test_wrong_step_is_refused_by_every_verb() -> None:
    agent = make_team(At())["model"].agent
    agent.learn(0, adv=agent.craft(0))
    for call in (agent.craft, agent.answer, agent.predict, agent.learn, agent.state):
        for t in (0, 2):
            with pytest.raises(WrongStep, match=f"at step 1 and was called for step {t}"):
                call(t)
    with pytest.raises(WrongStep):
        agent.evaluate(0, Measure((Attack(eps=0.1),), "pgd"))


def test_state_round_trip_continues_identically() -> None:
    method = At()
    a, b = make_team(method), make_team(method)
    for t in range(3):
        method.step(a, t)
    saved = a["model"].agent.state(3)
    method.step(a, 3)
    b["model"].agent.load_state(saved)
    method.step(b, 3)
    assert a["model"].metrics is not None
    assert a["model"].metrics.values == b["model"].metrics.values  # type: ignore[union-attr]
    for x, y in zip(
        a["model"].agent.model.state_dict().values(), b["model"].agent.model.state_dict().values(), strict=True
    ):
        assert torch.equal(x, y)


def test_state_is_a_copy() -> None:
    method, team = At(), make_team(At())
    saved = team["model"].agent.state(0)
    before = {k: v.clone() for k, v in saved.model.items()}
    method.step(team, 0)
    assert all(torch.equal(saved.model[k], before[k]) for k in before)


@dataclass(frozen=True, kw_only=True)
class Guided(Method):
    """A method that predicts before it learns and changes its own weights: exercises predict, balance and frozen roles."""

    def roles(self) -> dict[str, Role]:
        return {"student": LEARNER, "teacher": FROZEN}

    def step(self, team: Any, t: int) -> None:
        soft = team["teacher"].answer(t)
        team["student"].predict(t)
        team["student"].learn(t, soft=soft)

    def forward(self, me: str, model: nn.Module, batch: Batch, **seen: Any) -> Message:
        return Answer(model(batch.x))

    def start_state(self, me: str) -> dict[str, object]:
        return {"weight": 1.0}

    def loss(self, me: str, own: Any, batch: Batch, *, state: Any, when: Any, soft: Answer) -> Loss:
        return Loss({"fit": (own.logits - soft.logits).square().mean()}, {"scale": soft.logits.abs().mean()})

    def balance(self, me: str, means: dict[str, float], state: Any, when: Any) -> tuple[dict[str, float], Any]:
        return {"fit": state["weight"]}, {"weight": state["weight"] / 2}


def test_predict_keeps_one_pass_and_balance_weighs_this_step() -> None:
    method, team = Guided(), make_team(Guided())
    for t in range(2):
        method.step(team, t)
    student = team["student"]
    assert student.metrics is not None
    assert student.metrics.values["total"] == pytest.approx(0.5 * student.metrics.values["fit"], rel=1e-12)
    assert student.agent.method_state == {"weight": 0.25}
    assert student.metrics.values["weight"] == 0.25
    assert student.agent.model.bn.num_batches_tracked == 2  # learn did not run forward again
    assert student.agent.state(2).method == {"weight": 0.25}


def test_a_kept_graph_is_never_saved_nor_replaced() -> None:
    agent = make_team(Guided())["student"].agent
    saved = agent.state(0)
    agent.predict(0)
    with pytest.raises(AssertionError, match="predicted but not learned"):
        agent.state(0)
    with pytest.raises(AssertionError, match="predicted twice"):
        agent.predict(0)
    agent.load_state(saved)
    agent.predict(0)  # a rolled-back agent has forgotten the graph


def test_frozen_agents_do_not_learn_and_have_no_guard() -> None:
    teacher = make_team(Guided())["teacher"].agent
    teacher.answer(17)
    assert not teacher.model.training
    with pytest.raises(AssertionError, match="frozen"):
        teacher.learn(0)


class Poisoned(TinyNet):
    """Returns NaN from the second training pass on."""

    passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        return super().forward(x) * (float("nan") if self.training and self.passes > 1 else 1.0)


def test_nan_names_agent_term_and_step_and_leaves_the_weights() -> None:
    agent = make_team(At(), {"model": Poisoned()})["model"].agent
    agent.learn(0, adv=agent.craft(0))
    before = [p.detach().clone() for p in agent.model.parameters()]
    with pytest.raises(NotFinite, match=r"model: loss term 'hard' became nan in step 1"):
        agent.learn(1, adv=agent.craft(1))
    assert all(torch.equal(a, b) for a, b in zip(before, agent.model.parameters(), strict=True))


def test_non_finite_weights_are_not_saved() -> None:
    agent = make_team(At())["model"].agent
    with torch.no_grad():
        agent.model.fc.bias[0] = float("inf")
    with pytest.raises(NotFinite, match=r"model: weight fc\.bias became inf in step 0"):
        agent.state(0)


def test_published_bytes_are_the_tensors() -> None:
    agent = make_team(At())["model"].agent
    adv = agent.craft(0)
    agent.answer(0, {"x": adv})
    metrics = agent.learn(0, adv=adv)
    assert metrics.exchange_bytes == 8 * (8 * 36 + 8 * 4)  # float64: examples [8, 1, 6, 6] and logits [8, 4]
    assert set(metrics.seconds) == {"craft", "answer", "learn", "idle"}
    assert metrics.memory > 10 * 2**20


class Dropping(TinyNet):
    """Dropout: the network itself draws in train mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(super().forward(x), 0.5, self.training)


def test_what_a_network_draws_is_a_function_of_the_step() -> None:
    """Dropout: equal in two agents whatever the global generator holds, equal after predict, and the generator returns."""
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        team = make_team(At(), {"model": Dropping()}, attack=Attack(eps=0.1, steps=2, bn="train"))
        for t in range(2):
            At().step(team, t)
        assert torch.equal(torch.get_rng_state(), before)
        assert team["model"].metrics is not None
        results.append(team["model"].metrics.values)
    assert results[0] == results[1]


def test_a_frozen_agent_reports_what_it_published() -> None:
    teacher = make_team(Guided())["teacher"].agent
    teacher.answer(0)
    assert teacher.report(0).exchange_bytes == 8 * 4 * 8
    assert teacher.report(1).exchange_bytes == 0


@pytest.mark.parametrize("name", ["peeraid", "lbgat", "mat", "mixacm", "mtard"])
def test_steps_keep_no_graph(name: str) -> None:
    """As many tensors are alive after 25 steps as after 10, and none of them still hangs in a graph."""
    method = methods.load(name)()
    team = make_team(method)
    alive = {}
    for t in range(25):
        method.step(team, t)
        if t in (9, 24):
            gc.collect()
            tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter)]
            alive[t] = (len(tensors), sum(o.nbytes for o in tensors))
            assert not [o for o in tensors if o.grad_fn is not None]
            del tensors
    assert alive[9] == alive[24]
