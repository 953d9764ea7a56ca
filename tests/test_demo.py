"""The demo as a newcomer runs it, and what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from sparring.cluster.commands.demo import FEW, OTHER_SEEDS, brought
from sparring.cluster.config.recipes import recipe
from sparring.cluster.evaluation import verify
from tests.helpers import CLONE, PATIENCE


@pytest.mark.soak
def test_demo(tmp_path: Path) -> None:
    """Of 71 images: peers right on most and robust on a third, the plain network far below, training about a minute; twice is fine."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    environment["HOME"] = str(tmp_path / "home")
    (tmp_path / "home").mkdir()
    for earlier in ("mat-digits-1", "at-digits-1", "clean-digits-1"):  # a demo that ran before
        (tmp_path / "runs" / earlier).mkdir(parents=True)
    command = [sys.executable, str(CLONE / "sparring.py"), "demo", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    networks = {
        name: (r["clean_accuracy"], r["threats"]["linf:0.15"]["robust_accuracy"])
        for name, r in result["agents"].items()
    }
    peers = [v for name, v in networks.items() if name.startswith("peer")]
    assert len(peers) == 2
    assert min(clean for clean, _ in peers) >= 0.80
    assert min(robust for _, robust in peers) >= 0.33
    assert networks["plain training"][1] < min(robust for _, robust in peers) - 0.15
    assert networks["plain training"][0] >= 0.75
    mutual, alone_at_cost, plain = (Path(result[k]) for k in ("run", "alone", "plain"))
    assert (mutual.name, alone_at_cost.name, plain.name) == ("mat-digits-2", "at-digits-2", "clean-digits-2")
    assert networks["alone, same cost"][1] >= 0.30
    assert result["epochs"]["alone"] == pytest.approx(
        2.58 * result["epochs"]["mutual"], abs=1
    )  # 43.6 passes against 16.9
    assert "The peers' mean is" in brought(result)
    load = os.getloadavg()[0]  # of a minute: beside another test it says too little
    alone = (
        "PYTEST_XDIST_WORKER" not in os.environ and load < (os.cpu_count() or 1) + 2
    )  # two actors, this process, Ray
    assert sum(training_seconds(run) for run in (mutual, alone_at_cost, plain)) < 90 or not alone
    assert Path(result["report"]).is_file()
    report = json.loads((mutual / "report.json").read_text())
    for name in ("peer0", "peer1"):  # one number, wherever it is read
        own = report["agents"][name]
        assert networks[f"{name} (mutual)"] == (own["clean_accuracy"], own["robust_accuracy"])
    assert json.loads((mutual / "env.json").read_text())["cpu"]
    evaluations = [path.parent for path in mutual.glob("evaluation/*/report.json")]
    assert len(evaluations) == 1
    assert verify.evaluation(evaluations[0]).problems == []
    assert json.loads((mutual / "env.json").read_text())["team"] == "ray"


def test_what_it_says_of_other_seeds_is_on_record() -> None:
    record = json.loads((CLONE / "benchmarks" / "results" / "few_digits_again.json").read_text())
    mean, low, high = (100 * v for v in record["fractions"]["0.05"]["mat alpha=1"]["over alone, same cost, last"])
    assert len(record["seeds"]) == 10
    assert f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}] over ten other seeds" == OTHER_SEEDS
    seed = recipe("mat-digits").seed
    assert seed not in record["seeds"]
    assert record["epochs"] == FEW["epochs"]


def training_seconds(run: Path) -> float:
    """Wall time between the first checkpoint and the end, as the log has it."""
    lines = (run / "log.txt").read_text().splitlines()
    first = next(line for line in lines if line.endswith("checkpoint at step 0"))
    last = next(line for line in lines if "done: " in line)
    return (datetime.fromisoformat(last[:19]) - datetime.fromisoformat(first[:19])).total_seconds()
