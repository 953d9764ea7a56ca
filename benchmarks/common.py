"""What every benchmark records beside its numbers, so that a figure can be traced and repeated."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE))

RESULTS = CLONE / "benchmarks" / "results"


def circumstances(*, seed: int) -> dict[str, Any]:
    """Command, commit, machine, versions, seed."""
    import ray
    import torch

    from cluster.environment import commit

    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0], CLONE), *sys.argv[1:]]),
        "commit": commit(),
        "device": f"{os.cpu_count()} CPU cores, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "ray": ray.__version__},
        "seed": seed,
    }


def save(name: str, result: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
