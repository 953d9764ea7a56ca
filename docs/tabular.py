"""What all tables of the documentation are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def rows(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join("| " + " | ".join(row) + " |\n" for row in (header, rule, *body))


def source(result: dict[str, Any]) -> str:
    """Where a table's numbers come from."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return f"\n`{result['command']}`: {result['device']}; {versions}; seed {result['seed']}; n = {result['n']}.\n"
