"""Commands that begin or continue a run. What is slow is imported late."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg

from cluster.arguments import base_of, searched
from cluster.errors import UsageError
from cluster.output import Out, Output, answer, say
from cluster.settings import Settings
from cluster.startup import Startup

if TYPE_CHECKING:
    from cluster.run_config import RunConfig

C = TypeVar("C", "Train", "Pretrain", "Tune")


@dataclass(frozen=True)
class Train:
    """Train one run."""

    config: Annotated[Settings, arg(name="")]
    name: str | None = None
    """Name of the run's folder; default the recipe's name and the next number."""
    runs_dir: Path = Path("runs")
    """Folder of all runs."""
    resume_if_exists: bool = False
    """Continue the run when --name exists."""
    report: bool = True
    """Make report.html at the end."""
    train_teachers: bool = False
    """First train the teachers that the recipe needs and that are not given, into the same folder of runs."""
    dry_run: bool = False
    """Show configuration, placement, memory, exchange and time, and stop."""
    output: Out = field(default_factory=Output)


@dataclass(frozen=True)
class Pretrain:
    """Train, evaluate and publish one network."""

    config: Annotated[Settings, arg(name="")]
    workers: int = 1
    """Processes that share every batch."""
    publish_as: Annotated[str | None, arg(name="as")] = None
    """Name of the published model; by default method, data and network."""
    name: str | None = None
    """Name of the run's folder; default the recipe's name and the next number."""
    runs_dir: Path = Path("runs")
    """Folder of all runs."""
    models_dir: Path = Path("models")
    """Folder of all models."""
    resume_if_exists: bool = False
    """Continue the run when --name exists."""
    output: Out = field(default_factory=Output)


@dataclass(frozen=True)
class Tune:
    """Search settings of a recipe; --search.PATH 'loguniform(1, 10)' says what varies, else what the method names."""

    config: Annotated[Settings, arg(name="")]
    train_teachers: bool = False
    """First train the teachers that the recipe needs and that are not given, into the same folder of runs."""
    trials: int = 16
    """Runs to make; a grid makes one per combination."""
    scheduler: Literal["asha", "pbt", "fifo"] = "asha"
    """asha stops bad trials early; pbt lets bad ones take over from good ones and changes values on the way; fifo does neither."""
    sampler: Literal["random", "tpe", "grid"] = "random"
    """How values are chosen; tpe is Optuna's."""
    objective: str = "w-robust"
    """Held-out robust, clean or w-robust (half and half; w-robust:0.7 counts robust more), or AGENT/TERM, or -AGENT/TERM to make it small;
    two with a comma are averaged and shown as a Pareto front."""
    share_teachers: bool = True
    """Trials share what frozen teachers say to clean batches."""
    concurrent: int | None = None
    """Trials at a time, at most; default as many as fit. Not with pbt, whose trials wait for each other."""
    time_budget: float | None = None
    """Seconds after which no more is run; --resume goes on."""
    resume_if_exists: Annotated[bool, arg(aliases=["--resume"])] = False
    """Go on with the search --name if there is one: no trial that ended runs again."""
    name: str | None = None
    """Name of the search's folder."""
    runs_dir: Path = Path("runs")
    """Folder of all runs."""
    output: Out = field(default_factory=Output)


def tune(argv: Sequence[str]) -> None:
    """Search temperatures, balance weights and any other setting of a recipe with Ray Tune."""
    wanted, rest = searched(argv)
    help_only = not rest or {"-h", "--help"} & set(rest)
    placed = any(a.startswith(("--team", "--address")) for a in rest)
    if not help_only and not placed and not _on_a_cluster_or_gpu():
        rest = [*rest, "--team=local"]  # a trial without GPUs is cheapest as one process
    command, config = asked(rest, tune, Tune, example="mtard --trials 8 --search.method.temperature 'uniform(1, 10)'")
    from cluster import search as implementation
    from cluster import search_report
    from trainers import search as spaces

    found = implementation.Search(
        config=config,
        spaces={**type(config.method).SEARCH, **{k: spaces.parse(v) for k, v in wanted.items()}},
        **{
            k: getattr(command, k)
            for k in ("trials", "scheduler", "sampler", "objective", "share_teachers", "concurrent")
        },
    )
    folder = implementation.tune(
        found,
        runs_dir=command.runs_dir,
        name=command.name,
        resume=command.resume_if_exists,
        time_budget=command.time_budget,
        say=say(command.output),
    )
    answer(command.output, search_report.summary(folder, implementation.results_of(folder)), search_report.show_summary)


