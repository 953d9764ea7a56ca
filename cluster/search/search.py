"""``sparring tune``: many runs of one recipe that differ in a few settings, driven by Ray Tune.

    spaces --sampler--> settings of trial i --Tune starts it, one placement group each--> an ordinary run in trials/00i
    every checkpoint of a trial --objective--> scheduler (ASHA, PBT) --> goes on, is stopped, or takes over from a better one

A trial is a run folder, so it continues after any interruption from its own last checkpoint; one that ended has a
``result.json`` and is never run again: a resumed search hears its reports anew.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import to_json, write
from sparring.cluster.config import run_config, tracking
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.config.values import differences
from sparring.cluster.errors import Exists, Infrastructure, Interrupted, SparringError, UsageError, disk
from sparring.cluster.machines import placement, session
from sparring.cluster.machines.whole_runs import bundles_of
from sparring.cluster.models.initial import resolved, vetted, with_commits
from sparring.cluster.runs.folder import NAME, RunFolder, refuse_lost
from sparring.cluster.search import objective, samplers
from sparring.cluster.search import report as search_report
from sparring.cluster.search.results import results_of
from sparring.cluster.search.settings import Search, combinations, compared
from sparring.cluster.team import assemble
from sparring.cluster.terminal import relative
from sparring.cluster.trackers import trackers
from sparring.cluster.training import launch
from sparring.trainers import keeping
from sparring.trainers.search import Uniform


def tune(
    search: Search,
    *,
    runs_dir: Path = Path("runs"),
    name: str | None = None,
    resume: bool = False,
    time_budget: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Run a search, or go on with one; its folder, with ``best/``, ``best.yaml`` and ``search.parquet``.

    Raises:
        UsageError: settings that cannot be searched, or a search of this name with others.
        Exists: a folder of this name, and ``resume`` was not asked for.
        NoResources: not enough for one trial.
        Interrupted: stopped; every finished trial is kept.
        Infrastructure: some trials could not be carried out; they can go on.
    """
    config = prepared(search.config, runs_dir, name)
    search = replace(search, config=_going_on(config, runs_dir, name))
    if search.config != config:
        say(f"{name} goes on by {search.config.checkpoint.name}, as it was begun")
    check(search)
    with disk(lambda: ("Nothing of the search had begun", "the same command again")):
        folder = _folder(search, runs_dir, name, resume=resume)
    drawn = samplers.draw(search, folder)
    length = assemble.specs(search.config, quiet=False)[0].length()
    if session.brings_its_own(search.config.address):
        bundles_of(search.config, [placement.this_machine()], what="a trial")
    with disk(lambda: _kept(folder)), RunFolder(folder).locked(), session.connected(search.config.address):
        wanted = bundles_of(search.config, placement.nodes_alive(), what="a trial")
        if search.config.placement.wait:
            placement.release(placement.reserve(wanted, search.config.placement))  # Tune would wait for ever
        from sparring.cluster.search.tuning import fit

        begun = time.monotonic()
        with _parent(search, folder, say) as close:
            finished, error = fit(search, folder, drawn, wanted, length=length, time_budget=time_budget, say=say)
            told: trackers.Status = "failed" if error else "finished" if finished else "stopped"
            close(told)
    with disk(lambda: _kept(folder)):
        results = conclude(folder, search, finished=finished)
    if not finished:
        wanted_trials = search.trials if drawn is None else len(drawn)
        ended = f"{sum(r['status'] != 'open' for r in results)} of {wanted_trials} trials ended"
        more = f"continue with the same command and --name {folder.name} --resume"
        if error:
            raise Infrastructure(f"trials could not be carried out: {error}; {ended}; {more}")
        if time_budget is None or time.monotonic() - begun < time_budget:
            raise Interrupted(f"stopped with {ended}; {more}")
        if not any(r["reports"] for r in results):
            raise Interrupted(f"the time budget of {time_budget:g} s was used up before any trial reported; {more}")
        say(f"the time budget of {time_budget:g} s is used up with {ended}; {more}")
    return folder


def _kept(folder: Path) -> tuple[str, str]:
    """What is not lost when the disk is full, and the command that goes on."""
    again = f"the same command with --name {folder.name} --resume"
    return f"Every trial in {relative(folder)} goes on from its own last checkpoint", again


@contextmanager
def _parent(search: Search, folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[trackers.Status], None]]:
    """A run of the search's own in trackers that have such, whose children are the trials."""
    names = [name for name in tracking.parsed(search.config.log) if name == "mlflow"]
    settings = {"trials": search.trials, **{f"search.{path}": str(space) for path, space in search.spaces.items()}}
    told = trackers.Trackers(names, folder, settings, say=say)
    status: list[trackers.Status] = ["failed"]
    try:
        yield status.append
    except KeyboardInterrupt:
        status.append("stopped")
        raise
    finally:
        told.finish(status[-1])


