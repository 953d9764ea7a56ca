"""TensorBoard's files of events, in the run's folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sparring.cluster.terminal import once
from sparring.trainers.files import naming


class TensorBoard:
    """See ``trackers.Tracker``.

    Args:
        first: it forgets what it had from this step on.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._quiet = folder, ExitStack()
        self._quiet.enter_context(once("tensorboard"))
        with naming(folder):
            folder.mkdir(exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
            self._quiet.callback(os.close, handle)
            # it opens its files by name again and again: through a handle they are this run's, wherever its folder is moved meanwhile
            place = Path(f"/proc/self/fd/{handle}")
            self._board = SummaryWriter(str(place if place.exists() else folder), purge_step=first)

    def metrics(self, t: int, values: Mapping[str, float]) -> None:
        with naming(self._folder):
            for name, value in values.items():
                self._board.add_scalar(name, value, t)

    def text(self, t: int, name: str, text: str) -> None:
        with naming(self._folder):
            self._board.add_text(name, text, t)

    def rewind(self, t: int) -> None:
        """What comes again is drawn over what was."""

    def artifact(self, path: Path) -> None:
        """The files lie beside it."""

    def results(self, config: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """As its HParams page compares them."""
        with naming(self._folder):
            self._board.add_hparams(dict(config), dict(values), run_name="hparams")

    def finish(self, status: str) -> None:
        with self._quiet, naming(self._folder):
            self._board.close()
