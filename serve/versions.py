"""One version of a published model: its folder read, checked, loaded and asked once."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from sparring.agents import model_folder
from sparring.serve.catalogue import line, middle_of
from sparring.serve.protocol import metadata
from sparring.trainers import keeping, trusting
from sparring.trainers.config import Threat

State: TypeAlias = tuple[tuple[str, int, int], ...]  # names, sizes and times of a version's files


@dataclass(frozen=True)
class Served:
    """One version of a model, ready."""

    model: nn.Module
    card: dict[str, Any]
    files: dict[str, str]  # name -> sha256, of its manifest
    state: State
    device: torch.device
    seconds: float  # that it took for one image

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of its images."""
        size = self.card["input"]
        return size["channels"], size["height"], size["width"]


def versions(folder: Path) -> dict[int, Path]:
    """Versions in ``models/NAME``, or the one that the folder itself is."""
    if (folder / "MANIFEST.json").is_file():
        return {int(folder.name) if _is_number(folder.name) else 1: folder}
    return {int(p.name): p for p in folder.iterdir() if _is_number(p.name) and (p / "MANIFEST.json").is_file()}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def state_of(folder: Path) -> State:
    """What tells whether a version's files are those of before."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "evaluation" not in p.relative_to(folder).parts)
    return tuple((str(p.relative_to(folder)), (s := p.stat()).st_size, s.st_mtime_ns) for p in files)


def load(folder: Path, device: torch.device) -> Served:
    """A version, ready.

    Raises:
        CheckpointError, ValueError: something is missing, altered, says otherwise than the rest, or is code of somebody else's.
    """
    codes = keeping.know_all(folder)
    if codes and trusting.came_from(folder):
        raise ValueError("it came from the Hub with Python code of its own, which serve never runs")
    for code in codes:
        if not trusting.may_run(code):
            raise ValueError(
                f"it brings Python code that is not known on this machine as yours, {code.main} in {folder}. Read it; to make it yours: "
                f"sparring publish {folder} --as NAME --trust-code {code.sha256}"
            )
    state, card, files = state_of(folder), _card(folder), model_folder.manifest(folder)["files"]
    model = model_folder.load(folder).to(device).requires_grad_(False)
    made = Served(model, card, files, state, device, 0.0)
    with torch.inference_mode():
        out = model(torch.zeros(2, *made.shape, device=device))
        started = time.perf_counter()
        model(torch.zeros(1, *made.shape, device=device)).tolist()
    made = replace(made, seconds=time.perf_counter() - started)
    if out.shape != (2, len(card["classes"])):
        raise ValueError(f"it does not tell {len(card['classes'])} classes apart, as its card says")
    if not bool(out.isfinite().all()):
        raise ValueError("it answers numbers that are not finite")
    return made


def changed(known: Served, folder: Path, device: torch.device) -> Served:
    """A version whose files have other times or sizes: mostly an evaluation has written the card anew, and the weights, checked by
    their hashes again, are those of before. A folder with other weights is another version under the same number.

    Raises:
        CheckpointError, ValueError: as :func:`load`.
    """
    wrong = model_folder.problems(folder)
    if wrong:
        raise ValueError("; ".join(wrong))
    if model_folder.manifest(folder)["files"] != known.files:
        return load(folder, device)
    return replace(known, card=_card(folder), state=state_of(folder))


def _card(folder: Path) -> dict[str, Any]:
    """A card that has what the service tells of it.

    Raises:
        CheckpointError, ValueError: it has not.
    """
    card = model_folder.card(folder)
    try:
        middle_of(card)
        line(folder.name, {"versions": {1: card}, "refused": {}})
        metadata(folder.name, {1: card}, 1)
        _ = [Threat.parse(t) for t in card["threats"]]
        named = all(isinstance(name, str) for name in card["classes"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"card.json lacks what the service tells of a model: {type(error).__name__} {error}") from None
    if not named:
        raise ValueError("card.json names classes that are no texts")
    return card
