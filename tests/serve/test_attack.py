"""Attacks for the page: within their ball, their steps and their time."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from sparring.serve.attack import attack
from sparring.serve.models import Models
from sparring.serve.settings import Settings
from sparring.serve.versions import Served
from tests.serve.made import pixels, published


@pytest.fixture
def served(tmp_path: Path) -> Served:
    published(tmp_path / "a")
    made = Models(Settings(models_dir=str(tmp_path)))
    made.poll()
    return made.get("a", None)[1]


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_within_its_ball(served: Served, steps: int) -> None:
    x = pixels()[0]
    found = attack(served, x, eps=0.1, steps=steps, seconds=60, label=3)
    assert found["steps"] == steps
    assert np.abs(found["adversarial"] - x).max() <= 0.1 + 1e-6
    assert found["adversarial"].min() >= 0
    assert found["adversarial"].max() <= 1
    assert found["after"][3] < found["before"][3]


class Slow(nn.Module):
    """A tenth of a second for every look."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.1)
        out: Tensor = self.inner(x)
        return out


def test_ends_with_what_it_has(served: Served) -> None:
    slow = replace(served, model=Slow(served.model))
    x, started = pixels()[0], time.monotonic()
    found = attack(slow, x, eps=0.1, steps=20, seconds=0.5, label=3)
    assert time.monotonic() - started < 2
    assert 1 <= found["steps"] < 20
    assert 0 < np.abs(found["adversarial"] - x).max() <= 0.1 + 1e-6


def test_no_attack(served: Served) -> None:
    x = pixels()[0]
    found = attack(served, x, eps=0, steps=5, seconds=5, label=None)
    assert found["steps"] == 0
    assert np.array_equal(found["adversarial"], x)