def _on_a_cluster_or_gpu() -> bool:
    """Whether a trial's agents could have GPUs of their own."""
    import torch

    from cluster.run_folder import SUBMITTED

    return SUBMITTED in os.environ or torch.cuda.is_available()


def train(argv: Sequence[str]) -> None:
    """Train one run: a RECIPE, a METHOD (on digits), or -c run.yaml; then any setting as a flag."""
    command, config = asked(
        argv,
        train,
        Train,
        example="mat --peers 2",
        shortcut="--peers M is short for --method.peers M, --wait S for --placement.wait S.",
    )
    from cluster import launch
    from cluster.plan import dry_run

    if command.dry_run:
        answer(command.output, dry_run(config), lambda plan: print(plan["text"]))
        return
    run = launch.train(
        config,
        startup=Startup.of_process(),
        runs_dir=command.runs_dir,
        name=command.name,
        resume_if_exists=command.resume_if_exists,
        quiet=command.output.quiet,
    )
    _finished(command.output, run, report=command.report)


def pretrain(argv: Sequence[str]) -> None:
    """Train one network, data-parallel, by Ray Train, evaluate it and publish it with a card: a teacher for others."""
    command, config = asked(argv, pretrain, Pretrain, example="at --workers 2")
    from cluster import card
    from cluster import pretrain as implementation

    result = implementation.pretrain(
        config,
        workers=command.workers,
        runs_dir=command.runs_dir,
        models_dir=command.models_dir,
        name=command.name,
        publish_as=command.publish_as,
        resume_if_exists=command.resume_if_exists,
        quiet=command.output.quiet,
    )
    answer(command.output, result, card.show)


def resume(
    run: Positional[Path],
    *,
    address: str | None = None,
    team: Literal["ray", "local"] | None = None,
    output: Out = Output(),
) -> None:
    """Continue an interrupted run to the same result.

    Args:
        run: The run's folder.
        address: Another Ray cluster than the run had before (host:port).
        team: ray or local, when other than before.
    """
    from cluster import launch

    startup = Startup.of_process()
    overrides = {k: v for k, v in (("address", address), ("team", team)) if v is not None}
    _finished(output, launch.resume(run, overrides=overrides, quiet=output.quiet, startup=startup), report=True)


def _options(config: RunConfig) -> str:
    """The method's own flags, which stand far below the common ones."""
    from dataclasses import fields

    names = [f"--method.{f.name.replace('_', '-')}" for f in fields(config.method)]
    return f" Options of the method, at the end: {', '.join(names)}." if names else ""


def asked(argv: Sequence[str], ask: Any, kind: type[C], *, example: str, shortcut: str = "") -> tuple[C, RunConfig]:
    """The command as asked for, and its run's configuration; says what differs from the recipe.

    Raises:
        UsageError: no recipe, or what ``launch.check`` refuses.
    """
    verb = ask.__name__
    recipe, base, rest = base_of(argv, verb)
    prog = f"sparring {verb}" + (f" {argv[0]}" if base and not argv[0].startswith("-") else " RECIPE|METHOD|-c FILE")
    description = (
        f"{kind.__doc__} {shortcut}{_options(base)}"
        if base
        else f"{ask.__doc__} Recipes set their own defaults, and methods add flags: 'sparring {verb} at --help' shows both."
    )
    command = tyro.cli(kind, default=kind(config=base or Settings()), args=rest, prog=prog, description=description)
    if base is None or recipe is None:
        raise UsageError(f"{verb} needs a recipe or a method first: sparring {verb} {example}. See: sparring recipes")
    from cluster import launch, teachers
    from cluster.values import differences

    chosen: Any = command.config  # a RunConfig, since there is a recipe
    dry = isinstance(command, Train) and command.dry_run
    if isinstance(command, Train | Tune) and not dry and teachers.wanted(chosen, command.train_teachers):
        chosen = teachers.trained(chosen, runs_dir=command.runs_dir, quiet=command.output.quiet)
    config: RunConfig = chosen.absolute()
    launch.check(config)
    for line in differences(recipe.absolute().to_dict(), config.to_dict()) if not command.output.quiet else []:
        print(line, file=sys.stderr)
    return command, config


def _finished(output: Output, run: Any, *, report: bool) -> None:
    from cluster import listing, reporting

    page = reporting.report([run.path], say=say(output))["report"] if report else None
    answer(output, {"run": str(run.path), "agents": run.agents, "report": page}, listing.show_finished)
