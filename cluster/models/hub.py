"""Published models from repositories of the Hugging Face Hub: fetched once per commit, checked before they appear.

hf:USER/NAME[@REVISION] -> a commit -> MANIFEST.json, card.json -> the files listed there -> every sha256 -> the cache, or models/NAME/VERSION
                        -> without these, as timm writes it: config.json, model.safetensors in the Hub's own cache -> the name of that folder
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparring.agents import hub_folder, model_folder, timm_weights
from sparring.agents.checkpoint import CheckpointError, to_json, write
from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.trainers.config import DataConfig
from sparring.trainers.trusting import HUB

ALWAYS = ("MANIFEST.json", "card.json")


def fetched(net: str) -> Path:
    """The folder of a published model: ``hf:USER/NAME[@REVISION]``. A commit that was fetched before needs no network.

    Raises:
        UsageError: no such repository, one that holds no published model, no network, or huggingface_hub is not installed.
        BrokenCheckpoint: a file is not what the manifest says, or no file of a model.
    """
    repository, commit = _parsed(pinned(net))
    assert commit is not None
    folder = hub_folder.place(repository, commit)
    if (folder / "card.json").is_file():
        return folder
    working = folder.with_name(f".{secrets.token_hex(4)}.tmp")
    with _removed(working):
        card = _download(repository, commit, working)
        write(working / "card.json", to_json(card))
        if not folder.exists():  # else another process was faster, with the same bytes
            working.rename(folder)
    return folder


def pinned(net: str) -> str:
    """``hf:USER/NAME@COMMIT``: what the name means today; errors as :func:`fetched`."""
    repository, revision = _parsed(net)
    if hub_folder.pinned(net):
        return net
    return f"{hub_folder.PREFIX}{repository}@{_commit(repository, revision)}"


def meant(net: str) -> str:
    """What a repository holds, by a name that stays: ``hf:USER/NAME@COMMIT`` of a published model, which is then here; of weights as
    timm writes them their folder in the Hub's own cache (``HF_HOME``), which needs no network where they are there.

    Raises:
        UsageError: neither; else as :func:`fetched`.
    """
    try:
        commit = pinned(net)
        fetched(commit)
    except UsageError:
        folder = _of_timm(net)
        if folder is None:
            raise
        return str(folder)
    return commit


def pull(net: str, name: str, models_dir: Path) -> Path:
    """A new version of ``models_dir/NAME``; it appears whole or not at all.

    Raises:
        UsageError: a bad name; else as :func:`fetched`.
    """
    try:
        model_folder.check_name(name)
    except ValueError as error:
        raise UsageError(f"{error}; choose one: --as NAME") from error
    repository, commit = _parsed(pinned(net))
    assert commit is not None
    folder = models_dir / name
    new = not folder.exists()
    working = folder / f".{secrets.token_hex(4)}.tmp"
    try:
        with _removed(working):
            card = _download(repository, commit, working)
            return model_folder.appear(working, folder, {**card, "name": name})
    finally:
        if new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def name_of(net: str) -> str:
    """What a model is called here where nobody says otherwise: the repository's name in lower case."""
    return _parsed(net)[0].partition("/")[2].lower()


def _parsed(net: str) -> tuple[str, str | None]:
    try:
        return hub_folder.parse(net)
    except ValueError as error:
        raise UsageError(str(error)) from error


@contextmanager
def _removed(working: Path) -> Iterator[None]:
    """A folder to work in that is gone afterwards, unless it has become something else."""
    working.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _commit(repository: str, revision: str | None) -> str:
    net = f"{hub_folder.PREFIX}{repository}{'@' + revision if revision else ''}"
    with explained(net):
        from huggingface_hub import HfApi

        commit = HfApi().model_info(repository, revision=revision).sha
    if commit is None or not hub_folder.COMMIT.fullmatch(commit):
        raise UsageError(f"{net} has no commit, so nothing can be fetched; what the Hub says: {commit!r}")
    return commit


