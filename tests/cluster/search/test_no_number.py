"""An objective that is NaN: Optuna is told that the trial failed, and no such trial is the best."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sparring.cluster.search import report
from tests.helpers import planted

NAN = math.nan


def states(searcher: object) -> list[str]:
    """Of the trials that Optuna itself has."""
    return [trial.state.name for trial in searcher._optuna._ot_study.trials]  # type: ignore[attr-defined]


def test_optuna_hears_that_it_failed(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from sparring.cluster.search.tuning import Asked

    searcher = Asked(planted(steps=4, every=2, sampler="tpe", trials=6), tmp_path)
    for name in ("a", "b", "c", "d"):
        assert searcher.suggest(name) is not None
    searcher.on_trial_complete("a", {"objective": NAN, "step": 4})
    searcher.on_trial_complete("b", {"objective": 0.5, "step": 4})
    searcher.on_trial_complete("c", None, error=True)
    assert states(searcher) == ["FAIL", "COMPLETE", "FAIL", "RUNNING"]
    assert searcher.suggest("e") is not None  # it goes on


def test_so_does_one_that_goes_on(tmp_path: Path) -> None:
    """Of trials of an earlier part of the search."""
    pytest.importorskip("optuna")
    from sparring.cluster.search.tuning import Asked

    search = planted(steps=4, every=2, sampler="tpe", trials=4)
    params = Asked(search, tmp_path).suggest("first")
    assert params is not None
    for i in range(2):
        (tmp_path / "trials" / f"{i:03d}").mkdir(parents=True)
        (tmp_path / "trials" / f"{i:03d}" / "params.json").write_text(json.dumps(params["params"]))
    searcher = Asked(search, tmp_path)
    for name, goal in (("a", NAN), ("b", 0.5)):
        assert searcher.suggest(name) is not None
        searcher.on_trial_complete(name, {"objective": goal, "step": 4})
    assert states(searcher) == ["FAIL", "COMPLETE"]
    assert searcher.suggest("c") is not None


@pytest.mark.parametrize("goals", [[NAN, 0.1, 0.2], [0.1, NAN, 0.2], [0.2, NAN]])
def test_it_is_never_the_best(goals: list[float]) -> None:
    results = [{"status": "finished", "reports": [{"step": 4, "objective": goal}]} for goal in goals]
    best = report.best_of(results)
    assert best is not None
    assert best["reports"][-1]["objective"] == 0.2
