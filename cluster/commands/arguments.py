"""What is read from a command line before its types are known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.cluster.config.settings import Own
from sparring.cluster.errors import UsageError

if TYPE_CHECKING:
    from sparring.cluster.config.run_config import RunConfig


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
