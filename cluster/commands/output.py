"""How a command answers: for a person, or as one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg


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


def say(output: Output) -> Callable[[str], None]:
    """Where progress goes."""
    return (lambda text: None) if output.quiet else (lambda text: print(text, file=sys.stderr, flush=True))


def answer(output: Output, result: dict[str, Any], show: Callable[[dict[str, Any]], None]) -> None:
    """Print a result."""
    if output.json:
        print(json.dumps(result))
    else:
        show(result)
