"""Searches on a method whose best settings are known: sampling by results beats chance, stopping early saves steps and finds the same."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from sparring.cluster.search import search
from sparring.cluster.search.results import results_of
from tests.helpers import chosen, planted


@pytest.mark.soak
def test_tpe_beats_chance_at_equal_budget(ray_session: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    found: dict[str, list[float]] = {"random": [], "tpe": []}
    for seed in range(3):
        for sampler, values in found.items():
            asked = planted(steps=2, every=2, seed=seed, scheduler="fifo", sampler=sampler, trials=24, concurrent=1)
            values.append(chosen(search.tune(asked, runs_dir=tmp_path, name=f"{sampler}-{seed}")))
    assert fmean(found["tpe"]) > fmean(found["random"]), found


@pytest.mark.soak
def test_asha_takes_half_the_steps_and_finds_the_slow_starter(ray_session: str, tmp_path: Path) -> None:
    steps, found = {}, {}
    for scheduler in ("asha", "fifo"):
        asked = planted(steps=18, every=1, scheduler=scheduler, trials=12, concurrent=1)
        folder = search.tune(asked, runs_dir=tmp_path, name=scheduler)
        steps[scheduler] = sum(r["reports"][-1]["step"] for r in results_of(folder))
        found[scheduler] = chosen(folder)
    all_whole = results_of(tmp_path / "fifo")
    first = {r["trial"]: r["reports"][0]["objective"] for r in all_whole}
    last = {r["trial"]: r["reports"][-1]["objective"] for r in all_whole}
    assert first[max(last, key=last.__getitem__)] == min(first.values())  # the best is a slow starter indeed
    assert steps["fifo"] == 12 * 18
    assert steps["asha"] <= steps["fifo"] / 2
    assert found["asha"] == found["fifo"]
