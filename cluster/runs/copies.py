"""The local cache of what lies elsewhere: copies named by URI and content, made of files that are kept by their sha256.

    CACHE/remote/files/SHA256          each file once, checked when it is fetched and when it is used
    CACHE/remote/HASH/NAME             a copy: links to these, and what no manifest lists

Everything is written under a temporary name and renamed; processes that make a copy at once write the same files.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.runs.places import Place
from sparring.trainers import files
from sparring.trainers.config import DataConfig

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a name that becomes a folder here


def cache() -> Path:
    """Below the default folder of decoded images."""
    return Path(DataConfig().cache).expanduser() / "remote"


def home_of(uri: str, name: str, contents: Iterable[bytes]) -> Path:
    """The folder of a copy: of the same URI and content always the same."""
    if not PART.fullmatch(name):
        raise UsageError(f"{uri}: {name!r} is no name of a run or a model")
    told = [uri, *(hashlib.sha256(content).hexdigest() for content in contents)]
    return cache() / hashlib.sha256("\n".join(told).encode()).hexdigest()[:24] / name


def bring(place: Place, listed: Mapping[str, str], home: Path) -> None:
    """Every file of a manifest into a copy, checked; what this machine has is not fetched."""
    for name, sha in listed.items():
        to = inside(home, name, place)
        if to.is_file() and files.sha256(to) == sha:
            continue
        kept = cache() / "files" / sha
        if not kept.is_file() or files.sha256(kept) != sha:
            _fetch(place, name, sha, kept)
        to.parent.mkdir(parents=True, exist_ok=True)
        working = _temporary(to)
        try:
            try:
                os.link(kept, working)
            except OSError:  # a file system without links
                shutil.copyfile(kept, working)
            working.replace(to)
        finally:
            working.unlink(missing_ok=True)


def _fetch(place: Place, name: str, sha: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    working, seen = _temporary(to), hashlib.sha256()
    try:
        with open(working, "wb") as file:
            for chunk in place.chunks(name):
                seen.update(chunk)
                file.write(chunk)
        if seen.hexdigest() != sha:
            raise BrokenCheckpoint(
                f"{place.said(name)} is altered: its sha256 is {seen.hexdigest()[:12]}..., the manifest lists {sha[:12]}.... Copy it there again"
            )
        working.replace(to)
    except FileNotFoundError as error:
        raise place.missing(name) from error
    finally:
        working.unlink(missing_ok=True)


def put(path: Path, content: bytes) -> None:
    """Write a file of a copy, whole or not at all, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, content, writer=unique())


def unique() -> str:
    """What tells the temporary files of several writers apart."""
    return f".{secrets.token_hex(4)}"


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}{unique()}.tmp")


def inside(home: Path, name: str, place: Place) -> Path:
    """The path of a listed file, which must lie in the copy."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise BrokenCheckpoint(f"{place.uri} lists {name!r}, which is no file of its own")
    return home / name
