"""A published model: ``models/NAME/VERSION/``, written at once and never changed.

model.safetensors, state.json   weights and network, as in an agent's folder; an ensemble or a cascade has members/0/, members/1/, ...
MANIFEST.json                   sha256 of these files; of a cascade, the margin from which on its first network answers
card.json                       what it is and how robust it was found to be; an evaluation writes it anew
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sparring.agents.checkpoint import (
    CheckpointError,
    load_model,
    network_config,
    save_model,
    sha256,
    to_json,
    write,
)
from sparring.agents.ensemble import together
from sparring.agents.networks import Network

FORMAT, OF_CASCADE = 1, 2  # a reader of before must not take a cascade for an ensemble
JSON_BYTES = 4 * 2**20  # of a card or a manifest at most
MEMBERS = 64  # of an ensemble at most
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_name(name: str) -> None:
    """Refuse what is no name of a model.

    Raises:
        ValueError: says what is allowed.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"model name {name!r} is not allowed; expected lower-case letters, digits, '.', '_' and '-', a letter or digit first, "
            "64 at most"
        )


def versions(folder: Path) -> list[int]:
    """Versions in ``models/NAME``, rising."""
    return sorted(int(p.parent.name) for p in folder.glob("*/MANIFEST.json") if p.parent.name.isdigit())


def resolve(path: Path) -> Path | None:
    """The version that ``models/NAME`` (then the newest) or ``models/NAME/VERSION`` means; None when it is no model."""
    if (path / "MANIFEST.json").is_file() and (path / "card.json").is_file():
        return path
    found = versions(path) if path.is_dir() else []
    return path / str(found[-1]) if found else None


def create(folder: Path, members: Sequence[Network], card: Mapping[str, Any], *, width: float | None = None) -> Path:
    """Write a new version into ``models/NAME``; it appears whole or not at all.

    Args:
        members: one network, or those of an ensemble or a cascade.
        card: gets the version, and the sha256 of every file.
        width: of the margin from which on the first of two members answers: they are a cascade.
    """
    folder.mkdir(parents=True, exist_ok=True)
    working = folder / f".{secrets.token_hex(4)}.tmp"
    working.mkdir()
    try:
        files: dict[str, str] = {}
        for i, member in enumerate(members):
            part = f"members/{i}/" if len(members) > 1 else ""
            saved = save_model(member, working / part)
            files |= {part + name: sha for name, sha in saved.items()}
        told: dict[str, Any] = {"format": FORMAT, "members": len(members), "files": files}
        if width is not None:
            told |= {"format": OF_CASCADE, "width": width}
        write(working / "MANIFEST.json", to_json(told))
        return appear(working, folder, {**card, "sha256": files})
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        raise


def appear(working: Path, folder: Path, card: Mapping[str, Any]) -> Path:
    """Make a finished folder on the same disk the next version in ``models/NAME``; its card gets the version."""
    while True:
        version = max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) + 1
        write(working / "card.json", to_json({**card, "version": version}))
        try:
            os.rename(working, folder / str(version))
            return folder / str(version)
        except OSError:
            if not (folder / str(version)).exists():
                raise  # not another process that took the number


def card(folder: Path) -> dict[str, Any]:
    """The card of a version.

    Raises:
        CheckpointError: missing or not JSON.
    """
    return _json(folder / "card.json")