def check(search: Search) -> None:
    """Refuse what can be seen to be wrong before a folder or a process is made.

    Raises:
        UsageError: nothing to search, or a combination that does not work.
        ValueError: an unknown setting, or a value in a space that is not allowed.
    """
    if not search.spaces:
        raise UsageError("nothing to search: give at least one --search.PATH 'uniform(1, 10)'")
    for path, space in search.spaces.items():
        if path.startswith(("network", "data", "agents", "placement")) or path in (
            "seed",
            "batch_size",
            "method.peers",
            "lanes",
        ):
            raise UsageError(
                f"--search.{path}: trials share data, networks and seed; method.*, attack.* and optim.* can be searched"
            )
        for value in samplers.ends(space):
            search.config.replace({path: value})
        if search.scheduler == "pbt" and not (isinstance(space, Uniform) and path.startswith(run_config.CHANGEABLE)):
            raise UsageError(
                f"--search.{path}: pbt changes values while a run goes on: a uniform or loguniform range of method.*, attack.* or optim.*"
            )
    if search.scheduler == "pbt" and search.sampler != "random":
        raise UsageError("pbt draws its first values at random: --sampler random")
    if search.config.lanes > 1:
        raise UsageError(f"lanes = {search.config.lanes}: every agent of a trial is one process; search with --lanes 1")
    if search.scheduler == "pbt" and search.concurrent is not None:
        raise UsageError(
            "--concurrent: with pbt all trials wait for each other; those that find no resources take turns by themselves"
        )
    if search.trials < 1 or (search.scheduler == "pbt" and search.trials < 4):
        raise UsageError(f"trials = {search.trials} is too few; at least {4 if search.scheduler == 'pbt' else 1}")
    if search.sampler == "grid":
        samplers.refuse_ranges(search.spaces)
    if search.sampler == "grid" and search.trials < combinations(search.spaces):
        raise UsageError(
            f"trials = {search.trials} leaves out some of the grid's {combinations(search.spaces)} combinations: leave --trials "
            "out, or give fewer values"
        )
    objective.check(search.objective, search.config)
    launch.check(search.config)


def prepared(config: RunConfig, runs_dir: Path, name: str | None) -> RunConfig:
    """Every trial's configuration, its weights found; from the Hub the commits of the search of this name, if there is one."""
    return resolved(with_commits(config, _begun(runs_dir, name) or {}))


def _going_on(config: RunConfig, runs_dir: Path, name: str | None) -> RunConfig:
    """The configuration with the measure of the search of this name, if there is one."""
    known = _begun(runs_dir, name)
    if known is None:
        return config
    keeping.know(runs_dir / str(name))
    keeping.look_through(known, runs_dir / str(name))
    return replace(config, checkpoint=config.checkpoint.going_on(RunConfig.from_dict(known).checkpoint))


def _begun(runs_dir: Path, name: str | None) -> dict[str, Any] | None:
    """The configuration of the search of this name, as plain values."""
    file = runs_dir / (name or "") / "search.json"
    return dict(json.loads(file.read_text())["config"]) if file.is_file() else None


def _folder(search: Search, runs_dir: Path, name: str | None, *, resume: bool) -> Path:
    label = f"{search.config.label}-search"
    refuse_lost(runs_dir)
    if name is None:
        if resume:
            raise UsageError("--resume needs --name: which search is to go on?")
        endings = [p.name.removeprefix(f"{label}-") for p in runs_dir.glob(f"{label}-*")]
        name = f"{label}-{max([int(e) for e in endings if e.isdigit()], default=0) + 1}"
    if not NAME.fullmatch(name):
        raise UsageError(f"--name {name!r} is not allowed; use letters, digits, '.', '_' and '-'")
    folder = (runs_dir / name).resolve()
    file, asked = folder / "search.json", json.loads(to_json(search.to_dict()))
    if folder.exists():
        if not resume:
            raise Exists(
                f"{relative(folder)} exists and is never overwritten; choose another --name, or add --resume to go on with it"
            )
        if not file.is_file():
            raise UsageError(f"{relative(folder)} is not a search (it has no search.json); choose another --name")
        known = compared(json.loads(file.read_text()), asked)
        longer = search.scheduler != "pbt" and known["trials"] < asked["trials"]  # trial i depends on seed and i alone
        differing = differences({**known, "trials": asked["trials"]} if longer else known, asked)
        if differing:
            raise UsageError(f"{relative(folder)} is another search ({'; '.join(differing)}); choose another --name")
        if longer:
            write(file, to_json(asked))
        return folder
    try:
        (folder / "trials").mkdir(parents=True)
        RunFolder(folder).keep(vetted(search.config))
        write(file, to_json(asked))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)  # the name is free again
        raise
    return folder


def conclude(folder: Path, search: Search, *, finished: bool) -> list[dict[str, Any]]:
    """Write what the trials have shown so far: search.parquet, best/, best.yaml, search.html; every trial's result.

    Args:
        finished: no trial is still to come or to go on.

    Raises:
        SparringError: every trial failed; the first one's cause and kind.
    """
    results = results_of(folder)
    failed = [r for r in results if r["status"] == "failed"]
    if finished and failed and len(failed) == len(results):
        kind = next((k for k in SparringError.__subclasses__() if k.code == failed[0]["code"]), SparringError)
        raise kind(f"every trial failed; the first one, {failed[0]['trial']}: {failed[0]['cause']}")
    best = search_report.best_of(results)
    if best is not None:
        search_report.copy_best(folder / "trials" / best["trial"], folder / "best")
        config = RunFolder(folder / "best").config.carried_out_as(None)
        asked = {k: getattr(search.config, k) for k in ("data", "team", "memo")}
        keep = replace(config.checkpoint, keep=search.config.checkpoint.keep)
        write(folder / "best.yaml", run_config.dump(replace(config, checkpoint=keep, **asked)).encode())
    search_report.write_all(folder, search, results, best)
    return results
