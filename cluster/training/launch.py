"""From a configuration to a finished run.

train, resume ---> folder and lock ---> Job: what is known before any agent ---> team ---> Controller.fit ---> Run
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sparring.agents import networks
from sparring.agents.precision import slow_bfloat16
from sparring.agents.spec import Facts
from sparring.cluster.config.recipes import needs
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.config.settings import Own
from sparring.cluster.config.values import differences, flat
from sparring.cluster.errors import BrokenCheckpoint, SparringError, UsageError, disk, of_agent, of_disk
from sparring.cluster.machines.stop import StopSignal
from sparring.cluster.models import teachers
from sparring.cluster.models.initial import as_begun, bring, by_content, resolved, vetted
from sparring.cluster.runs import images, mirror, records
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.runs.run import Run
from sparring.cluster.team import assemble
from sparring.cluster.team.team import Team
from sparring.cluster.trackers import installed
from sparring.cluster.training.controller import Controller
from sparring.cluster.training.job import Circumstances, Job
from sparring.cluster.training.monitors import Monitors
from sparring.cluster.training.progress import Progress, facts_table
from sparring.trainers import datasets, keeping, optim
from sparring.trainers.encoded.decoding import Unanswered, Undecodable


def train(
    config: RunConfig,
    *,
    runs_dir: Path = Path("runs"),
    name: str | None = None,
    resume_if_exists: bool = False,
    how: Circumstances | None = None,
) -> Run:
    """Train a new run.

    Args:
        runs_dir: folder of all runs.
        name: of the run's folder; default the recipe's and the next number.
        resume_if_exists: continue the run of that name, if there is one here or in the mirror.
        how: default: told on stderr, its start counted from now.

    Raises:
        SparringError: see ``cluster/errors.py``; the text says what to do.
    """
    how = how or Circumstances()
    if resume_if_exists and name:
        config = as_begun(config, runs_dir / name)
    config = resolved(config)
    check(config)
    if config.mirror is not None:
        mirror.Mirror(config.mirror, "")  # a URI that means nothing is said now
    if resume_if_exists:
        if name is None:
            raise UsageError("--resume-if-exists needs --name: without it every run gets a new name")
        if mirror.found(config.mirror, runs_dir / name):
            return resume(runs_dir / name, asked=config, how=how)
    with disk(lambda: ("Nothing of the run had begun", "the same command again")):
        folder = RunFolder.create(runs_dir, name, config)
    mirror.begin(config.mirror, folder)
    return _execute(folder, config, how)


def check(config: RunConfig) -> None:
    """Refuse what can be seen to be wrong before a folder or a process is made.

    Raises:
        UsageError: an unknown network or data set, a missing file, a frozen agent without weights.
    """
    installed.check(config.log)
    for spec in {config.network, *(own.network for own in config.agents.values() if own.network)}:
        networks.parse(spec)
    datasets.check_name(config.data.name)
    roles = config.method.roles()
    for role in config.networks():
        learns = role in roles and roles[role].learns
        if not learns and (role not in config.agents or config.agents[role].init is None):
            raise UsageError(
                f"{role} does not learn and needs trained weights: --agents.{role.replace('_', '-')}.init RUN (or RUN@AGENT). "
                f"Add --train-teachers to train {needs(config).get(role, 'one')} first, or train one: sparring train at --name teacher"
            )


def resume(path: Path, *, asked: RunConfig | None = None, how: Circumstances | None = None) -> Run:
    """Continue a run to the same result that it would have had without the interruption.

    Args:
        path: the run's folder.
        asked: the configuration that a repeated ``train`` asks for; it may differ in where and how the run is carried out.

    Raises:
        UsageError: it differs in what is computed.
    """
    folder = RunFolder.open(path)
    config = folder.config
    if asked is not None:
        asked, named = replace(asked, checkpoint=asked.checkpoint.going_on(config.checkpoint)), asked
        if asked != named and not (how and how.quiet):
            print(f"{folder} goes on by {config.checkpoint.name}, as it was begun", file=sys.stderr)
        config = by_content(config).carried_out_as(asked)
        differing = differences(config.to_dict(), asked.to_dict())
        if differing:
            raise UsageError(
                f"run {path} exists with other settings ({'; '.join(differing)}). Continue it as it is with: "
                f"sparring resume {path}, or choose another --name"
            )
    return go_on(folder, config, how)


def go_on(folder: RunFolder, config: RunConfig, how: Circumstances | None = None) -> Run:
    """Continue a run in a configuration that computes the same as its own."""
    return _execute(folder, config, how or Circumstances())


def _execute(folder: RunFolder, config: RunConfig, how: Circumstances) -> Run:
    how.startup.mark("imports and settings")
    with disk(folder.kept), folder.locked() as held:
        left_out = records.set_aside(folder.path)
        first, damaged = folder.checkpoints.newest_whole()
        if damaged and first is None:
            raise BrokenCheckpoint(f"no whole checkpoint in {folder}: {'; '.join(damaged)}")
        if first is not None and first == folder.total_steps and not damaged:
            folder.keep(keeping.know(folder.path))  # the user's own, if he has said so
            folder.complete(first)
            mirror.finish(config.mirror, folder, lambda line: print(line, file=sys.stderr))
            if not how.quiet:
                print(f"{folder} is complete already", file=sys.stderr)
            return Run(folder.path)
        try:
            bring(config)
            folder.keep(vetted(config))
            specs = assemble.specs(config, quiet=how.quiet)
            known = teachers.looked_at(specs, folder)
            hashes = images.hashes(specs[0].images, config.data, seed=config.seed)
            job = Job(folder, config, how, first, tuple(damaged), known, hashes, tuple(left_out), held)
            _carry_out(job)
        except Exception as error:
            held.check()  # what a run meets whose folder is gone says nothing, and in its place may be another
            begun = folder.checkpoints.folder.exists()
            if not begun and not how.reported:  # the name is free again; a search keeps the trial, and why it failed
                shutil.rmtree(folder.path, ignore_errors=True)  # a disk may be read-only now
            if of_disk(error, *folder.kept()) is not None:
                with suppress(OSError):
                    folder.checkpoints.sweep()  # room, for whatever is on that disk
            told = of_agent(error, None) if isinstance(error, (Undecodable, Unanswered)) else error
            raise told from None if told is error else error
    return Run(folder.path)


def _carry_out(job: Job) -> None:
    config, how = job.config, job.how
    for line in teachers.warnings(job.teachers) if not how.quiet else []:
        print(line, file=sys.stderr)
    how.startup.mark("images and weights")
    made = assemble.team_of(config, quiet=how.quiet, folder=job.folder.path, group=how.group)
    with StopSignal() as stop, made as team:
        how.startup.mark("agents")
        _train(job, team, stop)


def _train(job: Job, team: Team, stop: StopSignal) -> None:
    agents = team.describe()
    total, facts = images.agreed(agents), next(iter(agents.values()))
    if job.first is not None:
        images.check_same(job.folder, job.first, facts.data_sha256)
    job.folder.checkpoints.folder.mkdir(exist_ok=True)
    job.folder.checkpoints.drop_after(job.first)
    left_out = [*job.left_out, *job.folder.rewind_metrics(job.first or 0)]
    if job.first is not None:
        job.folder.complete(job.first)
    progress = Progress(job, total=total, steps_per_epoch=facts.steps_per_epoch, startup=job.how.startup)
    monitors = Monitors(classes=facts.classes, total=total)
    try:
        for line in [*left_out, *_said_first(job, team)]:
            progress.event(line)
        job.folder.write_env(job.environment(agents))
        if job.first is not None:
            progress.event(f"{job.folder} continues at step {job.first} of {total}")
        Controller(job, team, progress, monitors, stop, total=total).fit()
        final = Run(job.folder.path).agents
        results = {f"{agent}/{k}": v for agent, accuracies in final.items() for k, v in accuracies.items()}
        progress.results(flat(job.config.to_dict()), results)
        mirror.finish(job.config.mirror, job.folder, progress.event)
        progress.event(f"done: {job.folder}")
    except BaseException as error:
        # where nothing can be written any more, or the run is elsewhere, the error is still what is told
        with suppress(OSError, SparringError):
            progress.ended(error)
            job.check()
            job.folder.write_ended(error, step=progress.steps)
        with suppress(OSError):
            progress.close()
        raise
    progress.close()


def _said_first(job: Job, team: Team) -> Iterator[str]:
    """What is to be known before the first step."""
    agents = team.describe()
    yield from (f"damaged, going back: {wrong}" for wrong in job.damaged)
    yield from facts_table(agents)
    yield from teachers.lines(job.teachers)
    yield from job.folder.changed_code()
    began = job.folder.images
    if began is not None and began["test"] != job.images.get("test", began["test"]):
        yield "note: the test images are no longer those with which the run began; evaluations will stop there"
    yield from _never(job.config, agents)
    yield from job.folder.changed_versions(job.environment(agents))
    if job.config.precision == "bf16" and slow_bfloat16():
        yield "this CPU has no units for bfloat16 (avx512_bf16): --precision bf16 is slower here than fp32"


def _never(config: RunConfig, agents: dict[str, Facts]) -> Iterator[str]:
    """What of the schedules lies beyond the run's end, said once where it is the same for all."""
    facts = next(iter(agents.values()))
    epochs = facts.total_steps / facts.steps_per_epoch
    said: dict[str, list[str]] = {}
    for role in (name for name, r in config.method.roles().items() if r.learns):
        own = config.agents.get(role, Own()).optim.over(config.optim)
        for sentence in optim.never(own, epochs):
            said.setdefault(sentence, []).append(role)
    for sentence, roles in said.items():
        yield f"note, {', '.join(roles)}: {sentence}"
    late = [t for t in config.changes if t >= facts.total_steps]
    if late:
        yield f"note: changes at {late} come after the last step, {facts.total_steps}"
