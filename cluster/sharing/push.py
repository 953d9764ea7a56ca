"""A published model into a repository of the Hugging Face Hub, in one commit.

the model's folder as it is, README.md and config.json (page.py), of a network of timm's the weights under its own names
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.agents import hub_folder, model_folder
from sparring.agents.checkpoint import to_json
from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.models import card, hub
from sparring.cluster.models.resolve import published, single
from sparring.cluster.models.target import Elsewhere
from sparring.cluster.sharing import page

LOGIN = "log in first: hf auth login (or set HF_TOKEN)"


@dataclass(frozen=True)
class Network:
    """What is pushed, as ``resolve`` takes it."""

    net: str
    about: Elsewhere
    agent: str | None = None
    checkpoint: str = "best"


@dataclass(frozen=True)
class Asked:
    """Where it goes, and what is said of it there."""

    private: bool = False
    revision: str | None = None  # branch
    message: str | None = None
    license: str | None = None  # of the weights


def push(network: Network, to: str, asked: Asked = Asked()) -> dict[str, Any]:
    """Publish a network.

    Args:
        to: ``hf:USER/NAME``; made where there is none. The token is the library's own.

    Returns:
        ``repository``, ``commit``, ``net`` (``hf:USER/NAME@COMMIT``), ``url``, and ``files``: name -> sha256.

    Raises:
        UsageError: no such network or form of a repository, not logged in, no rights, no network.
        BrokenCheckpoint: a file of the model is missing or altered.
    """
    repository = _repository(to)
    _check_login(to)
    with tempfile.TemporaryDirectory() as working:
        version = _version(network, repository, Path(working), asked.license)
        wrong = model_folder.problems(version)
        if wrong:
            raise BrokenCheckpoint("; ".join(wrong))
        contents = _contents(version, repository, asked.license)
        told = model_folder.card(version)
        message = asked.message or f"{told['name']}: {', '.join(told['networks'])}, sha256 {_short(version)}"
        commit = _uploaded(to, contents, asked, message)
    return {
        "repository": repository,
        "commit": commit["oid"],
        "net": f"{hub_folder.PREFIX}{repository}@{commit['oid']}",
        "url": commit["url"],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())},
    }


def _repository(to: str) -> str:
    try:
        repository, revision = hub_folder.parse(to)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if revision is not None:
        raise UsageError(f"{to} names a revision; a branch is named by --revision {revision}")
    return repository


def _check_login(to: str) -> None:
    with hub.explained(to):
        from huggingface_hub import get_token

        if get_token() is None:
            raise UsageError(f"{to} needs a token with write access; {LOGIN}")


def _version(network: Network, repository: str, working: Path, license: str | None) -> Path:
    """The folder of the published model; any other network is published into ``working``."""
    version = hub.fetched(network.net) if network.net.startswith(hub_folder.PREFIX) else published(network.net)
    if version is not None:
        return version
    found = single(network.net, network.about, agent=network.agent, checkpoint=network.checkpoint)
    name = re.sub(r"[^a-z0-9._-]", "-", repository.partition("/")[2].lower()).lstrip("._-")[:64]
    return card.publish(*found, name=name or "model", models_dir=working, license=license)


def _contents(version: Path, repository: str, license: str | None) -> dict[str, bytes]:
    """Every file by its name in the repository."""
    names = ["MANIFEST.json", "card.json", *model_folder.manifest(version)["files"]]
    contents = {name: (version / name).read_bytes() for name in names}
    told = _without_places(model_folder.card(version))
    contents["card.json"] = to_json({**told, "license": license or told.get("license")})
    config, more = page.config(version)
    contents |= {"config.json": config, **more}
    return contents | {"README.md": page.readme(version, repository, license, timm=bool(more))}


def _without_places(card: dict[str, Any]) -> dict[str, Any]:
    """A card without folders of this machine, which are nobody else's business: of every path its last part."""

    def told(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(("/", "~")):
            return Path(value).name
        if isinstance(value, dict):
            return {key: told(inner) for key, inner in value.items()}
        return [told(inner) for inner in value] if isinstance(value, list) else value

    plain = {key: told(value) for key, value in card.items() if key != "networks"}  # these the files name too
    return {**plain, "networks": card["networks"], "data": {**plain["data"], "root": "", "cache": ""}}


def _short(version: Path) -> str:
    return model_folder.weights_sha256(version)[:12]


def _uploaded(to: str, contents: dict[str, bytes], asked: Asked, message: str) -> dict[str, str]:
    repository = _repository(to)
    with hub.explained(to):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(library_name="sparring")
        api.create_repo(repository, private=asked.private or None, exist_ok=True)
        if asked.revision is not None:
            api.create_branch(repository, branch=asked.revision, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        try:
            made = api.create_commit(repository, operations, commit_message=message, revision=asked.revision)
        except RuntimeError as error:  # the library's own, around what went wrong with one file
            raise UsageError(f"{to}: {error} {error.__cause__ or ''}; the same command goes on") from error
    return {"oid": str(made.oid), "url": str(made.commit_url)}


def show(result: dict[str, Any]) -> None:
    """Where it is, and what to do with it."""
    print(f"{result['net']}: {len(result['files'])} files")
    for name, sha256 in result["files"].items():
        print(f"  {sha256}  {name}")
    print(f"{result['url']}\nthe same bytes anywhere: sparring pull {result['net']} --as NAME")
