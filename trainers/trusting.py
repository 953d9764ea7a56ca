"""Code that came with somebody else's model: it runs only where its sha256 was named.

models/x/1/code --keeping.know, card.json has "hub"--> strange --user.module--> check: imported if it was admitted, else Untrusted
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from sparring.trainers.code import Code

HUB = "hub"  # key of a card: repository and commit that the model came from
_strange: dict[str, Path] = {}  # KEY of a code -> where it lies
_admitted: set[str] = set()  # sha256


class Untrusted(ValueError):
    """Code of somebody else's that nobody here has admitted."""


def admit(named: Iterable[str]) -> None:
    """Let code with these sha256 run in this process.

    Raises:
        ValueError: no sha256.
    """
    for sha256 in named:
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(
                f"--trust-code {sha256!r} is not allowed; expected the sha256 of the code, 64 digits, as the refusal shows it"
            )
        _admitted.add(sha256)


def came_from(folder: Path) -> str | None:
    """``hf:USER/NAME@COMMIT`` of a model's folder that came from the Hub, or a member's in it; None of any other."""
    for home in (folder, *folder.resolve().parents[:2]):
        card = home / "card.json"
        if not card.is_file():  # nor is a pipe, which nobody may ever write
            continue
        try:
            known = json.loads(card.read_bytes())[HUB]
            return f"hf:{known['repository']}@{known['commit']}"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


def strange(code: Code, place: Path) -> None:
    """From now on this code, which lies in ``place``, runs only if it is admitted."""
    _strange[code.key] = place


def is_strange(code: Code) -> bool:
    """Whether it is somebody else's, admitted or not."""
    return code.key in _strange


def check(code: Code) -> None:
    """Refuse code of somebody else's.

    Raises:
        Untrusted: says where it can be read, and how it is admitted.
    """
    place = _strange.get(code.key)
    if place is None or code.sha256 in _admitted:
        return
    count = len(code.files)
    files = "1 file" if count == 1 else f"{count} files"
    raise Untrusted(
        f"{code.main} ({files}, sha256 {code.sha256}) came with a model of somebody else's and does not run unasked. Read it in "
        f"{place}; if you trust it, repeat the command with --trust-code {code.sha256}. serve never runs it"
    )
