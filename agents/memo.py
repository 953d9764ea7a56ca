"""Answers to clean batches that runs of one search share: a frozen network says the same to the same batch in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import torch
from torch import nn

from sparring.agents.checkpoint import write
from sparring.trainers.types import Answer


class Memo:
    """A folder with one file per step; what is not there is computed and put there.

    Args:
        folder: of the search; every combination of weights and batches has a folder of its own in it.
        model: the frozen network, whose weights are part of the key.
        batches: what else determines a step's batch and its answer: sha256 of the images, batch size, seed, rows.
    """

    def __init__(self, folder: Path, model: nn.Module, batches: str) -> None:
        digest = hashlib.sha256(batches.encode())
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        self._folder = folder / digest.hexdigest()[:32]
        self._folder.mkdir(parents=True, exist_ok=True)

    def answer(self, t: int, compute: Callable[[], Answer], *, device: torch.device) -> Answer:
        """Logits on the clean batch of step ``t``: what is kept, or else what ``compute`` says."""
        from safetensors.torch import load, save

        path = self._folder / f"{t}.safetensors"
        try:
            return Answer(load(path.read_bytes())["logits"].to(device))
        except FileNotFoundError:
            made = compute()
            content = save({"logits": made.logits.detach().cpu().contiguous()})
            write(path, content, writer=f".{uuid4().hex}")  # another run may be at the same step
            return made
