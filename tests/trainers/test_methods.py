"""Registration by file name, and what every method must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sparring.trainers import methods
from sparring.trainers.types import Adversarial, Answer, Batch, When
from tests.helpers import make_team


def test_names_are_the_files() -> None:
    assert {"at", "clean", "mat"} <= set(methods.names())
    assert "base" not in methods.names()


def test_unknown_method_suggests() -> None:
    with pytest.raises(ValueError, match=r"method 'matt' is unknown\. Did you mean 'mat'\?"):
        methods.load("matt")


def test_file_must_define_one_method(tmp_path: Path) -> None:
    file = tmp_path / "none.py"
    file.write_text("x = 1\n")
    with pytest.raises(ValueError, match="exactly one subclass of Method; it defines 0"):
        methods.load(str(file))
    with pytest.raises(ValueError, match="does not exist"):
        methods.load(str(tmp_path / "missing.py"))


@pytest.mark.parametrize("name", methods.names())
def test_contract(name: str) -> None:
    """Learners step exactly once, frozen agents not at all, products exist, and the header says where it comes from."""
    method = methods.load(name)()
    team = make_team(method)
    before = {r: [p.detach().clone() for p in h.agent.model.parameters()] for r, h in team.items()}
    for t in range(2):
        method.step(team, t)
    roles = method.roles()
    assert set(method.deploy()) <= set(roles)
    assert all("." not in role for role in roles)
    for role, handle in team.items():
        after = list(handle.agent.model.parameters())
        changed = any(not torch.equal(a, b) for a, b in zip(before[role], after, strict=True))
        assert changed == roles[role].learns
        assert handle.agent.t == (2 if roles[role].learns else 0)
        assert (handle.metrics is not None) == roles[role].learns


@pytest.mark.parametrize("name", ["at", "clean", "fgsm_rs", "n_fgsm"])
def test_smoothed_labels(name: str) -> None:
    """The hard term is torch's with smoothed labels; accuracies count the labels themselves."""
    z, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    batch, when = Batch(torch.zeros(6, 1, 2, 2), y), When(0, 0, 1.0)
    adv: Any = {} if name == "clean" else {"adv": Adversarial(batch.x)}
    for smoothing in (0.0, 0.1):
        method = methods.load(name)(label_smoothing=smoothing)
        loss = method.loss("model", Answer(z), batch, state={}, when=when, **adv)
        assert torch.allclose(loss.terms["hard"], F.cross_entropy(z, y, label_smoothing=smoothing))
        assert [v.item() for v in loss.stats.values()] == pytest.approx([(z.argmax(1) == y).float().mean().item()])
    with pytest.raises(ValueError, match=r"method.label_smoothing = 1 must lie in \[0, 1\)"):
        methods.load(name)(label_smoothing=1)
