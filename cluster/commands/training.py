"""Commands that begin or continue a run. What is slow is imported late."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from sparring.cluster.commands.asking import Verb, asked, say_differences, searched
from sparring.cluster.commands.output import Out, Output, answer, say
from sparring.cluster.config.settings import Settings
from sparring.cluster.machines.stop import at_most
from sparring.cluster.runs import listing
from sparring.cluster.training.startup import Startup
from sparring.trainers import search as spaces

if TYPE_CHECKING:
    from sparring.cluster.config.run_config import RunConfig
    from sparring.cluster.runs.run import Run
    from sparring.cluster.search.settings import Search


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
    time_budget: float | None = None
    """Seconds after which the run is saved and stops (exit 130), to be continued."""
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
    time_budget: float | None = None
    """Seconds after which training stops (exit 130); what is committed is kept."""
    resume_if_exists: bool = False
    """Continue the run when --name exists."""
    output: Out = field(default_factory=Output)


@dataclass(frozen=True)
class Tune:
    """Search settings of a recipe; --search.PATH 'loguniform(1, 10)' says what varies, else what the method names."""

    config: Annotated[Settings, arg(name="")]
    train_teachers: bool = False
    """First train the teachers that the recipe needs and that are not given, into the same folder of runs."""
    trials: int | None = None
    """Runs to make; default 16, and of a grid one per combination."""
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


def train(argv: Sequence[str]) -> None:
    """Train one run: a RECIPE, a METHOD (on digits), or -c run.yaml; then any setting as a flag."""
    short = "--peers M is short for --method.peers M, --wait S for --placement.wait S."
    command, chosen = asked(argv, Train, Verb("train", train.__doc__, example="mat --peers 2", shortcuts=short))
    from sparring.cluster.models.initial import as_begun, resolved
    from sparring.cluster.training import launch
    from sparring.cluster.training.job import Circumstances
    from sparring.cluster.training.plan import dry_run

    if not command.dry_run:
        chosen = _with_teachers(chosen, command)
    if command.resume_if_exists and command.name and not command.dry_run:
        chosen = as_begun(chosen, command.runs_dir / command.name)
    config = resolved(chosen)
    launch.check(config)
    say_differences(argv, config, command.output)
    if command.dry_run:
        answer(command.output, dry_run(config), lambda plan: print(plan["text"]))
        return
    with at_most(command.time_budget):
        run = launch.train(
            config,
            runs_dir=command.runs_dir,
            name=command.name,
            resume_if_exists=command.resume_if_exists,
            how=Circumstances(quiet=command.output.quiet, startup=Startup.of_process()),
        )
    _finished(command.output, run, report=command.report)


def resume(
    run: Positional[Path],
    *,
    address: str | None = None,
    team: Literal["ray", "local"] | None = None,
    time_budget: float | None = None,
    output: Out = Output(),
) -> None:
    """Continue an interrupted run to the same result.

    Args:
        run: The run's folder.
        address: Another Ray cluster than the run had before (host:port).
        team: ray or local, when other than before.
        time_budget: Seconds after which the run is saved and stops again (exit 130).
    """
    startup = Startup.of_process()
    from sparring.cluster.runs.folder import RunFolder
    from sparring.cluster.training import launch
    from sparring.cluster.training.job import Circumstances

    folder = RunFolder.open(run)
    elsewhere = {k: v for k, v in (("address", address), ("team", team)) if v is not None}
    config = folder.config.replace(elsewhere)
    with at_most(time_budget):
        finished = launch.go_on(folder, config, Circumstances(quiet=output.quiet, startup=startup))
    _finished(output, finished, report=True)


def pretrain(argv: Sequence[str]) -> None:
    """Train one network, data-parallel, by Ray Train, evaluate it and publish it with a card: a teacher for others."""
    command, chosen = asked(argv, Pretrain, Verb("pretrain", pretrain.__doc__, example="at --workers 2"))
    from sparring.cluster.models import card
    from sparring.cluster.models.initial import as_begun, resolved
    from sparring.cluster.pretraining import pretrain as pretraining
    from sparring.cluster.training import launch

    if command.resume_if_exists and command.name:
        chosen = as_begun(chosen, command.runs_dir / command.name)
    config = resolved(chosen)
    launch.check(config)
    say_differences(argv, config, command.output)
    with at_most(command.time_budget):
        result = pretraining.pretrain(
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


def tune(argv: Sequence[str]) -> None:
    """Search temperatures, balance weights and any other setting of a recipe with Ray Tune."""
    wanted, rest = searched(argv)
    if _may_be_local(rest):
        rest = [*rest, "--team=local"]  # a trial without GPUs is cheapest as one process
    example = "mtard --trials 8 --search.method.temperature 'uniform(1, 10)'"
    command, chosen = asked(rest, Tune, Verb("tune", tune.__doc__, example=example))
    from sparring.cluster.search import report, search
    from sparring.cluster.search.results import results_of

    config = search.prepared(_with_teachers(chosen, command), command.runs_dir, command.name)
    what = search_of(command, config, wanted)
    search.check(what)
    say_differences(rest, config, command.output)
    folder = search.tune(
        what,
        runs_dir=command.runs_dir,
        name=command.name,
        resume=command.resume_if_exists,
        time_budget=command.time_budget,
        say=say(command.output),
    )
    answer(command.output, report.summary(folder, results_of(folder)), report.show_summary)


def search_of(command: Tune, config: RunConfig, wanted: Mapping[str, str]) -> Search:
    """What is searched: the method's own spaces, and over them those given."""
    from sparring.cluster.search.settings import Search, trials_of

    given = {path: spaces.parse(space) for path, space in wanted.items()}
    searched_for = {**type(config.method).SEARCH, **given}
    trials = trials_of(command.trials, command.sampler, searched_for)
    same = ("scheduler", "sampler", "objective", "share_teachers", "concurrent")
    return Search(config=config, spaces=searched_for, trials=trials, **{k: getattr(command, k) for k in same})


def _may_be_local(args: Sequence[str]) -> bool:
    """Whether trials run here, nobody said how, and no agent could have a GPU of its own."""
    if not args or {"-h", "--help"} & set(args) or any(a.startswith(("--team", "--address")) for a in args):
        return False
    import torch

    from sparring.cluster.runs.folder import SUBMITTED

    return SUBMITTED not in os.environ and not torch.cuda.is_available()


def _with_teachers(config: RunConfig, command: Train | Tune) -> RunConfig:
    """The run with the teachers that it lacks trained first, where that is wanted."""
    from sparring.cluster.training import on_demand

    if not on_demand.wanted(config, command.train_teachers):
        return config
    return on_demand.trained(config, runs_dir=command.runs_dir, quiet=command.output.quiet)


def _finished(output: Output, run: Run, *, report: bool) -> None:
    from sparring.cluster.reports.report import of_finished

    page = of_finished(run.path, say(output)) if report else None
    answer(output, {"run": str(run.path), "agents": run.agents, "report": page}, listing.show_finished)
