"""A command that begins a run, as asked for: its flags are those of a recipe, read once the recipe is known."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from sparring.cluster.commands.arguments import begun
from sparring.cluster.commands.output import Output
from sparring.cluster.config.settings import Settings
from sparring.cluster.config.values import differences
from sparring.cluster.errors import UsageError

if TYPE_CHECKING:
    from sparring.cluster.config.run_config import RunConfig

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Verb:
    """A command's words: ``Verb("train", "Train one run.", example="mat --peers 2")``."""

    name: str
    about: str | None
    example: str
    shortcuts: str = ""


def asked(argv: Sequence[str], kind: type[C], verb: Verb) -> tuple[C, RunConfig]:
    """The command, and its run's configuration as the flags leave it.

    Args:
        argv: what follows the verb.
        kind: the command's dataclass; its ``config`` is the recipe.

    Raises:
        UsageError: no recipe.
    """
    start = begun(argv, verb.name)
    if start is None:
        about = f"{verb.about} Recipes set their own defaults, and methods add flags: 'sparring {verb.name} at --help' shows both."
        prog = f"sparring {verb.name} RECIPE|METHOD|-c FILE"
        tyro.cli(kind, default=_default(kind, Settings()), args=argv, prog=prog, description=about)
        raise UsageError(
            f"{verb.name} needs a recipe or a method first: sparring {verb.name} {verb.example}. See: sparring recipes"
        )
    prog = (
        f"sparring {verb.name} {argv[0]}"
        if not argv[0].startswith("-")
        else f"sparring {verb.name} RECIPE|METHOD|-c FILE"
    )
    about = f"{kind.__doc__} {verb.shortcuts}{_options(start.config)}"
    command: Any = tyro.cli(kind, default=_default(kind, start.config), args=start.flags, prog=prog, description=about)
    return command, command.config


def say_differences(argv: Sequence[str], config: RunConfig, output: Output) -> None:
    """One line on stderr per setting that is not the recipe's."""
    from sparring.cluster.models.initial import resolved

    start = begun(argv, "")
    if output.quiet or start is None:
        return
    for line in differences(resolved(start.recipe).to_dict(), config.to_dict()):
        print(line, file=sys.stderr)
    if start.recipe.checkpoint.attack == config.checkpoint.attack == "pgd":  # only a file can say so, or leave it out
        print(
            f"networks are compared by {config.checkpoint.name}, as {argv[1]} names no other measure; softened logits inflate it, which "
            "--checkpoint.attack scaled-pgd avoids",
            file=sys.stderr,
        )


def _default(kind: Any, config: Settings) -> Any:
    return kind(config=config)


def _options(config: RunConfig) -> str:
    """The method's own flags, which stand far below the common ones."""
    names = [f"--method.{f.name.replace('_', '-')}" for f in fields(config.method)]
    return f" Options of the method, at the end: {', '.join(names)}." if names else ""
