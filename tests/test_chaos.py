"""Two minutes of faults at random moments: every command ends as promised (``benchmarks/chaos.py``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import CLONE

SUBJECTS = ["mat", "mat direct", "mtard", "evaluate", "tune"]  # those that a machine of two cores begins soonest


@pytest.mark.soak
def test_two_minutes_of_faults() -> None:
    command = [
        sys.executable,
        str(CLONE / "benchmarks" / "chaos.py"),
        "--minutes=2",
        "--seed=30",
        "--json",
        "--what",
        *SUBJECTS,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500, env=dict(os.environ))
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    wrong = [scenario for scenario in found["scenarios"] if not scenario["ok"]]
    assert not wrong, json.dumps(wrong, indent=1)
    assert done.returncode == 0
    assert len(found["scenarios"]) >= 1
