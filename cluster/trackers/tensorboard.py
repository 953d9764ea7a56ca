"""TensorBoard's files of events, in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """See ``trackers.Tracker``.

    Args:
        first: it forgets what it had from this step on.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder), purge_step=first)

    def metrics(self, t: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, t)

    def text(self, t: int, name: str, text: str) -> None:
        self._board.add_text(name, text, t)

    def rewind(self, t: int) -> None:
        """What comes again is drawn over what was."""

    def artifact(self, path: Path) -> None:
        """The files lie beside it."""

    def results(self, config: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """As its HParams page compares them."""
        self._board.add_hparams(dict(config), dict(values), run_name="hparams")

    def finish(self, status: str) -> None:
        self._board.close()
