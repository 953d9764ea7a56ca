"""A command that begins a run, as asked for: its flags are those of a recipe, read once the recipe is known."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from sparring.cluster.commands.output import Output
from sparring.cluster.config.settings import Own, Settings
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


@dataclass(frozen=True, slots=True)
class Begun:
    """What the first words of a command line mean."""

    recipe: RunConfig  # as named
    config: (
        RunConfig  # what the flags start from: the recipe with the asked number of peers, and an entry for each agent
    )
    flags: list[str]  # the rest


def begun(argv: Sequence[str], verb: str) -> Begun | None:
    """The recipe and what stands behind it; None where help is asked for before any recipe.

    Raises:
        UsageError: a flag stands first.
        ValueError: no such recipe.
    """
    args = list(argv)
    if not args or args[0] in ("-h", "--help"):
        return None
    from sparring.cluster.config import run_config
    from sparring.cluster.config.recipes import recipe

    if args[0] in ("-c", "--config"):
        if len(args) < 2:
            raise UsageError(f"-c needs a file: sparring {verb} -c run.yaml")
        named, flags = run_config.load(Path(args[1])), args[2:]
    elif args[0].startswith("-"):
        raise UsageError(f"the recipe or method comes first, before {args[0]}: sparring {verb} at {' '.join(args)}")
    else:
        named, flags = recipe(args[0]), args[1:]
    peers, flags = _peers(flags)
    config = named if peers is None else named.replace({"peers": peers})
    flags = [re.sub(r"^--wait(?==|$)", "--placement.wait", flag) for flag in flags]
    roles = {role: config.agents.get(role, Own()) for role in config.networks()}  # so that each has its flags
    return Begun(named, replace(config, agents=roles), flags)


def _peers(args: Sequence[str]) -> tuple[int | None, list[str]]:
    """``--peers M`` taken out of the flags: it decides which roles, and so which flags, there are."""
    rest: list[str] = []
    peers: int | None = None
    flags = iter(args)
    for flag in flags:
        name, equals, value = flag.partition("=")
        if name != "--peers":
            rest.append(flag)
            continue
        value = value if equals else next(flags, "")
        if not value.isdigit():
            raise UsageError(f"--peers {value!r} is not allowed; expected a whole number")
        peers = int(value)
    return peers, rest


def searched(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """``--search.PATH SPACE`` and ``--search.PATH=SPACE`` taken out of the flags: spaces by path, and the rest."""
    spaces: dict[str, str] = {}
    rest: list[str] = []
    args = iter(argv)
    for a in args:
        flag, equals, value = a.partition("=")
        if not flag.startswith("--search."):
            rest.append(a)
            continue
        value = value if equals else next(args, "")
        if not value:
            raise UsageError(f"{flag} needs a space, such as: {flag} 'uniform(1, 10)'")
        path = flag.removeprefix("--search.").replace("-", "_")
        spaces["attack.eps" if path == "eps" else path] = value
    return spaces, rest


def decimals(args: Sequence[str]) -> list[str]:
    """``--eps 8/255`` -> ``--eps 0.0313...``, also behind ``--eps=``; a fraction that follows no flag may be a path."""
    out: list[str] = []
    for a in args:
        flag, equals, value = a.partition("=") if a.startswith("--") else ("", "", a)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)", value)
        after_flag = bool(equals) or (bool(out) and out[-1].startswith("--") and "=" not in out[-1])
        if match and float(match[2]) and after_flag:
            a = f"{flag}{equals}{float(match[1]) / float(match[2])!r}"
        out.append(a)
    return out
