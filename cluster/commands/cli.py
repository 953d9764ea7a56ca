"""The ``sparring`` command: typed functions become commands. Their logic lives elsewhere; what is slow is imported late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from sparring.cluster.commands.deploy import deploy
from sparring.cluster.commands.evaluation import evaluate, report, verify
from sparring.cluster.commands.frontier import frontier
from sparring.cluster.commands.output import Out, Output, answer, say
from sparring.cluster.commands.serve import serve
from sparring.cluster.commands.sharing import export, publish, pull, push
from sparring.cluster.commands.training import pretrain, resume, train, tune
from sparring.cluster.machines import doctor as doctors
from sparring.cluster.runs import comparing, listing
from sparring.cluster.scaffolds import new as scaffolds
from sparring.cluster.serving.options import Roll
from sparring.trainers.config import DataConfig


def demo(*, runs_dir: Path = Path("runs"), output: Out = Output()) -> None:
    """Train two peers on real images on this machine and show how robust they become."""
    from sparring.cluster.commands import demo as implementation

    result = implementation.demo(runs_dir=runs_dir, quiet=output.quiet)
    answer(output, result, implementation.show)


def doctor(*, fix: bool = False, output: Out = Output()) -> None:
    """Check this machine: Python, torch, CUDA, Ray, ports, disk, token.

    Args:
        fix: Show the commands that would mend what is not ok; nothing is changed.
    """
    result = doctors.examine((lambda line: None) if output.json else (lambda line: print(line, flush=True)))
    answer(output, result, doctors.show_fixes if fix else doctors.show_that_there_are_fixes)
    if any(check["status"] == "fail" for check in result["checks"]):
        raise SystemExit(1)


def rollout(
    model: Positional[str],
    *,
    change: Annotated[Roll, arg(name="")] = Roll(),
    models_dir: Path = Path("models"),
    output: Out = Output(),
) -> None:
    """Which version of a model answers, for every service that serves it: canary, shadow, and the way back.

    Args:
        model: NAME in the folder of all models. Without a flag what it does now is shown.
        change: What is to change.
        models_dir: Folder of all models.
    """
    from sparring.cluster.serving import rollout as rollouts

    folder = models_dir / model
    answer(output, rollouts.result(folder, rollouts.roll(folder, change)), rollouts.show)


def runs(
    words: Positional[tuple[str, ...]] = (),
    *,
    sort: Literal["name", "method", "step", "best", "begun"] = "name",
    runs_dir: Path = Path("runs"),
    output: Out = Output(),
) -> None:
    """List runs: all, or those with every given word in their name or method.

    Args:
        words: Parts of a name or a method.
        sort: By name or method; by saved step, best held-out accuracy or begin, the largest or newest first.
        runs_dir: Folder of all runs, or the URI to which they are mirrored.
    """
    found = listing.chosen(listing.runs(runs_dir), words, sort)
    answer(output, {"runs": found}, lambda result: listing.show_runs(result, words))


def compare(runs: Positional[tuple[Path, ...]], *, runs_dir: Path = Path("runs"), output: Out = Output()) -> None:
    """Show which settings of runs differ, and what they came to.

    Args:
        runs: Run folders, or names in the folder of all runs.
        runs_dir: Folder of all runs.
    """
    answer(output, comparing.compare(runs, runs_dir=runs_dir), comparing.show)


def methods(*, output: Out = Output()) -> None:
    """List all methods."""
    answer(output, {"methods": listing.methods()}, listing.show_methods)


def recipes(name: Positional[str | None] = None, *, output: Out = Output()) -> None:
    """List all recipes, or print one as YAML for 'sparring train -c'."""
    if name is None:
        table = listing.recipes()
        answer(output, {"recipes": [r["name"] for r in table], "table": table}, listing.show_recipes)
        return
    from sparring.cluster.config import run_config
    from sparring.cluster.config.recipes import recipe

    config = recipe(name)
    about = listing.about(config)
    answer(output, config.to_dict() | about, lambda r: print(listing.comments(about) + run_config.dump(config), end=""))


def new(kind: Positional[scaffolds.Kind], name: Positional[str], *, out: Path = Path(), output: Out = Output()) -> None:
    """Write a commented method, network, data set or recipe of your own, and its test.

    Args:
        kind: What is written.
        name: Of the file, lower-case letters, digits and '_'; nothing is overwritten.
        out: Folder to write into.
    """
    answer(output, scaffolds.write(kind, name, out), scaffolds.show)


def fsck(run: Positional[Path], *, output: Out = Output()) -> None:
    """Check every file of every checkpoint of a run against its sha256."""
    report = listing.fsck(run)
    answer(output, report, listing.show_fsck)
    if report["problems"]:
        raise SystemExit(5)


@dataclass(frozen=True)
class Where:
    """The images of a data set."""

    root: str = "data"
    """Folder that holds them, or its URI (s3://bucket/imagenet)."""
    cache: str = "~/.cache/sparring"
    """Folder for the index and for what the check sees."""


def data(
    action: Positional[Literal["check"]],
    name: Positional[str],
    *,
    data: Where = Where(),
    workers: int | None = None,
    again: bool = False,
    output: Out = Output(),
) -> None:
    """Decode every image of a data set once, before any training, and name those that cannot be.

    Args:
        action: check: exit code 4 if an image is bad.
        name: imagenet, folder, tar, parquet or generated:N.
        data: Where they lie.
        workers: Processes that decode. Default: one for each core.
        again: Also look at images that were looked at before and whose files are as they were.
    """
    from sparring.cluster.datasets import check as checking

    config = DataConfig(name=name, root=data.root, cache=data.cache)
    result = checking.check(config, workers=workers, again=again, say=say(output))
    answer(output, result, checking.show)
    if result["bad"]:
        raise SystemExit(4)


COMMANDS: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (
        *(demo, doctor, train, resume, pretrain, tune, frontier, evaluate, verify, publish, serve, rollout),
        *(deploy, report, runs, compare, recipes, methods, new, data, fsck, export, push, pull),
    )
}
RUNS = (
    train,
    pretrain,
    tune,
    frontier,
    evaluate,
    serve,
    deploy,
)  # read their own flags: those of a recipe, or a dataclass's
