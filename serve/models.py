"""Published models in memory: found, checked, loaded, warmed, and replaced when a new version appears."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from agents import model_folder
from agents.checkpoint import CheckpointError
from agents.ensemble import Ensemble
from serve.settings import Settings

log = logging.getLogger("sparring.serve")
Question: TypeAlias = tuple[
    str, int | None, np.ndarray
]  # name, version (None: the newest), [B, C, H, W] float32 in [0, 1]
Answer: TypeAlias = dict[str, Any]  # version; logits and probabilities [B, K] float32; of an ensemble disagreement [B]
KEPT = 3  # newest versions of a model that are served; older ones are given back


class Unknown(Exception):
    """No such model or version is served."""


@dataclass(frozen=True)
class Served:
    """One version of a model, ready."""

    model: nn.Module
    card: dict[str, Any]

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
        self._refused: dict[str, dict[int, str]] = {}
        self._busy = threading.Lock()

    def poll(self) -> None:
        """Take in what is new, give back what is gone; a version that is damaged is refused and the others go on."""
        with self._busy:
            folders = self._settings.folders()
            for name, folder in folders.items():
                if model_folder.NAME.fullmatch(name):
                    self._look(name, folder)
            for name in set(self._served) - set(folders):
                del self._served[name]

    def _look(self, name: str, folder: Path) -> None:
        found = _versions(folder)
        served, refused = dict(self._served.get(name, {})), self._refused.setdefault(name, {})
        for version in sorted(found)[-KEPT:]:
            if version in served or version in refused:
                continue
            try:
                served[version] = self._load(found[version])
                log.info("serving %s version %d", name, version)
            except (CheckpointError, ValueError, KeyError, RuntimeError) as error:
                refused[version] = str(error)
                log.error("%s version %d is refused: %s", name, version, error)
        kept = sorted(v for v in served if v in found)[-KEPT:]
        self._served[name] = {v: served[v] for v in kept}  # at once: nobody sees a model without its versions

    def _load(self, folder: Path) -> Served:
        made = Served(model_folder.load(folder).to(self._device).requires_grad_(False), model_folder.card(folder))
        if made.model(torch.zeros(2, *made.shape, device=self._device)).shape != (2, len(made.card["classes"])):
            raise ValueError(f"{folder} does not tell {len(made.card['classes'])} classes apart, as its card says")
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
        return {
            name: {
                "versions": {v: s.card for v, s in versions.items()},
                "refused": dict(self._refused.get(name, {})),
            }
            for name, versions in self._served.items()
        }

    def predict(self, asked: Sequence[Question]) -> list[Answer | Unknown]:
        """What versions say to the questions of several requests; those to the same version go through it together.

        Returns:
            one answer per question, in order; ``Unknown`` where the version is not served.
        """
        answers: list[Answer | Unknown] = [Unknown("")] * len(asked)
        together: dict[tuple[str, int], list[int]] = {}
        for i, (name, version, _) in enumerate(asked):
            try:
                together.setdefault((name, self.get(name, version)[0]), []).append(i)
            except Unknown as error:
                answers[i] = error
        for (name, number), indices in together.items():
            try:
                _, served = self.get(name, number)
            except Unknown as error:  # given back in between
                for i in indices:
                    answers[i] = error
                continue
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
    """Whole versions in ``models/NAME``, or the one that the folder itself is."""
    if (folder / "MANIFEST.json").is_file():
        return {int(folder.name) if folder.name.isdigit() else 1: folder}
    return {v: folder / str(v) for v in model_folder.versions(folder)} if folder.is_dir() else {}
