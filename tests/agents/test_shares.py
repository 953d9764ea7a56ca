"""The share of each term of a loss, in its value and in its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.agents.agent import Agent
from sparring.agents.shares import Gradients
from sparring.trainers.config import OptimConfig, SpeedConfig
from sparring.trainers.losses import cross_entropy
from sparring.trainers.methods.at import At
from sparring.trainers.methods.mat import Mat
from sparring.trainers.types import Adversarial, Answer, Batch, Loss, State, When
from tests.helpers import make_team


def test_of_known_gradients() -> None:
    """3 w and -4 w + c: of the loss by size, of the gradient by length; a term without a graph has none."""
    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    terms = {"one": 3 * w[0], "two": -4 * w[1] + 2, "none": torch.tensor(5.0)}
    found = Gradients([w])
    found.add(terms)
    shares = found.shares({k: v.item() for k, v in terms.items()}, lambda gradients: None)
    assert shares["one"] == (pytest.approx(3 / 14), pytest.approx(3 / 7))
    assert shares["two"] == (pytest.approx(6 / 14), pytest.approx(4 / 7))
    assert shares["none"] == (pytest.approx(5 / 14), 0)
    assert w.grad is None


@dataclass(frozen=True, kw_only=True)
class Doubled(At):
    """The hard label's loss in two unequal terms, the second weighed by ``balance``."""

    weight: float = 0.25

    def loss(self, me: str, own: Answer, batch: Batch, *, state: State, when: When, adv: Adversarial) -> Loss:
        hard: Tensor = cross_entropy(own.logits, batch.y).mean()
        return Loss({"hard": hard, "again": 3 * hard})

    def balance(self, me: str, means: dict[str, float], state: State, when: When) -> tuple[dict[str, float], State]:
        return {"again": self.weight}, state


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_weights_count_and_parts_make_no_difference(micro_batch: int | None) -> None:
    """1 to 0.25 * 3, in the loss and in the gradient; in an epoch's last step only."""
    method = Doubled()
    team = make_team(method, speed=SpeedConfig(micro_batch=micro_batch), bn=False)
    for t in range(3):
        method.step(team, t)
        metrics = team["model"].metrics
        assert metrics is not None
        assert bool(metrics.shares) == (t == 2)  # 24 images in batches of 8
    assert metrics.shares["hard"] == (pytest.approx(1 / 1.75), pytest.approx(1 / 1.75))
    assert metrics.shares["again"] == (pytest.approx(0.75 / 1.75), pytest.approx(0.75 / 1.75))


@pytest.mark.parametrize("awp", [0.0, 0.01])
def test_measuring_changes_nothing(awp: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes with and without a look, with perturbed weights too."""
    method = Mat()

    def states() -> list[Any]:
        team = make_team(method, optim=OptimConfig(schedule="constant", awp=awp))
        for t in range(4):
            method.step(team, t)
        return [h.agent.state(4) for h in team.values()]

    looked = states()
    monkeypatch.setattr(Agent, "_measured", lambda self, t, loss: False)
    for one, other in zip(looked, states(), strict=True):
        assert all(torch.equal(one.model[k], other.model[k]) for k in one.model)
        assert all(torch.equal(one.optim[k], other.optim[k]) for k in one.optim)


def test_one_term_is_not_measured() -> None:
    team = make_team(At())
    for t in range(3):
        At().step(team, t)
    assert team["model"].metrics is not None
    assert team["model"].metrics.shares == {}
