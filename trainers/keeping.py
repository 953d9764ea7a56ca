"""Users' files kept on disk: ``code/KEY/own.py`` and ``code/KEY.json`` in a run, a published model, an evaluation."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sparring.trainers import trusting
from sparring.trainers.code import KEPT, Code, key_of, known, known_as, python_file, read


def keep(these: Sequence[Code], folder: Path) -> list[str]:
    """Keep code in ``folder/code``: a folder of files per content, and ``KEY.json`` that says what they are. It is the user's from now on.

    Returns:
        The files' names in ``folder``.
    """
    written = []
    for code in these:
        trusting.adopt(code)
        home = folder / KEPT / code.key
        for name, source in code.files.items():
            _put(home / name, source)
        facts = {"main": code.main, "files": sorted(code.files), "origin": code.origin, "sha256": code.sha256}
        _put(home.with_suffix(".json"), json.dumps(facts, indent=1, sort_keys=True) + "\n")
        written += [f"{KEPT}/{code.key}.json", *(f"{KEPT}/{code.key}/{name}" for name in code.files)]
    return written


def _put(path: Path, text: str) -> None:
    """Whole or not at all; what is there already is left alone."""
    content = text.encode()
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    working = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    working.write_bytes(content)
    working.replace(path)


def find(spec: str, *, near: Path) -> None:
    """Know the file that ``spec``, which a file in ``near`` holds, names: a kept one lies there or in one of the four folders around.

    Raises:
        ValueError: a kept file is missing or altered.
    """
    look_through(spec, near)
    key = key_of(spec)
    if key is None or known(key) is not None:
        return
    for folder in (near, *near.resolve().parents[:4]):
        if (folder / KEPT / f"{key}.json").is_file():
            know(folder)
            return


def know(folder: Path) -> list[Code]:
    """What ``folder/code`` keeps, from now on known by name; as code of somebody else's where nothing says that it is the user's.

    Raises:
        ValueError: a kept file is missing or altered.
    """
    found = []
    names = [p for p in sorted((folder / KEPT).glob("*.json")) if re.fullmatch("[0-9a-f]{16}", p.stem)]
    hub = trusting.came_from(folder) if names else None
    for path in names:
        home = path.with_suffix("")
        try:
            facts = json.loads(path.read_bytes())
            outside = [n for n in facts["files"] if Path(n).is_absolute() or ".." in Path(n).parts]
            if outside or facts["main"] not in facts["files"]:
                raise ValueError(f"it lists {(outside or [facts['main']])[0]!r}, which is no file of its own")
            with_source = {name: (home / name).read_bytes().decode() for name in facts["files"]}
            code = Code(facts["main"], with_source, facts["origin"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{home}, a kept copy of a user's file, cannot be read: {error}") from error
        if code.key != home.name:
            raise ValueError(
                f"{home}, the kept copy of {code.origin}, is altered; bring it back, or move the folder away"
            )
        found.append(_met(code, home, hub))
    return found


def _met(code: Code, place: Path, hub: str | None) -> Code:
    """Known from now on. What is known already was named by the user or sent by the process that looked at it."""
    new = known(code.key) is None
    if trusting.is_strange(code) or (new and (hub is not None or not trusting.is_own(code))):
        trusting.strange(code, place, hub)
    return known_as(code)


def look_through(values: object, folder: Path) -> None:
    """Know the Python files that a file in ``folder``, once parsed, names by their paths, as :func:`know` does those that it keeps:
    a folder of somebody else's may name a file that came beside it."""
    for file in filter(None, map(python_file, _leaves(values))):
        if key_of(file) is not None or not Path(file).is_file():
            continue
        try:
            code = read(Path(file))
        except (OSError, ValueError):  # said where it is used
            continue
        _met(code, Path(file).resolve(), trusting.came_from(folder))


def _leaves(values: object) -> Iterator[object]:
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def know_all(folder: Path) -> list[Code]:
    """What a published model keeps, an ensemble's members' too; errors as :func:`know`."""
    return [code for home in (folder, *sorted(folder.glob("members/*"))) for code in know(home)]


def changed(these: Iterable[Code]) -> list[str]:
    """One sentence per file that is no longer what was kept of it."""
    said = []
    for code in these:
        try:
            if not Path(code.origin).is_file():
                continue
            now = read(Path(code.origin)).sha256
        except OSError:
            continue  # somebody else's home
        except ValueError:
            now = "no Python"
        if now != code.sha256:
            said.append(
                f"{code.origin} has changed since it was kept (sha256 {code.sha256[:12]}, now {now[:12]}); the kept copy, "
                f"{code.name}, is used"
            )
    return said
