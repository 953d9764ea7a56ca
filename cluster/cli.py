"""The ``sparring`` command: typed functions become commands. Their logic lives elsewhere; what is slow is imported late."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from cluster.arguments import base_of, decimals
from cluster.errors import SparringError, UsageError
from cluster.settings import Settings

if TYPE_CHECKING:
    from cluster.run_config import RunConfig


@dataclass(frozen=True)
class Output:
    """How a command answers."""

    json: bool = False
    """Print one JSON object on stdout at the end (progress goes to stderr)."""
    quiet: bool = False
    """No progress."""
    debug: bool = False
    """Show the traceback of an error."""


Out = Annotated[Output, arg(name="")]


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
    dry_run: bool = False
    """Show configuration, placement, memory, exchange and time, and stop."""
    output: Out = field(default_factory=Output)


def demo(*, runs_dir: Path = Path("runs"), output: Out = Output()) -> None:
    """Train two peers on real images on this machine and show how robust they become."""
    from cluster import demo as implementation

    result = implementation.demo(runs_dir=runs_dir, quiet=output.quiet)
    _answer(output, result, implementation.show)


def doctor(*, output: Out = Output()) -> None:
    """Check this machine: Python, torch, CUDA, Ray, ports, disk, token."""
    from cluster.doctor import checks

    found = []
    for check in checks():
        found.append(check)
        if not output.json:
            print(f"{check.status:4}  {check.name:8}  {check.text}", flush=True)
    if output.json:
        print(json.dumps({"checks": [c._asdict() for c in found]}))
    if any(c.status == "fail" for c in found):
        raise SystemExit(1)


def train(argv: Sequence[str]) -> None:
    """Train one run: a RECIPE, a METHOD (on digits), or -c run.yaml; then any setting as a flag."""
    recipe, base, rest = base_of(argv)
    prog = "sparring train" + (f" {argv[0]}" if base and not argv[0].startswith("-") else " RECIPE|METHOD|-c FILE")
    known = base or Settings()
    description = (
        "Train one run." if base else (train.__doc__ or "") + " 'sparring train METHOD --help' adds the method's own."
    )
    command = tyro.cli(Train, default=Train(config=known), args=rest, prog=prog, description=description)
    if base is None or recipe is None:
        raise UsageError("train needs a recipe or a method first: sparring train mat --peers 2. See: sparring recipes")
    from cluster import launch
    from cluster.plan import dry_run

    config: RunConfig = command.config.absolute()  # type: ignore[attr-defined]  # a Settings only when there is no recipe
    if command.dry_run:
        _answer(command.output, dry_run(config), lambda plan: print(plan["text"]))
        return
    for line in launch.changes(recipe.absolute(), config) if not command.output.quiet else []:
        print(line, file=sys.stderr)
    run = launch.train(
        config,
        runs_dir=command.runs_dir,
        name=command.name,
        resume_if_exists=command.resume_if_exists,
        quiet=command.output.quiet,
    )
    _finished(command.output, run)


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
    _finished(output, launch.resume(run, overrides=overrides, quiet=output.quiet))


def evaluate(
    run: Positional[Path],
    *,
    attacks: str = "clean,pgd-20",
    threat: UseAppendAction[tuple[str, ...]] = (),
    agent: UseAppendAction[tuple[str, ...]] = (),
    checkpoint: Literal["best", "last"] = "best",
    examples: int | None = None,
    name: str | None = None,
    output: Out = Output(),
) -> None:
    """Attack a run's networks on the test images.

    Args:
        run: The run's folder.
        attacks: Comma-separated: clean, fgsm, pgd-K, pgd-KxR, margin-pgd-K.
        threat: NORM:EPS such as linf:8/255 or l2:0.5; repeat for a curve or several norms. Default: the run's own.
        agent: Role to evaluate; repeat for several. Default: the method's products.
        checkpoint: Best on the held-out images, or last.
        examples: First so many test images only.
        name: Name of the evaluation's folder.
    """
    from cluster import display
    from cluster.evaluation import evaluate_run
    from cluster.run_folder import RunFolder

    say = (lambda text: None) if output.quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    report = evaluate_run(
        RunFolder.open(run),
        attacks=attacks.split(","),
        threats=threat,
        agents=agent,
        checkpoint=checkpoint,
        examples=examples,
        name=name,
        progress=say,
    )
    _answer(output, report, display.evaluation)


def runs(*, runs_dir: Path = Path("runs"), output: Out = Output()) -> None:
    """List all runs."""
    from cluster import listing

    _answer(output, {"runs": listing.runs(runs_dir)}, listing.show_runs)


def methods(*, output: Out = Output()) -> None:
    """List all methods."""
    from cluster import listing

    _answer(output, {"methods": listing.methods()}, listing.show_methods)


def recipes(name: Positional[str | None] = None, *, output: Out = Output()) -> None:
    """List all recipes, or print one as YAML for 'sparring train -c'."""
    from cluster import run_config
    from cluster.recipes import RECIPES, recipe

    if name is None:
        _answer(output, {"recipes": sorted(RECIPES)}, lambda r: print("\n".join(r["recipes"])))
    else:
        config = recipe(name)
        _answer(output, config.to_dict(), lambda r: print(run_config.dump(config), end=""))


def fsck(run: Positional[Path], *, output: Out = Output()) -> None:
    """Check every file of every checkpoint of a run against its sha256."""
    from cluster import listing

    report = listing.fsck(run)
    _answer(output, report, listing.show_fsck)
    if report["problems"]:
        raise SystemExit(5)


COMMANDS: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (demo, doctor, train, resume, evaluate, runs, recipes, methods, fsck)
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and turn errors into a sentence and an exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0
    debug = "--debug" in args
    try:
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"command {args[0]!r} is unknown.{hint} Commands: {', '.join(COMMANDS)}")
        rest = decimals(args[1:])
        if args[0] == "train":
            train(rest)
        else:
            tyro.cli(COMMANDS[args[0]], args=rest, prog=f"sparring {args[0]}")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2
    except KeyboardInterrupt:
        print("stopped at once; continue a run with: sparring resume RUN", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as `head`, has seen enough
        return 0
    except Exception as error:
        if debug:
            raise
        code = error.code if isinstance(error, SparringError) else 2 if isinstance(error, ValueError) else 1
        name = "" if code != 1 else f"{type(error).__name__}: "
        print(f"sparring: {name}{error}" + ("" if code != 1 else " (--debug shows where)"), file=sys.stderr)
        return code
    return 0


def _overview() -> str:
    lines = [f"  {name:9} {(f.__doc__ or '').strip().splitlines()[0]}" for name, f in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sparring COMMAND ...",
            "",
            "Trains image classifiers that make each other robust to adversarial examples.",
            "",
            *lines,
            "",
            "First steps: sparring demo. Help of a command: sparring COMMAND --help",
        ]
    )


def _answer(output: Output, result: dict[str, Any], show: Callable[[dict[str, Any]], None]) -> None:
    if output.json:
        print(json.dumps(result))
    else:
        show(result)


def _finished(output: Output, run: Any) -> None:
    from cluster import listing

    _answer(output, {"run": str(run.path), "agents": run.agents}, listing.show_finished)