def manifest(folder: Path) -> dict[str, Any]:
    """``members``, ``files`` (name -> sha256) and of a cascade ``width`` of a version.

    Raises:
        CheckpointError: it cannot be read, or does not list what a model has.
    """
    path = folder / "MANIFEST.json"
    found = _json(path)
    if found.get("format") not in (FORMAT, OF_CASCADE):
        raise CheckpointError(
            f"{path} has format {found.get('format')!r}; this version reads {FORMAT} and {OF_CASCADE}"
        )
    files, members = found.get("files"), found.get("members")
    if not isinstance(files, dict) or not isinstance(members, int) or not 1 <= members <= MEMBERS:
        raise CheckpointError(f"{path} names no files, or not from 1 to {MEMBERS} members")
    if (found["format"] == OF_CASCADE) != ("width" in found):
        raise CheckpointError(f"{path} has format {found['format']}, which does not go with its keys")
    if "width" in found and (members != 2 or not is_width(found["width"])):
        raise CheckpointError(f"{path} names no cascade of two members with a width from 0 to 1")
    missing = {
        f"{part}{name}" for part in _parts(members) for name in ("model.safetensors", "state.json")
    } - files.keys()
    if missing:
        raise CheckpointError(f"{path} does not list {min(missing)}")
    for name, value in files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts or not isinstance(value, str):
            raise CheckpointError(f"{path} lists {name!r}, which is no file of this folder with its sha256")
    return found


def is_width(value: Any) -> bool:
    """Whether it can be the width of a cascade."""
    return type(value) in (int, float) and 0 <= value <= 1


def _parts(members: int) -> list[str]:
    return [""] if members == 1 else [f"members/{i}/" for i in range(members)]


def problems(folder: Path) -> list[str]:
    """What is wrong with a version: every missing or altered file by name, and what its files say differently; [] when whole."""
    try:
        found = manifest(folder)
        wrong = []
        for name, expected in found["files"].items():
            if not (folder / name).is_file():
                wrong.append(f"{folder / name} is missing")
            elif sha256(folder / name) != expected:
                wrong.append(f"{folder / name} is altered")
        return wrong or _disagreements(folder, found)
    except CheckpointError as error:
        return [str(error)]


def _disagreements(folder: Path, found: Mapping[str, Any]) -> list[str]:
    """What the card says otherwise than the networks and the manifest do."""
    told, path = card(folder), folder / "card.json"
    configs = [network_config(folder / part) for part in _parts(found["members"])]
    first = configs[0]
    size = {"channels": first.channels, "height": first.height, "width": first.width, "range": [0, 1]}
    given, classes = told.get("input"), told.get("classes")
    wrong = []
    if told.get("sha256") != found["files"]:
        wrong.append(f"{path} is the card of other files than MANIFEST.json lists")
    if given != size:
        wrong.append(f"{path} names other images than the network's: {given!r:.200}, not {size}")
    if not isinstance(classes, list) or {len(classes)} != {c.classes for c in configs}:
        wrong.append(f"{path} names other classes than the network's {first.classes}")
    if told.get("decision") != decision(found["members"], found.get("width")) and (
        told.get("decision") or "width" in found
    ):
        wrong.append(f"{path} names another decision than MANIFEST.json")
    if told.get("networks") != [c.spec for c in configs]:
        wrong.append(f"{path} names other networks than {', '.join(c.spec for c in configs)}")
    return wrong


def load(folder: Path) -> nn.Module:
    """The network of a version in eval mode, after every file was checked.

    Raises:
        CheckpointError: something is missing or altered; says what.
    """
    wrong = problems(folder)
    if wrong:
        raise CheckpointError("; ".join(wrong))
    told = manifest(folder)
    return together([load_model(folder / part) for part in _parts(told["members"])], told.get("width"))


def decision(members: int, width: float | None) -> dict[str, Any] | None:
    """How several networks come to one answer, as a card names it; None of a single one."""
    if width is not None:
        return {"rule": "cascade", "width": width}
    return {"rule": "mean of probabilities"} if members > 1 else None


def weights_sha256(folder: Path) -> str:
    """One sha256 for all weights of a version: that of the only file of weights, or of all of them."""
    files = _json(folder / "MANIFEST.json")["files"]
    weights = [sha for name, sha in sorted(files.items()) if name.endswith("model.safetensors")]
    return str(weights[0]) if len(weights) == 1 else hashlib.sha256("".join(weights).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    """An object of standard JSON that can be sent on as it is: no NaN, no half characters."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, or no file")
        if path.stat().st_size > JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {JSON_BYTES} bytes")
        found = json.loads(path.read_bytes(), parse_constant=_refuse)
        json.dumps(found, ensure_ascii=False).encode()
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no object")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")
