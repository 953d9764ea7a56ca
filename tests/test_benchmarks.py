"""The benchmarks run, in miniature."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers import CLONE


def test_team_vs_local(tmp_path: Path) -> None:
    flags = ["--network=small_cnn:width=4", "--batch-size=16", "--attack-steps=2", "--rounds=2", "--steps=1"]
    command = [sys.executable, str(CLONE / "benchmarks" / "team_vs_local.py"), *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.partition("\nratios")[0])
    assert result["n"] == 2
    assert result["ratio"] > 0
    assert result["versions"]["torch"]