def _download(repository: str, commit: str, working: Path) -> dict[str, Any]:
    """Every file that the manifest lists, checked; the card that they get here.

    Raises:
        BrokenCheckpoint: something is wrong with one.
    """
    net = f"{hub_folder.PREFIX}{repository}@{commit}"
    try:
        _get(net, ALWAYS, working)
        manifest = model_folder.manifest(working)
        strange = hub_folder.strange_files(manifest)
        if strange:
            raise CheckpointError(f"{working / 'MANIFEST.json'} lists {strange[0]!r}, which is no file of a model")
        _get(net, manifest["files"], working)
        shutil.rmtree(working / ".cache", ignore_errors=True)  # the library's notes
        card = {**model_folder.card(working), HUB: {"repository": repository, "commit": commit}}
        write(working / "card.json", to_json(card))  # before anything is looked at: its code is somebody else's
        wrong = hub_folder.problems(working)
        if wrong:
            raise CheckpointError("; ".join(wrong))
    except CheckpointError as error:
        text = str(error).replace(f"{working}/", "").replace(str(working), "it")
        raise BrokenCheckpoint(f"{net} is not taken: {text}") from error
    brought = [{**evaluation, "from_run": True} for evaluation in card["evaluations"]]
    data = {**card["data"], "root": DataConfig().root, "cache": ""}  # folders of another machine
    return {**card, "evaluations": brought, "data": data}


def _get(net: str, names: Any, working: Path) -> None:
    repository, commit = _parsed(net)
    with explained(net):
        from huggingface_hub import hf_hub_download

        for name in names:
            hf_hub_download(repository, name, revision=commit, local_dir=working)


def _of_timm(net: str) -> Path | None:
    """The folder of a repository as timm writes it; None where it is no such repository, or none that can be seen.

    Raises:
        UsageError: it is one without ``model.safetensors``.
    """
    repository, revision = _parsed(net)
    config = _kept(repository, revision, timm_weights.CONFIG)
    if config is None or not _says_timm(config):
        return None
    weights = _kept(repository, revision, timm_weights.WEIGHTS)
    if weights is None:
        raise UsageError(
            f"{net} is a network of timm's, but {timm_weights.WEIGHTS} is not there, or cannot be fetched now; a pytorch_model.bin is not "
            "taken from the Hub, since it is a pickle. Name a repository or a revision that has the other, or fetch the file yourself: "
            "--agents.ROLE.init FILE.bin --agents.ROLE.network timm:NAME"
        )
    return weights.parent


def _says_timm(config: Path) -> bool:
    """Whether a repository's config.json names an architecture, and is not one of ours."""
    try:
        told = json.loads(config.read_bytes())
    except ValueError:
        return False
    return isinstance(told, dict) and "architecture" in told and told.get("library_name") != "sparring"


def _kept(repository: str, revision: str | None, name: str) -> Path | None:
    """A file of a repository in the Hub's own cache, where it is brought if it can be."""
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        return None
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except (errors.HFValidationError, errors.HTTPError, OSError):  # type: ignore[attr-defined]  # as in explained
        return None


@contextmanager
def explained(net: str) -> Iterator[None]:
    """What the library and the Hub refuse, as a sentence with what to do.

    Raises:
        UsageError: it was refused, or huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise UsageError(f"{net} needs huggingface_hub; run: pip install 'sparring[hub]'") from error
    try:
        yield
    except (
        errors.HFValidationError,
        errors.HTTPError,  # type: ignore[attr-defined]  # of the library that it asks through, another in every version
        OSError,
    ) as error:
        raise UsageError(f"{net}: {_why(error)}") from error


def _why(error: Exception) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, errors.GatedRepoError):
        return "its owner lets in only who has asked on its page; ask there, then log in: hf auth login"
    if status == 401 or isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or you may not see it; look at its name, or log in: hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision; leave it out, or name a branch, a tag or a commit"
    if isinstance(error, errors.LocalEntryNotFoundError) or (status is None and not isinstance(error, ValueError)):
        return f"the Hub cannot be reached ({first}); a commit fetched before needs no network: hf:USER/NAME@COMMIT"
    if isinstance(error, errors.EntryNotFoundError):
        return "the repository holds no model that sparring published (no MANIFEST.json and card.json)"
    if status == 403:
        return "your token may not do this; take one with write access to it: hf auth login"
    return f"the Hub refuses ({first})"
