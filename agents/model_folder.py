"""A published model: ``models/NAME/VERSION/``, written at once and never changed.

model.safetensors, state.json   weights and network, as in an agent's folder; an ensemble has members/0/, members/1/, ...
MANIFEST.json                   sha256 of these files
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

from sparring.agents.checkpoint import CheckpointError, load_model, save_model, sha256, to_json, write
from sparring.agents.ensemble import Ensemble
from sparring.agents.networks import Network

FORMAT = 1
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


def create(folder: Path, members: Sequence[Network], card: Mapping[str, Any]) -> Path:
    """Write a new version into ``models/NAME``; it appears whole or not at all.

    Args:
        members: one network, or those of an ensemble.
        card: gets the version, and the sha256 of every file.
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
        write(working / "MANIFEST.json", to_json({"format": FORMAT, "members": len(members), "files": files}))
        while True:
            version = max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) + 1
            write(working / "card.json", to_json({**card, "version": version, "sha256": files}))
            try:
                os.rename(working, folder / str(version))
                return folder / str(version)
            except OSError:
                if not (folder / str(version)).exists():
                    raise  # not another process that took the number
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        raise


def card(folder: Path) -> dict[str, Any]:
    """The card of a version.

    Raises:
        CheckpointError: missing or not JSON.
    """
    return _json(folder / "card.json")


def problems(folder: Path) -> list[str]:
    """What is wrong with a version: every missing or altered file by name; [] when whole."""
    try:
        manifest = _json(folder / "MANIFEST.json")
    except CheckpointError as error:
        return [str(error)]
    if manifest.get("format") != FORMAT:
        return [f"{folder / 'MANIFEST.json'} has format {manifest.get('format')!r}; this version reads {FORMAT}"]
    wrong = []
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file():
            wrong.append(f"{folder / name} is missing")
        elif sha256(folder / name) != expected:
            wrong.append(f"{folder / name} is altered")
    return wrong


def load(folder: Path) -> nn.Module:
    """The network of a version in eval mode, after every file was checked.

    Raises:
        CheckpointError: something is missing or altered; says what.
    """
    wrong = problems(folder)
    if wrong:
        raise CheckpointError("; ".join(wrong))
    count = _json(folder / "MANIFEST.json")["members"]
    if count == 1:
        return load_model(folder)
    return Ensemble([load_model(folder / "members" / str(i)) for i in range(count)]).eval()


def weights_sha256(folder: Path) -> str:
    """One sha256 for all weights of a version: that of the only file of weights, or of all of them."""
    files = _json(folder / "MANIFEST.json")["files"]
    weights = [sha for name, sha in sorted(files.items()) if name.endswith("model.safetensors")]
    return str(weights[0]) if len(weights) == 1 else hashlib.sha256("".join(weights).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
