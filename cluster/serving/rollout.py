"""Changes to what a model's versions are for, checked before any service reads them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sparring.agents import model_folder
from sparring.agents.rollout import Rollout, read, save
from sparring.cluster.errors import UsageError
from sparring.cluster.serving.options import Roll

SHARE = 0.1  # of a canary's requests, where nobody says otherwise


def roll(folder: Path, change: Roll) -> Rollout:
    """What ``models/NAME`` does from now on.

    Raises:
        UsageError: no such model or version, one that is damaged, or nothing to go back to.
    """
    there = model_folder.versions(folder)
    if not there:
        raise UsageError(f"no published model in {folder}; publish one: sparring publish RUN --as {folder.name}")
    try:
        now = read(folder)
    except ValueError as error:
        raise UsageError(str(error)) from None
    before, answering = now, now.version or there[-1]
    if change.back and now.before is None:
        raise UsageError(f"{folder} has answered by no other version before {answering}; name one with --to")
    to = now.before if change.back else change.to
    if to is not None:
        now = Rollout(version=to, before=answering if to != answering else now.before)
    if change.end:
        now = replace(now, canary=None, share=0.0, shadow=None)
    if change.canary is not None:  # the newest, mostly: another must be named, or it would answer everything
        now = replace(now, version=_beside(now, change.canary, there), canary=change.canary)
    if change.share is not None or change.canary is not None:
        if now.canary is None:
            raise UsageError(f"--share {change.share} of which no canary is named; add --canary VERSION")
        now = _with_share(now, SHARE if change.share is None else change.share)
    if change.shadow is not None:
        now = replace(now, version=_beside(now, change.shadow, there), shadow=change.shadow)
    for version in sorted(now.named):
        _check(folder, version, there)
    if now != before:
        save(folder, now)
    return now


def _with_share(now: Rollout, share: float) -> Rollout:
    try:
        return replace(now, share=share)
    except ValueError as error:
        raise UsageError(f"--share: {error}") from None


def _beside(now: Rollout, tried: int, there: list[int]) -> int:
    """The version that answers beside one that is tried: the one that is named, or the newest other."""
    if now.version == tried:
        raise UsageError(f"version {tried} answers already; try another, or let another answer first: --to VERSION")
    others = [version for version in there if version != tried]
    if not others:
        raise UsageError(f"version {tried} is the only one; a canary or a shadow needs another that answers")
    return now.version or others[-1]


def _check(folder: Path, version: int, there: list[int]) -> None:
    if version not in there:
        raise UsageError(f"{folder} has no version {version}; there are {', '.join(map(str, there))}")
    wrong = model_folder.problems(folder / str(version))
    if wrong:
        raise UsageError(f"version {version} cannot be served: {'; '.join(wrong)}")


def result(folder: Path, rollout: Rollout) -> dict[str, Any]:
    """For the command's answer."""
    return {"model": folder.name, "versions": model_folder.versions(folder), **asdict(rollout)}


def show(told: dict[str, Any]) -> None:
    """In words."""
    answers = "the newest version" if told["version"] is None else f"version {told['version']}"
    print(f"{told['model']}: {answers} of {', '.join(map(str, told['versions']))} answers", flush=True)
    if told["canary"] is not None:
        print(
            f"  canary: version {told['canary']} answers {100 * told['share']:g} % of requests that name none",
            flush=True,
        )
    if told["shadow"] is not None:
        print(f"  shadow: version {told['shadow']} is asked too, and disagreement counted in /metrics", flush=True)
