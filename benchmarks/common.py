"""What every benchmark records beside its numbers, so that a figure can be traced and repeated."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE))

RESULTS = CLONE / "benchmarks" / "results"


def circumstances(*, seed: int) -> dict[str, Any]:
    """Command, commit, machine, versions, seed."""
    import torch

    from sparring.cluster.config.environment import commit, cpu

    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0], CLONE), *map(_named, sys.argv[1:])]),
        "commit": commit(),
        "device": f"{os.cpu_count()} CPU cores, {torch.backends.cpu.get_cpu_capability()}, {cpu()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__}
        | ({"ray": metadata.version("ray")} if util.find_spec("ray") else {}),
        "seed": seed,
    }


def _named(argument: str) -> str:
    """A folder of runs outside the clone by its last parts: where it was kept is nobody's concern."""
    path = Path(argument)
    if not path.is_absolute() or path.is_relative_to(CLONE):
        return argument
    return f"RUNS/{path.parent.name}/{path.name}" if path.parent.name.startswith("seed-") else "RUNS"


def evaluated(run: Path, name: str, **asked: Any) -> dict[str, Any]:
    """Per network what an evaluation of a run says; one that is finished is read, one that was interrupted goes on.

    Its folder is NAME-all, or NAME-N for so many ``examples``.
    """
    from sparring.cluster.evaluation.evaluation import evaluate_run
    from sparring.cluster.runs.folder import RunFolder

    name = f"{name}-{asked.get('examples') or 'all'}"
    report = run / "evaluation" / name / "report.json"
    if not report.exists():
        evaluate_run(RunFolder(run), name=name, **asked)
    agents: dict[str, Any] = json.loads(report.read_text())["agents"]
    return agents


def random_images(shape: Sequence[int], *, count: int = 512) -> str:
    """A data set of random images of (channels, height, width) as a user's function would give it, and 64 more; its name."""
    c, h, w = shape
    path = Path(tempfile.mkdtemp()) / "images.py"
    path.write_text(
        "import numpy as np\n"
        "def make():\n"
        f"    x = np.random.default_rng(0).integers(0, 256, ({count} + 64, {h}, {w}, {c}), dtype=np.uint8)\n"
        f"    y = np.arange({count} + 64) % 10\n"
        f"    return x[:{count}], y[:{count}], x[{count}:], y[{count}:]\n"
    )
    return f"{path}:make"


def save(name: str, result: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
