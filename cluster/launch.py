"""From a configuration to a finished run: folder, lock, team, loop."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents import networks
from agents.spec import Facts
from cluster import images
from cluster.controller import Controller
from cluster.errors import BrokenCheckpoint, DataError, NoResources, UsageError
from cluster.progress import Progress, facts_table
from cluster.run_config import RunConfig
from cluster.run_folder import RunFolder
from cluster.stop import StopSignal
from cluster.team import LocalTeam, Team
from trainers import datasets


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    path: Path

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One entry per agent and step."""
        return RunFolder(self.path).metrics()

    @property
    def best(self) -> dict[str, dict[str, Any]]:
        """Per agent, the step and value of its best held-out robust accuracy."""
        manifest = self._manifest()
        return dict(manifest["best"])

    @property
    def agents(self) -> dict[str, dict[str, float]]:
        """Per agent, accuracy on the held-out images at the last checkpoint: clean and robust, in [0, 1]."""
        return {a: {"clean": v["clean"], "robust": v["robust"]} for a, v in self._manifest()["validation"].items()}

    def _manifest(self) -> dict[str, Any]:
        checkpoints = RunFolder(self.path).checkpoints
        steps = checkpoints.committed()
        if not steps:
            raise BrokenCheckpoint(f"{self.path} has no committed checkpoint yet")
        return checkpoints.manifest(steps[-1])


def train(
    config: RunConfig,
    *,
    runs_dir: Path = Path("runs"),
    name: str | None = None,
    resume_if_exists: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a new run.

    Raises:
        SparringError: see ``cluster/errors.py``; the text says what to do.
    """
    config = config.absolute()
    networks.parse(config.network)  # misspelt names are refused before a folder or a process is made
    datasets.source_of(config.data.name)
    if resume_if_exists:
        if name is None:
            raise UsageError("--resume-if-exists needs --name: without it every run gets a new name")
        if (runs_dir / name / "config.yaml").exists():
            return resume(runs_dir / name, quiet=quiet)
    folder = RunFolder.create(runs_dir, name, config)
    try:
        return _execute(folder, config, quiet=quiet)
    except NoResources:
        shutil.rmtree(folder.path)  # nothing has begun: the name is free again
        raise


def resume(path: Path, *, quiet: bool = False) -> Run:
    """Continue a run to the same result that it would have had without the interruption."""
    folder = RunFolder.open(path)
    return _execute(folder, folder.config, quiet=quiet)


@contextmanager
def team_of(config: RunConfig, *, quiet: bool = True) -> Iterator[Team]:
    """The run's agents, ready; on Ray in a placement group that is removed at the end."""
    specs = config.specs(images.prepare(config.data, quiet=quiet))
    if config.team == "local":
        local = LocalTeam(specs)
        try:
            yield local
        finally:
            local.close()
        return
    from cluster import placement, session  # late: a local team needs no ray
    from cluster.ray_team import RayTeam

    with session.connected(config.address):
        bundles = placement.plan(len(specs), config.placement, placement.nodes_alive())
        remote = RayTeam(specs, placement.reserve(bundles, config.placement), bundles)
        try:
            yield remote
        finally:
            remote.close()


def _execute(folder: RunFolder, config: RunConfig, *, quiet: bool) -> Run:
    with folder.locked():
        first, wrong = folder.checkpoints.newest_whole()
        if wrong and first is None:
            raise BrokenCheckpoint(f"no whole checkpoint in {folder.path}: {'; '.join(wrong)}")
        with team_of(config, quiet=quiet) as team, StopSignal() as stop:
            facts = team.describe()
            total = _agree(facts)
            folder.checkpoints.folder.mkdir(exist_ok=True)
            folder.checkpoints.drop_after(first)
            folder.rewind_metrics(first or 0)
            progress = Progress(folder, total=total, first=first or 0, quiet=quiet)
            try:
                for line in [*(f"damaged, going back: {w}" for w in wrong), *facts_table(facts)]:
                    progress.event(line)
                folder.write_env(environment(config, facts))
                if first is not None:
                    progress.event(f"continuing {folder.path} at step {first} of {total}")
                Controller(folder, config, team, progress, stop, total=total).fit(first)
                progress.event(f"done: {folder.path}")
            finally:
                progress.close()
    return Run(folder.path)


def _agree(facts: dict[str, Facts]) -> int:
    """The run's length, on which all agents agree as they do on the data."""
    if len({f.data_sha256 for f in facts.values()}) > 1:
        seen = ", ".join(f"{a} on {f.host}: {f.data_sha256[:12]}" for a, f in facts.items())
        raise DataError(f"the agents do not see the same training images ({seen}); give every node the same data")
    return next(iter(facts.values())).total_steps


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
        "command": sys.argv,
        "commit": commit(),
        "seed": config.seed,
        "team": config.team,
        "threads_per_agent": config.threads_per_agent,
        "agents": {name: asdict(f) for name, f in facts.items()},
        "identical_bytes": "same wheels, CPU family and threads_per_agent" if on_cpu else "data order and noise only",
    }


def commit() -> str | None:
    """The clone's git commit, with ``+changes`` when files differ from it; None outside a checkout."""
    clone = Path(__file__).resolve().parent.parent
    try:
        args = ["git", "-C", str(clone), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(args, capture_output=True, text=True, check=True, timeout=5).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
