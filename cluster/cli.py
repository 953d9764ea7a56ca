"""The ``sparring`` command: typed functions become commands. Their logic lives elsewhere; what is slow is imported late."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg

from cluster.arguments import base_of
from cluster.cli_evaluation import evaluate, export, report, verify
from cluster.errors import UsageError
from cluster.output import Out, Output, answer, say
from cluster.settings import Settings

if TYPE_CHECKING:
    from cluster.run_config import RunConfig


C = TypeVar("C", "Train", "Pretrain")


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


def demo(*, runs_dir: Path = Path("runs"), output: Out = Output()) -> None:
    """Train two peers on real images on this machine and show how robust they become."""
    from cluster import demo as implementation

    result = implementation.demo(runs_dir=runs_dir, quiet=output.quiet)
    answer(output, result, implementation.show)


def doctor(*, output: Out = Output()) -> None:
    """Check this machine: Python, torch, CUDA, Ray, ports, disk, token."""
    from cluster import doctor as implementation

    if not implementation.show(as_json=output.json):
        raise SystemExit(1)


def train(argv: Sequence[str]) -> None:
    """Train one run: a RECIPE, a METHOD (on digits), or -c run.yaml; then any setting as a flag."""
    command, config = _asked(
        argv,
        "train",
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
        runs_dir=command.runs_dir,
        name=command.name,
        resume_if_exists=command.resume_if_exists,
        quiet=command.output.quiet,
    )
    _finished(command.output, run, report=command.report)


def pretrain(argv: Sequence[str]) -> None:
    """Train one network, data-parallel, by Ray Train, evaluate it and publish it with a card: a teacher for others."""
    command, config = _asked(argv, "pretrain", Pretrain, example="at --workers 2")
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


def publish(
    run: Positional[Path],
    *,
    name: Annotated[str, arg(name="as")],
    agent: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    models_dir: Path = Path("models"),
    output: Out = Output(),
) -> None:
    """Copy a run's network with its card into models/NAME/VERSION, which never changes.

    Args:
        run: The run's folder.
        name: Of the model: lower-case letters, digits, '.', '_' and '-'.
        agent: Role, where the method has several products; ensemble: all of them as one network.
        checkpoint: Best on the held-out images, or last.
        models_dir: Folder of all models.
    """
    from agents import model_folder
    from cluster import card

    version = card.publish(run, agent=agent, name=name, models_dir=models_dir, checkpoint=checkpoint)
    answer(output, {"model": str(version), "card": model_folder.card(version)}, card.show)


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

    overrides = {k: v for k, v in (("address", address), ("team", team)) if v is not None}
    _finished(output, launch.resume(run, overrides=overrides, quiet=output.quiet), report=True)


def runs(*, runs_dir: Path = Path("runs"), output: Out = Output()) -> None:
    """List all runs."""
    from cluster import listing

    answer(output, {"runs": listing.runs(runs_dir)}, listing.show_runs)


def methods(*, output: Out = Output()) -> None:
    """List all methods."""
    from cluster import listing

    answer(output, {"methods": listing.methods()}, listing.show_methods)


def recipes(name: Positional[str | None] = None, *, output: Out = Output()) -> None:
    """List all recipes, or print one as YAML for 'sparring train -c'."""
    from cluster import listing, run_config
    from cluster.recipes import RECIPES, recipe

    if name is None:
        answer(output, {"recipes": sorted(RECIPES)}, listing.show_recipes)
    else:
        config = recipe(name)
        about = listing.about(config)
        answer(
            output, config.to_dict() | about, lambda r: print(listing.comments(about) + run_config.dump(config), end="")
        )


def fsck(run: Positional[Path], *, output: Out = Output()) -> None:
    """Check every file of every checkpoint of a run against its sha256."""
    from cluster import listing

    report = listing.fsck(run)
    answer(output, report, listing.show_fsck)
    if report["problems"]:
        raise SystemExit(5)


COMMANDS: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (
        *(demo, doctor, train, resume, pretrain, evaluate, verify, publish),
        *(report, runs, recipes, methods, fsck, export),
    )
}
RUNS = (train, pretrain)  # begin with a recipe, whose settings are their flags


def _options(config: RunConfig) -> str:
    """The method's own flags, which stand far below the common ones."""
    from dataclasses import fields

    names = [f"--method.{f.name.replace('_', '-')}" for f in fields(config.method)]
    return f" Options of the method, at the end: {', '.join(names)}." if names else ""


def _asked(argv: Sequence[str], verb: str, kind: type[C], *, example: str, shortcut: str = "") -> tuple[C, RunConfig]:
    """The command as asked for, and its run's configuration; says what differs from the recipe.

    Raises:
        UsageError: no recipe, or what ``launch.check`` refuses.
    """
    recipe, base, rest = base_of(argv, verb)
    prog = f"sparring {verb}" + (f" {argv[0]}" if base and not argv[0].startswith("-") else " RECIPE|METHOD|-c FILE")
    summary = COMMANDS[verb].__doc__ or ""
    description = (
        f"{kind.__doc__} {shortcut}{_options(base)}"
        if base
        else f"{summary} Recipes set their own defaults, and methods add flags: 'sparring {verb} at --help' shows both."
    )
    command = tyro.cli(kind, default=kind(config=base or Settings()), args=rest, prog=prog, description=description)
    if base is None or recipe is None:
        raise UsageError(f"{verb} needs a recipe or a method first: sparring {verb} {example}. See: sparring recipes")
    from cluster import launch, teachers

    asked: Any = command.config  # a RunConfig, since there is a recipe
    if isinstance(command, Train) and not command.dry_run and teachers.wanted(asked, command.train_teachers):
        asked = teachers.trained(asked, runs_dir=command.runs_dir, quiet=command.output.quiet)
    config: RunConfig = asked.absolute()
    launch.check(config)
    for line in launch.changes(recipe.absolute(), config) if not command.output.quiet else []:
        print(line, file=sys.stderr)
    return command, config


def _finished(output: Output, run: Any, *, report: bool) -> None:
    from cluster import listing, reporting

    page = reporting.report([run.path], say=say(output))["report"] if report else None
    answer(output, {"run": str(run.path), "agents": run.agents, "report": page}, listing.show_finished)
