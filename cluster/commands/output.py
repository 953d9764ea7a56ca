"""How a command answers: for a person, or as one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any, TextIO

from tyro.conf import UseAppendAction, arg


@dataclass(frozen=True)
class Output:
    """How a command answers."""

    json: bool = False
    """Print one JSON object on stdout at the end (progress goes to stderr)."""
    quiet: bool = False
    """No progress."""
    debug: bool = False
    """Show the traceback of an error."""
    trust_code: UseAppendAction[tuple[str, ...]] = ()
    """sha256 of code of somebody else's that may run, as the refusal shows it; repeat for several."""


Out = Annotated[Output, arg(name="")]


def trusted(args: Sequence[str]) -> list[str]:
    """What follows ``--trust-code`` on a command line; it is wanted before anything else of it is read."""
    found, words = [], iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in ("--trust-code", "--trust_code"):
            found.append(value if equals else next(words, ""))
    return found


def say(output: Output) -> Callable[[str], None]:
    """Where progress goes."""
    return (lambda text: None) if output.quiet else (lambda text: print(text, file=sys.stderr, flush=True))


_stdout: TextIO | None = None  # while only the answer may go there


@contextmanager
def only_the_answer(wanted: bool) -> Iterator[None]:
    """Whatever else is printed, by a user's code or a library, goes to stderr: stdout is one JSON object."""
    global _stdout
    if not wanted:
        yield
        return
    _stdout = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout = None


def answer(output: Output, result: dict[str, Any], show: Callable[[dict[str, Any]], None]) -> None:
    """Print a result."""
    if output.json:
        print(json.dumps(result), file=_stdout or sys.stdout, flush=True)
    else:
        show(result)
