"""From a configuration to a finished run: folder, lock, team, loop."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import networks
from agents.fast import slow_bfloat16
from cluster import assemble, images, mirror, teachers
from cluster.controller import Controller
from cluster.environment import environment
from cluster.errors import BrokenCheckpoint, UsageError
from cluster.monitors import Monitors
from cluster.progress import Progress, facts_table
from cluster.recipes import needs
from cluster.run import Run
from cluster.run_config import RunConfig
from cluster.run_folder import RunFolder
from cluster.startup import Startup
from cluster.stop import StopSignal
from cluster.team import Team
from cluster.values import differences, flat
from trainers import datasets


@dataclass(frozen=True)
class Inside:
    """What a run is part of, which is told every checkpoint's accuracies and says how the run is carried out.

    With a placement group, agents take its bundles but the first.
    """

    reported: Callable[[int, dict[str, Any]], None] | None = None
    group: Any = None
    asked: RunConfig | None = None


def train(
    config: RunConfig,
    *,
    runs_dir: Path = Path("runs"),
    name: str | None = None,
    resume_if_exists: bool = False,
    quiet: bool = False,
    inside: Inside = Inside(),
    startup: Startup | None = None,
) -> Run:
    """Train a new run.

    Args:
        startup: since when the first step has been waited for; default now.

    Raises:
        SparringError: see ``cluster/errors.py``; the text says what to do.
    """
    startup = startup or Startup()
    config = config.absolute()
    check(config)
    if config.mirror is not None:
        mirror.Mirror(config.mirror, "")  # a URI that means nothing is said now
    if resume_if_exists:
        if name is None:
            raise UsageError("--resume-if-exists needs --name: without it every run gets a new name")
        if not (runs_dir / name).exists() and config.mirror is not None:
            runs_dir.mkdir(parents=True, exist_ok=True)
            mirror.Mirror(config.mirror, name).pull(runs_dir / name)
        if (runs_dir / name / "config.yaml").exists():
            if config.mirror is not None:
                mirror.Mirror(config.mirror, name).refuse_another(RunFolder.open(runs_dir / name))
            return resume(runs_dir / name, asked=config, quiet=quiet, inside=inside, startup=startup)
    folder = RunFolder.create(runs_dir, name, config)
    mirror.begin(config.mirror, folder)
    return _execute(folder, config, inside, startup, quiet=quiet)


def check(config: RunConfig) -> None:
    """Refuse what can be seen to be wrong before a folder or a process is made.

    Raises:
        UsageError: an unknown network or data set, a missing file, a frozen agent without weights.
    """
    for spec in {config.network, *(own.network for own in config.agents.values() if own.network)}:
        networks.parse(spec)
    datasets.source_of(config.data.name)
    roles = config.method.roles()
    for role in config.networks():
        learns = role in roles and roles[role].learns
        if not learns and (role not in config.agents or config.agents[role].init is None):
            raise UsageError(
                f"{role} does not learn and needs trained weights: --agents.{role.replace('_', '-')}.init RUN (or RUN@AGENT). "
                f"Add --train-teachers to train {needs(config).get(role, 'one')} first, or train one: sparring train at --name teacher"
            )


def resume(
    path: Path,
    *,
    asked: RunConfig | None = None,
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
    inside: Inside = Inside(),
    startup: Startup | None = None,
) -> Run:
    """Continue a run to the same result that it would have had without the interruption.

    Args:
        path: the run's folder.
        asked: the configuration that a repeated ``train`` asks for; it may differ in where and how the run is carried out.
        overrides: such settings alone, by path.
        startup: since when the first step has been waited for; default now.
    """
    startup = startup or Startup()
    folder = RunFolder.open(path)
    config = folder.config.carried_out_as(inside.asked) if inside.asked else folder.config
    if asked is not None:
        config = config.carried_out_as(asked)
        differing = differences(config.to_dict(), asked.to_dict())
        if differing:
            raise UsageError(
                f"run {path} exists with other settings ({'; '.join(differing)}). Continue it as it is with: "
                f"sparring resume {path}, or choose another --name"
            )
    return _execute(folder, config.replace(overrides or {}), inside, startup, quiet=quiet)


def _execute(folder: RunFolder, config: RunConfig, inside: Inside, startup: Startup, *, quiet: bool) -> Run:
    startup.mark("imports and settings")
    with folder.locked():
        first, wrong = folder.checkpoints.newest_whole()
        if wrong and first is None:
            raise BrokenCheckpoint(f"no whole checkpoint in {folder}: {'; '.join(wrong)}")
        if first is not None and first == folder.total_steps and not wrong:
            if not quiet:
                print(f"{folder} is complete already", file=sys.stderr)
            return Run(folder.path)
        try:
            known = teachers.facts(assemble.specs(config, quiet=quiet), folder)
            for line in teachers.warnings(known) if not quiet else []:
                print(line, file=sys.stderr)
            startup.mark("images and weights")
            with (
                StopSignal() as stop,
                assemble.team_of(config, quiet=quiet, folder=folder.path, group=inside.group) as team,
            ):
                startup.mark("agents")
                _train(folder, config, team, stop, known, inside, startup, first=first, wrong=wrong, quiet=quiet)
        except Exception:
            begun = folder.checkpoints.folder.exists()
            if not begun and not inside.reported:  # the name is free again; a search keeps the trial, and why it failed
                shutil.rmtree(folder.path)
            raise
    return Run(folder.path)


def _train(
    folder: RunFolder,
    config: RunConfig,
    team: Team,
    stop: StopSignal,
    known: dict[str, dict[str, Any]],
    inside: Inside,
    startup: Startup,
    *,
    first: int | None,
    wrong: list[str],
    quiet: bool,
) -> None:
    total, facts = images.agreed(team.describe()), next(iter(team.describe().values()))
    if first is not None:
        images.check_same(folder, first, facts.data_sha256)
    folder.checkpoints.folder.mkdir(exist_ok=True)
    folder.checkpoints.drop_after(first)
    folder.rewind_metrics(first or 0)
    progress = Progress(
        folder,
        total=total,
        steps_per_epoch=facts.steps_per_epoch,
        batch_size=config.batch_size,
        first=first or 0,
        quiet=quiet,
        startup=startup,
    )
    monitors = Monitors(classes=facts.classes, total=total)

    def note_environment() -> None:
        folder.write_env(environment(config, team.describe()) | {"teachers": known})

    try:
        for line in [*(f"damaged, going back: {w}" for w in wrong), *facts_table(team.describe())]:
            progress.event(line)
        for line in teachers.lines(known):
            progress.event(line)
        for line in folder.changed_versions(environment(config, team.describe())):
            progress.event(line)
        if config.precision == "bf16" and slow_bfloat16():
            progress.event(
                "this CPU has no units for bfloat16 (avx512_bf16): --precision bf16 is slower here than fp32"
            )
        note_environment()
        if first is not None:
            progress.event(f"{folder} continues at step {first} of {total}")
        heard: Any = {"monitors": monitors, "moved": note_environment, "reported": inside.reported}
        Controller(folder, config, team, progress, stop, total=total, **heard).fit(first)
        results = {f"{a}/{k}": v for a, accuracies in Run(folder.path).agents.items() for k, v in accuracies.items()}
        progress.hparams(flat(config.to_dict()), results)
        progress.event(f"done: {folder}")
    finally:
        progress.close()
