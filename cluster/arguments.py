"""What is read from a command line before its types are known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.run_config import RunConfig


def base_of(argv: Sequence[str], verb: str) -> tuple[RunConfig | None, RunConfig | None, list[str]]:
    """The recipe, the configuration that flags start from (the recipe with the asked number of peers), and the flags."""
    args = list(argv)
    if not args or args[0] in ("-h", "--help"):
        return None, None, args
    from cluster import run_config
    from cluster.recipes import recipe
    from cluster.settings import Own

    if args[0] in ("-c", "--config"):
        if len(args) < 2:
            raise UsageError(f"-c needs a file: sparring {verb} -c run.yaml")
        base, args = run_config.load(Path(args[1])), args[2:]
    elif args[0].startswith("-"):
        raise UsageError(f"the recipe or method comes first, before {args[0]}: sparring {verb} at {' '.join(args)}")
    else:
        base, args = recipe(args[0]), args[1:]
    recipe_itself = base
    for i, a in enumerate(args):  # the number of peers decides which roles there are
        if a == "--peers" and i + 1 < len(args):
            base, args = base.replace({"peers": _whole(args[i + 1])}), args[:i] + args[i + 2 :]
            break
        if a.startswith("--peers="):
            base, args = base.replace({"peers": _whole(a.removeprefix("--peers="))}), args[:i] + args[i + 1 :]
            break
    args = [re.sub(r"^--wait(?==|$)", "--placement.wait", a) for a in args]
    roles = {role: base.agents.get(role, Own()) for role in base.networks()}  # so that each has its flags
    return recipe_itself, replace(base, agents=roles), args


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


def _whole(text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"--peers {text!r} is not allowed; expected a whole number")
    return int(text)


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
