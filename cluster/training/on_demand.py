"""Teachers that a run needs and nobody gave: trained first, by the recipe that the method names."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from sparring.cluster.config.recipes import needs, recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances


def missing(config: RunConfig) -> dict[str, str]:
    """Frozen roles without weights, and the recipe that each needs."""
    given = {role for role, own in config.agents.items() if own.init is not None}
    return {role: name for role, name in needs(config).items() if role not in given}


def wanted(config: RunConfig, asked_for: bool) -> bool:
    """Whether missing teachers are to be trained first: asked for by a flag, or agreed to in a terminal."""
    lacking = missing(config)
    if asked_for or not lacking or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return asked_for
    what = ", ".join(f"{role} ({name})" for role, name in lacking.items())
    print(f"This run needs trained networks: {what}. Train them first? [Y/n] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("", "y", "yes")


def trained(config: RunConfig, *, runs_dir: Path, quiet: bool) -> RunConfig:
    """The run with every teacher that is missing trained by the recipe that it needs, or found where that was done before."""
    same = ("data", "team", "address", "device", "placement", "threads_per_agent")
    changes = {}
    for role, name in missing(config).items():
        teacher = replace(recipe(name), **{k: getattr(config, k) for k in same})
        if not quiet:
            print(f"{role}: training {name}, or going on with it", file=sys.stderr)
        run = launch.train(
            teacher, runs_dir=runs_dir, name=f"{name}-teacher", resume_if_exists=True, how=Circumstances(quiet=quiet)
        )
        changes[f"agents.{role}.init"] = str(run.path)
    return config.replace(changes)
