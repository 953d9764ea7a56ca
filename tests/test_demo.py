"""The demo as a newcomer runs it, and what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers import CLONE


def test_demo(tmp_path: Path) -> None:
    """Peers at least 70 % robust and 95 % clean, the plain network below 15 %, training under a minute; twice is fine."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    environment["HOME"] = str(tmp_path / "home")
    (tmp_path / "home").mkdir()
    command = [sys.executable, str(CLONE / "sparring.py"), "demo", "--json"]
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    wall = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    networks = {
        name: (r["clean_accuracy"], r["threats"]["linf:0.15"]["robust_accuracy"])
        for name, r in result["agents"].items()
    }
    peers = [v for name, v in networks.items() if name.startswith("peer")]
    assert len(peers) == 2
    assert min(clean for clean, _ in peers) >= 0.95
    assert min(robust for _, robust in peers) >= 0.70
    assert networks["plain training"][1] < 0.15
    assert networks["plain training"][0] >= 0.95
    assert result["seconds"] <= wall
    mutual, plain = Path(result["run"]), Path(result["plain"])
    assert (mutual.name, plain.name) == ("mat-digits-1", "clean-digits-1")
    steps = [json.loads(line) for line in (mutual / "metrics.jsonl").read_text().splitlines()]
    busy = sum(sum(s["seconds"].values()) for s in steps if s["agent"] == "peer0")
    assert busy < 60
    assert json.loads((mutual / "env.json").read_text())["team"] == "ray"
