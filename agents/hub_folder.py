"""A published model of the Hugging Face Hub: how it is named, where it lies on this machine, and what may lie there.

hf:USER/NAME@COMMIT -> ~/.cache/sparring/hub/USER/NAME/COMMIT/, as in models/NAME/VERSION
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sparring.agents import model_folder
from sparring.agents.checkpoint import CheckpointError, network_config
from sparring.trainers.code import key_of, python_file
from sparring.trainers.config import DataConfig, Threat

PREFIX = "hf:"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
FILE = re.compile(  # that a model has; nothing that is unpickled
    r"(members/\d{1,2}/)?(model\.safetensors|state\.json|code/[0-9a-f]{16}(\.json|(/[A-Za-z0-9_][\w.-]*)+\.py))"
)
FETCHES = (
    "pretrained=True",
    "pretrained_cfg",
    "checkpoint_path",
    "cache_dir",
)  # options by which timm reads other files


def parse(net: str) -> tuple[str, str | None]:
    """``hf:USER/NAME[@REVISION]`` -> repository, revision.

    Raises:
        ValueError: another form.
    """
    repository, _, revision = net.removeprefix(PREFIX).partition("@")
    if not net.startswith(PREFIX) or not REPOSITORY.fullmatch(repository):
        raise ValueError(f"{net!r} is no repository of the Hub; expected hf:USER/NAME or hf:USER/NAME@REVISION")
    return repository, revision or None


def pinned(net: str) -> bool:
    """Whether the name says which commit."""
    return bool(COMMIT.fullmatch(parse(net)[1] or ""))


def place(repository: str, commit: str) -> Path:
    """Where a commit of a repository lies once it was fetched."""
    return Path(DataConfig().cache).expanduser() / "hub" / repository / commit


def located(init: str | None) -> str | None:
    """The folder of weights that a run's ``init`` means: ``hf:USER/NAME@COMMIT`` as where it lies, a path as it is."""
    if init is None or not init.startswith(PREFIX):
        return init
    repository, commit = parse(init)
    assert commit is not None
    return str(place(repository, commit))


def strange_files(manifest: dict[str, Any]) -> list[str]:
    """Files that a manifest lists and no published model has."""
    return [name for name in manifest["files"] if not FILE.fullmatch(name)]


def problems(folder: Path) -> list[str]:
    """What is wrong with a model of somebody else's, beyond what is wrong with a file of it; nothing of it runs."""
    wrong = model_folder.problems(folder)
    if wrong:
        return wrong
    try:
        card, members = model_folder.card(folder), model_folder.manifest(folder)["members"]
        model_folder.check_name(card["name"])
        _ = [Threat.parse(threat) for threat in card["threats"]]
        _ = [int(card["training"][key]) for key in ("step", "seed")], [e["n"] for e in card["evaluations"]]
        named = [str(card["data"]["name"])]
        _ = card["data"]["sha256"], card["data"]["root"], card["data"]["size"]
        parts = [""] if members == 1 else [f"members/{i}" for i in range(members)]
        specs = [network_config(folder / part).spec for part in parts]
    except (CheckpointError, ValueError, KeyError, TypeError) as error:
        return [f"{folder / 'card.json'} is no card: {type(error).__name__} {error}"]
    paths = [s for s in [*named, *specs] if (file := python_file(s)) is not None and key_of(file) is None]
    others = [s for s in specs if s.startswith("timm:") and any(option in s for option in FETCHES)]
    return [f"{folder} names {spec}, a file that does not come with it" for spec in [*paths, *others]]
