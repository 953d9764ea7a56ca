"""What the driver of a pretraining waits for, and how it tells: room for all workers, then step after step."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sparring.cluster.config.settings import Placement
from sparring.cluster.errors import NoResources
from sparring.cluster.machines import placement
from sparring.cluster.machines.fitting import Bundle

STARTS = 180.0  # seconds that a process has to start


def await_room(bundles: Sequence[Bundle], wanted: Placement, *, quiet: bool) -> None:
    """Ray Train (2.60) would wait for ever, and without a word, for what others use.

    Raises:
        NoResources: there was no room in time; for how many workers there is.
    """
    import ray

    def say(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    try:
        placement.release(placement.reserve(bundles, wanted, say=say))
    except NoResources as error:
        free, each = ray.available_resources(), bundles[0].resources
        fewer = min(int(free.get(kind, 0) / needed) for kind, needed in each.items() if needed)
        if 0 < fewer < len(bundles):
            raise NoResources(f"{error}; or begin with fewer: --workers {fewer}") from error
        raise


class Steps:
    """That steps are made: Ray Train (2.60) waits for good for a controller of its own that hangs.

    Args:
        run: whose metrics grow.
        patience: seconds without one.
    """

    def __init__(self, run: Path, patience: float) -> None:
        self._files, self.patience = (run / "metrics.jsonl", run / "log.txt"), patience
        self._seen = self._sizes()

    def _sizes(self) -> list[int]:
        return [file.stat().st_size if file.exists() else 0 for file in self._files]

    @property
    def sentence(self) -> str:
        """What a user is told."""
        return (
            f"no step was made for {self.patience:.0f} s, though its processes are there. Nothing committed is lost; continue with the same "
            "command, its --name and --resume-if-exists. Steps that take that long need a larger --call-timeout"
        )

    def answers(self) -> bool:
        """Whether anything was written since the last question."""
        before, self._seen = self._seen, self._sizes()
        return before != self._seen


@contextmanager
def followed(log: Path, *, quiet: bool) -> Iterator[None]:
    """Print what the first worker adds to the log, as it comes."""
    ended = threading.Event()

    def follow() -> None:
        shown = log.stat().st_size if log.exists() else 0
        while True:
            last = ended.wait(0.2)
            text = log.read_text()[shown:] if log.exists() else ""
            for line in text.splitlines():
                print(line[20:], file=sys.stderr, flush=True)  # without date and time
            shown += len(text)
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    if not quiet:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if not quiet:
            thread.join()
