"""Published models in memory: found, checked, loaded, warmed, and replaced when a new version appears."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from sparring.agents import model_folder
from sparring.agents.ensemble import Ensemble
from sparring.serve.catalogue import robustness
from sparring.serve.protocol import metadata
from sparring.serve.settings import Settings
from sparring.trainers.config import Threat

log = logging.getLogger("sparring.serve")
Question: TypeAlias = tuple[
    str, int | None, np.ndarray
]  # name, version (None: the newest), [B, C, H, W] float32 in [0, 1]
Answer: TypeAlias = dict[str, Any]  # version; logits and probabilities [B, K] float32; of an ensemble disagreement [B]
State: TypeAlias = tuple[tuple[str, int, int], ...]  # names, sizes and times of a version's files
AGAIN = 60.0  # seconds after which a refused version is tried again though its files have not changed
KEPT = 3  # newest versions of a model that are served; older ones are given back


class Unknown(Exception):
    """No such model or version is served."""


@dataclass(frozen=True)
class Refusal:
    """Why a version is not served, and when it is looked at again: a copy may not have been complete."""

    why: str
    state: State
    until: float


@dataclass(frozen=True)
class Served:
    """One version of a model, ready."""

    model: nn.Module
    card: dict[str, Any]
    state: State

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of its images."""
        size = self.card["input"]
        return size["channels"], size["height"], size["width"]


class Models:
    """All served versions on one device.

    Args:
        settings: which folders; they are looked at again at every ``poll``.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._device = torch.device("cuda" if settings.gpus and torch.cuda.is_available() else "cpu")
        self._served: dict[str, dict[int, Served]] = {}
        self._refused: dict[str, dict[int, Refusal]] = {}
        self._busy = threading.Lock()

    def poll(self) -> None:
        """Take in what is new, give back what is gone; a version that is damaged is refused and the others go on."""
        with self._busy:
            try:
                folders = self._settings.folders()
            except OSError as error:  # storage that is away now: what is served goes on
                log.warning("models cannot be listed: %s", error)
                return
            served, refused = {}, {}
            for name, folder in folders.items():
                if model_folder.NAME.fullmatch(name):
                    served[name], refused[name] = self._look(name, folder)
            self._served, self._refused = served, refused  # at once: readers see the one or the other

    def _look(self, name: str, folder: Path) -> tuple[dict[int, Served], dict[int, Refusal]]:
        """The newest whole versions, and why newer ones are not among them."""
        before, refused_before = self._served.get(name, {}), self._refused.get(name, {})
        served: dict[int, Served] = {}
        refused: dict[int, Refusal] = {}
        try:
            found = _versions(folder)
        except OSError as error:
            log.warning("%s cannot be listed: %s", name, error)
            return before, refused_before
        for version in sorted(found, reverse=True):
            if len(served) == KEPT:
                break
            path = found[version]
            state = _state(path)
            known, refusal = before.get(version), refused_before.get(version)
            if refusal is not None and refusal.state == state and time.monotonic() < refusal.until:
                refused[version] = refusal
                continue
            try:
                if known is None:
                    served[version] = self._load(path)
                    log.info("serving %s version %d", name, version)
                elif known.state != state:  # an evaluation has written the card anew; weights never change
                    served[version] = replace(known, card=_card(path), state=state)
                else:
                    served[version] = known
            except Exception as error:  # whatever is wrong with this one, the others are served
                if known is not None:
                    served[version] = known
                    continue
                refused[version] = Refusal(str(error).replace(f"{path}/", ""), state, time.monotonic() + AGAIN)
                log.error("%s version %d is refused: %s", name, version, error)
        return dict(sorted(served.items())), refused

    def _load(self, folder: Path) -> Served:
        state, card = _state(folder), _card(folder)
        model = model_folder.load(folder).to(self._device).requires_grad_(False)
        made = Served(model, card, state)
        with torch.inference_mode():
            out = model(torch.zeros(2, *made.shape, device=self._device))
        if out.shape != (2, len(card["classes"])):
            raise ValueError(f"it does not tell {len(card['classes'])} classes apart, as its card says")
        if not bool(out.isfinite().all()):
            raise ValueError("it answers numbers that are not finite")
        return made

    def get(self, name: str, version: int | None) -> tuple[int, Served]:
        """A version, the newest when None.

        Raises:
            Unknown: it is not served.
        """
        versions = self._served.get(name)
        if not versions:
            raise Unknown(f"no model {name!r}")
        number = max(versions) if version is None else version
        if number not in versions:
            raise Unknown(f"model {name!r} has no version {number}; it has {', '.join(map(str, versions))}")
        return number, versions[number]

    def describe(self) -> dict[str, dict[str, Any]]:
        """Per name: ``versions`` (number -> card) and ``refused`` (number -> why)."""
        served, refused = self._served, self._refused
        return {
            name: {
                "versions": {v: s.card for v, s in versions.items()},
                "refused": {v: r.why for v, r in refused.get(name, {}).items()},
            }
            for name, versions in served.items()
        }

    def predict(self, asked: Sequence[Question]) -> list[Answer | Unknown]:
        """What versions say to the questions of several requests; those to the same version go through it together.

        Returns:
            one answer per question, in order; ``Unknown`` where the version is not served.
        """
        answers: list[Answer | Unknown] = [Unknown("")] * len(asked)
        together: dict[tuple[str, int], list[int]] = {}
        together_with: dict[tuple[str, int], Served] = {}
        for i, (name, version, _) in enumerate(asked):
            try:
                number, served = self.get(name, version)
                together.setdefault((name, number), []).append(i)
                together_with[name, number] = served
            except Unknown as error:
                answers[i] = error
        for (name, number), indices in together.items():
            served = together_with[name, number]
            fitting = [i for i in indices if asked[i][2].shape[1:] == served.shape]
            for i in set(indices) - set(fitting):
                answers[i] = Unknown(f"model {name!r} version {number} takes images of another shape")
            if not fitting:
                continue
            indices = fitting
            whole = self._predict(served, np.concatenate([asked[i][2] for i in indices]))
            ends = np.cumsum([len(asked[i][2]) for i in indices])[:-1]
            parts = {k: np.split(v, ends) for k, v in whole.items()}
            for j, i in enumerate(indices):
                answers[i] = {"version": number, **{k: v[j] for k, v in parts.items()}}
        return answers

    def _predict(self, served: Served, x: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(x)).to(self._device)
            logits: Tensor = served.model(images)
            answer = {"logits": _array(logits), "probabilities": _array(logits.softmax(1))}
            if isinstance(served.model, Ensemble):
                answer["disagreement"] = _array(served.model.disagreement(images).float())
        return answer


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


def _versions(folder: Path) -> dict[int, Path]:
    """Versions in ``models/NAME``, or the one that the folder itself is."""
    if (folder / "MANIFEST.json").is_file():
        return {int(folder.name) if _is_number(folder.name) else 1: folder}
    return {int(p.name): p for p in folder.iterdir() if _is_number(p.name) and (p / "MANIFEST.json").is_file()}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _state(folder: Path) -> State:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "evaluation" not in p.relative_to(folder).parts)
    return tuple((str(p.relative_to(folder)), (s := p.stat()).st_size, s.st_mtime_ns) for p in files)


def _card(folder: Path) -> dict[str, Any]:
    """A card that has what the service tells of it.

    Raises:
        CheckpointError, KeyError, TypeError: it has not.
    """
    card = model_folder.card(folder)
    robustness(card)
    metadata(folder.name, {1: card}, 1)
    _ = [Threat.parse(t) for t in card["threats"]]
    return card
