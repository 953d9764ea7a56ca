"""Code that came with somebody else's run or model: it runs only where its sha256 was named.

a file that the user names --keep, train, publish--> adopt: ~/.local/state/sparring/code/SHA256
runs/x/code, models/x/1/code --keeping.know--> is_own, or else strange --user.module--> check: imported if it was admitted, else Untrusted

Whatever comes from the Hub is strange. A process of ours gets code from the one that began it, which has looked: it is not asked again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from sparring.trainers.code import Code

HUB = "hub"  # key of a card: repository and commit that the model came from
_strange: dict[
    str, tuple[Path, str | None]
] = {}  # KEY of a code -> where it lies, and the name in the Hub that it came from
_admitted: set[str] = set()  # sha256


class Untrusted(Exception):
    """Code of somebody else's that nobody here has admitted. No ValueError: what reads a file must not take it for a wrong value."""


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


def trust_code(*sha256: str) -> None:
    """Let code of somebody else's run in this process, by its sha256 as the refusal shows it.

    Raises:
        ValueError: no sha256.
    """
    admit(sha256)


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


def adopt(code: Code) -> None:
    """Note that this code is the user's own, for later processes on this machine; not what is somebody else's and was not admitted.
    Where it cannot be noted, they will ask."""
    if not may_run(code):
        return
    try:
        file = noted() / code.sha256
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.write_text(f"{code.origin}\n")
    except (OSError, RuntimeError):
        return


def is_own(code: Code) -> bool:
    """Whether it was noted as the user's."""
    try:
        return (noted() / code.sha256).is_file()
    except (OSError, RuntimeError):
        return False


def noted() -> Path:
    """The folder that has a file for each sha256 of the user's, in it the place where the code was read.

    Raises:
        RuntimeError: nobody knows his home.
    """
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "sparring" / "code"


def strange(code: Code, place: Path, hub: str | None) -> None:
    """From now on this code, which lies in ``place`` and perhaps came from the Hub, runs only if it is admitted."""
    _strange[code.key] = place, hub


def is_strange(code: Code) -> bool:
    """Whether it is somebody else's, admitted or not."""
    return code.key in _strange


def may_run(code: Code) -> bool:
    """Whether it is the user's own, or admitted."""
    return not is_strange(code) or code.sha256 in _admitted


def check(code: Code) -> None:
    """Refuse code of somebody else's.

    Raises:
        Untrusted: says where it can be read, and how it is admitted.
    """
    if may_run(code):
        return
    place, hub = _strange[code.key]
    count = len(code.files)
    files = "1 file" if count == 1 else f"{count} files"
    came = f"came with {hub}" if hub else "is not known on this machine as code of yours"
    raise Untrusted(
        f"{code.main} ({files}, sha256 {code.sha256}) {came} and does not run unasked. Read it in {place}; if you trust it, "
        f"repeat the command with --trust-code {code.sha256}. serve never runs it"
    )
