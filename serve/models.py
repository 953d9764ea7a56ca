"""Published models in memory: found, checked, loaded, warmed, and replaced when a new version appears."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sparring.agents import model_folder, rollout
from sparring.agents.rollout import Rollout
from sparring.serve import versions
from sparring.serve.catalogue import NotFound
from sparring.serve.settings import Settings
from sparring.serve.versions import Served, State
from sparring.trainers import trusting

log = logging.getLogger("sparring.serve")
AGAIN = 60.0  # seconds after which a refused version is tried again though its files have not changed
KEPT = 3  # newest versions of a model that are served; older ones are given back


@dataclass(frozen=True)
class Refusal:
    """Why a version is not served, and when it is looked at again: a copy may not have been complete."""

    why: str
    state: State
    until: float


class Models:
    """All served versions on one device.

    Args:
        settings: which folders; they are looked at again at every ``poll``.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        trusting.admit(settings.own_code)
        self._device = torch.device("cuda" if settings.gpus and torch.cuda.is_available() else "cpu")
        self._served: dict[str, dict[int, Served]] = {}
        self._refused: dict[str, dict[int, Refusal]] = {}
        self._rollouts: dict[str, Rollout] = {}
        self.described: dict[str, dict[str, Any]] = {}  # by name: versions (number -> card), refused (number -> why)
        self._busy = threading.Lock()

    def poll(self) -> None:
        """Take in what is new, give back what is gone; a version that is damaged is refused and the others go on."""
        with self._busy:
            try:
                folders = self._settings.folders()
            except OSError as error:  # storage that is away now: what is served goes on
                log.warning("models cannot be listed: %s", error)
                return
            served, refused, rollouts = {}, {}, {}
            for name, folder in folders.items():
                if model_folder.NAME.fullmatch(name):
                    rollouts[name] = self._rollout(name, folder)
                    served[name], refused[name] = self._look(name, folder, rollouts[name].named)
            self._rollouts = rollouts
            self._served, self._refused = served, refused  # at once: readers see the one or the other
            self.described = _described(served, refused, rollouts)

    def _rollout(self, name: str, folder: Path) -> Rollout:
        try:
            return rollout.read(folder)
        except (ValueError, OSError) as error:
            log.error("%s goes on as before: %s", name, error)
            return self._rollouts.get(name, Rollout())

    def _look(self, name: str, folder: Path, named: set[int]) -> tuple[dict[int, Served], dict[int, Refusal]]:
        """The newest whole versions and those that are named, and why others are not among them."""
        before, refused_before = self._served.get(name, {}), self._refused.get(name, {})
        served: dict[int, Served] = {}
        refused: dict[int, Refusal] = {}
        try:
            found = versions.versions(folder)
        except OSError as error:
            log.warning("%s cannot be listed: %s", name, error)
            return before, refused_before
        for version in sorted(found, reverse=True):
            if len(served) >= KEPT and version not in named:
                continue
            path = found[version]
            state = versions.state_of(path)
            known, refusal = before.get(version), refused_before.get(version)
            if refusal is not None and refusal.state == state and time.monotonic() < refusal.until:
                refused[version] = refusal
                continue
            try:
                if known is None:
                    served[version] = versions.load(path, self._device)
                    log.info("serving %s version %d", name, version)
                elif known.state != state:
                    served[version] = versions.changed(known, path, self._device)
                else:
                    served[version] = known
            except Exception as error:  # whatever is wrong with this one, the others are served
                if known is not None:
                    log.error("%s version %d goes on as it was: %s", name, version, error)
                    served[version] = replace(known, state=state)
                    continue
                refused[version] = Refusal(str(error).replace(f"{path}/", ""), state, time.monotonic() + AGAIN)
                log.error("%s version %d is refused: %s", name, version, error)
        return dict(sorted(served.items())), refused

    def rollout(self, name: str) -> Rollout:
        """What the versions of a model are for, of those that are served."""
        now, there = self._rollouts.get(name, Rollout()), self._served.get(name, {})
        canary = now.canary if now.canary in there else None
        return replace(
            now, canary=canary, share=now.share if canary else 0.0, shadow=now.shadow if now.shadow in there else None
        )

    def get(self, name: str, version: int | None, shape: tuple[int, ...] | None = None) -> tuple[int, Served]:
        """A version, the newest when None. Who holds it may go on using it when it is no longer served.

        Args:
            shape: of the images that it is to take; None: any.

        Raises:
            NotFound: it is not served, or takes images of another shape.
        """
        versions = self._served.get(name)
        if not versions:
            raise NotFound(f"no model {name!r}")
        number = default_of(versions, self._rollouts.get(name, Rollout())) if version is None else version
        if number not in versions:
            raise NotFound(f"model {name!r} has no version {number}; it has {', '.join(map(str, versions))}")
        if shape is not None and shape != versions[number].shape:
            raise NotFound(f"model {name!r} version {number} takes images of another shape")
        return number, versions[number]


def default_of(versions: Mapping[int, Any], now: Rollout) -> int:
    """The version that answers where a request names none: the one that was named, or the newest if that is not served."""
    return now.version if now.version is not None and now.version in versions else max(versions)


def _described(
    served: dict[str, dict[int, Served]], refused: dict[str, dict[int, Refusal]], rollouts: dict[str, Rollout]
) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "versions": {v: s.card for v, s in versions.items()},
            "default": default_of(versions, rollouts[name]) if versions else None,
            "rollout": asdict(rollouts[name]),
            "refused": {v: r.why for v, r in refused.get(name, {}).items()},
        }
        for name, versions in served.items()
    }
