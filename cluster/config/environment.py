"""What a run or a measurement ran on: versions, hardware, commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparring.agents.spec import Facts
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.terminal import HOME


def environment(config: RunConfig, facts: dict[str, Facts]) -> dict[str, Any]:
    """Versions, hardware, commit and which promise of identical bytes holds."""
    import torch

    packages = ("torch", "torchvision", "ray", "numpy", "safetensors")
    versions = {p: _version(p) for p in packages}
    on_cpu = all(f.device == "cpu" for f in facts.values())
    return {
        "versions": versions | {"python": platform.python_version()},
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cpu": cpu(),
        "command": sys.argv,
        "commit": commit(),
        "seed": config.seed,
        "team": config.team,
        "threads_per_agent": config.threads_per_agent,
        "code": [{"file": c.origin, "sha256": c.sha256, "kept": c.name} for c in config.codes],
        "agents": {name: asdict(f) for name, f in facts.items()},
        "identical_bytes": "same wheels, CPU family and threads_per_agent" if on_cpu else "data order and noise only",
    }


def commit() -> str | None:
    """The clone's git commit, with ``+changes`` when files differ from it; None outside a checkout."""
    try:
        args = ["git", "-C", str(HOME), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(args, capture_output=True, text=True, check=True, timeout=5).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def cpu() -> str:
    """Model of this machine's processor, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
