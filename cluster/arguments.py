"""What is read from a command line before its types are known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.run_config import RunConfig


def base_of(argv: Sequence[str]) -> tuple[RunConfig | None, list[str]]:
    """The configuration that flags start from, and the flags."""
    args = list(argv)
    if not args or args[0] in ("-h", "--help"):
        return None, args
    from cluster import run_config
    from cluster.recipes import recipe

    if args[0] in ("-c", "--config"):
        if len(args) < 2:
            raise UsageError("-c needs a file: sparring train -c run.yaml")
        base, args = run_config.load(Path(args[1])), args[2:]
    elif args[0].startswith("-"):
        raise UsageError(f"the recipe or method comes first, before {args[0]}: sparring train mat {' '.join(args)}")
    else:
        base, args = recipe(args[0]), args[1:]
    for i, a in enumerate(args):  # the number of peers decides which roles there are
        if a == "--peers" and i + 1 < len(args):
            return base.replace({"peers": _whole(args[i + 1])}), args[:i] + args[i + 2 :]
        if a.startswith("--peers="):
            return base.replace({"peers": _whole(a.removeprefix("--peers="))}), args[:i] + args[i + 1 :]
    return base, args


def _whole(text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"--peers {text!r} is not allowed; expected a whole number")
    return int(text)


def decimal(argument: str) -> str:
    """``8/255`` -> ``0.0313...``, also behind ``--flag=``."""
    match = re.fullmatch(r"(--[\w.-]+=)?(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)", argument)
    return f"{match[1] or ''}{float(match[2]) / float(match[3])!r}" if match and float(match[3]) else argument
