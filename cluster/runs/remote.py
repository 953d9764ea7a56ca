"""Runs and published models by URI, read through a local copy. Nothing is ever written to the place itself.

    URI -> config.yaml, the committed manifests (read anew each time) -> CACHE/remote/HASH/NAME, HASH of the URI and of these
        -> each file that a manifest lists: CACHE/remote/files/SHA256, fetched only where it is not there, linked into the copy

A copy is named by its content, so that processes that make it at once write the same files, each under a temporary name first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.runs import copies, places
from sparring.cluster.runs.checkpoints import Checkpoints, number_of
from sparring.cluster.runs.places import Place

STEP = re.compile(r"checkpoints/(step-\d+)/COMMITTED")
RECORDS = ("env.json", "metrics.jsonl", "validation.jsonl", "alarms.jsonl", "log.txt")


def local(name: str) -> str:
    """The folder of the local copy of what a URI names, with ``@AGENT`` where the URI has it; any other name as it is.

    Args:
        name: ``s3://bucket/runs/NAME[@AGENT]`` or ``s3://bucket/models/NAME[/VERSION]``.

    Raises:
        UsageError: neither a mirrored run nor a published model is there.
        BrokenCheckpoint: a file is missing or altered.
        Infrastructure: the place does not answer.
    """
    uri = places.uri_of(name)
    if uri is None:
        return name
    above, last, agent = places.split(uri)
    place = places.opened(places.child(above, last), like="s3://bucket/runs/NAME[@AGENT] or s3://bucket/models/NAME")
    config = place.maybe("config.yaml")
    if config is not None:
        return str(_run(place, last, config)) + (f"@{agent}" if agent else "")
    version = None if agent else _version(place)
    if version is None:
        raise UsageError(
            f"{uri} holds no run (config.yaml) and no published model (MANIFEST.json and card.json, or folders 1, 2, ... of these). "
            f"What is there: sparring runs --runs-dir {above}. Other files are copied here first"
        )
    return str(_model(version))


def heads(uri: str, into: Path) -> dict[str, str]:
    """Of every run in a place what a list of runs needs: config.yaml, and the manifest of the newest checkpoint.

    Returns:
        Name of the run's folder in ``into`` -> its URI.
    """
    place, found = places.opened(uri), {}
    for name in filter(copies.PART.fullmatch, place.folders()):
        run = places.opened(place.said(name))
        config = run.maybe("config.yaml")
        if config is None:
            continue
        (into / name).mkdir()
        (into / name / "config.yaml").write_bytes(config)
        found[name] = run.uri
        for step in _steps(run)[-1:]:
            (into / name / "checkpoints" / step).mkdir(parents=True)
            for file in ("MANIFEST.json", "COMMITTED"):
                (into / name / "checkpoints" / step / file).write_bytes(run.sure(f"checkpoints/{step}/{file}"))
    return found


# A run -----------------------------------------------------------------------------------------------------------------


def _steps(place: Place) -> list[str]:
    """Names of the committed steps of a run, rising."""
    found = (STEP.fullmatch(name) for name in place.files("checkpoints"))
    return sorted((match[1] for match in found if match), key=number_of)


def _run(place: Place, name: str, config: bytes) -> Path:
    """A run with its newest checkpoint and those that are best for some agent: all that reads it needs."""
    steps = _steps(place)
    if not steps:
        raise BrokenCheckpoint(
            f"{place.uri} has no committed checkpoint yet; see: sparring runs --runs-dir {places.split(place.uri)[0]}"
        )
    newest = _committed(place, steps[-1])
    best = {f"step-{int(entry['step']):06d}" for entry in newest[1]["best"].values()}
    missing = sorted(best - {*steps})
    if missing:
        raise BrokenCheckpoint(f"{place.uri}: {missing[0]}, which is best by {steps[-1]}, is not committed there")
    wanted = {steps[-1]: newest, **{s: _committed(place, s) for s in sorted(best - {steps[-1]})}}
    home = copies.home_of(place.uri, name, [config, *(raw for raw, _ in wanted.values())])
    for step, (raw, manifest) in wanted.items():
        base = f"checkpoints/{step}/"
        copies.bring(place, {base + file: sha for file, sha in manifest["files"].items()}, home)
        copies.put(home / base / "MANIFEST.json", raw)
        copies.put(home / base / "COMMITTED", (hashlib.sha256(raw).hexdigest() + "\n").encode())
    if not (home / "config.yaml").exists():  # written last: without it this is no run
        for record in RECORDS:
            content = place.maybe(record)
            if content is not None:
                copies.put(home / record, content)
        for file in place.files("code"):
            if not file.endswith(".part"):
                copies.put(copies.inside(home, file, place), place.sure(file))
        Checkpoints(home / "checkpoints").publish(int(steps[-1].removeprefix("step-")), writer=copies.unique())
        copies.put(home / "config.yaml", config)
    return home


def _committed(place: Place, step: str) -> tuple[bytes, dict[str, Any]]:
    """A committed step's MANIFEST.json, as it is and parsed."""
    said = place.sure(f"checkpoints/{step}/COMMITTED").decode(errors="replace").strip()
    raw = place.sure(f"checkpoints/{step}/MANIFEST.json")
    where = place.said(f"checkpoints/{step}/MANIFEST.json")
    if hashlib.sha256(raw).hexdigest() != said:
        raise BrokenCheckpoint(f"{where} is altered: its sha256 is not the one in COMMITTED. Copy the run there again")
    return raw, _parsed(raw, where, ("files", "best"))


# A published model -----------------------------------------------------------------------------------------------------


def _version(place: Place) -> Place | None:
    """The version of a model that is meant: the place itself, or the newest in it."""
    if place.maybe("MANIFEST.json") is not None:
        return place
    numbers = sorted(int(v) for v in place.folders() if v.isdigit())
    for number in reversed(numbers):
        version = places.opened(place.said(str(number)))
        if version.maybe("MANIFEST.json") is not None and version.maybe("card.json") is not None:
            return version
    return None


def _model(place: Place) -> Path:
    raw, card = place.sure("MANIFEST.json"), place.sure("card.json")
    manifest = _parsed(raw, place.said("MANIFEST.json"), ("files",))
    above, version, _ = places.split(place.uri)
    home = copies.home_of(place.uri, places.split(above)[1], [raw, card]) / version
    copies.bring(place, manifest["files"], home)
    if not (home / "card.json").exists():  # else evaluations made here stand on it
        copies.put(home / "card.json", card)
    copies.put(home / "MANIFEST.json", raw)
    return home


def _parsed(raw: bytes, where: str, mappings: Iterable[str]) -> dict[str, Any]:
    try:
        found = json.loads(raw)
        sound = all(isinstance(found[key], dict) for key in mappings)
        sound = sound and all(re.fullmatch("[0-9a-f]{64}", sha) for sha in found["files"].values())
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise BrokenCheckpoint(f"{where} is no manifest: it must list files with their sha256. Copy it there again")
    return dict(found)
