"""A tracker in a process of its own: whatever its library does, training goes on.

this process --lines of JSON--> queue --a thread--> pipe --> process.py --> the library --> its server
                                full, or the pipe is broken: said once, and what follows is dropped
"""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MOST = 10_000  # messages that wait for a tracker before it counts as hung
PASSWORD = re.compile(r"://[^/@\s]+@")  # of a URI, which libraries quote when they fail
PATIENCE = 20.0  # seconds that it has at the end
STARTS = 60.0  # and as many, from its beginning, until its library is loaded and knows its run: of a short run on a busy machine
STARTED = "import sys; sys.path.insert(0, sys.argv[1]); from sparring.cluster.trackers.process import main; main()"


class Apart:
    """See ``trackers.Tracker``.

    Args:
        name: wandb or mlflow.
        folder: NAME.json (which run of the tracker's this is) and NAME.log (what its library says) go there.
        start: name, settings and parent of the run.
        say: told once what went wrong.
    """

    def __init__(self, name: str, folder: Path, start: Mapping[str, Any], say: Callable[[str], None]) -> None:
        folder.mkdir(exist_ok=True)
        self._name, self._log, self._say = name, folder / f"{name}.log", say
        self._began, self._known = (
            time.monotonic(),
            folder / f"{name}.json",
        )  # which process.py writes once it has started
        self._lost, self._said = False, False
        self._queue: queue.Queue[str | None] = queue.Queue(MOST)
        home = str(
            Path(sys.modules["sparring"].__file__ or "").resolve().parent
        )  # in a clone only this process finds it
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", STARTED, home, name, str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is the run's to hear, which then tells how it has ended
            )
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()
        self._tell(start=dict(start))

    def metrics(self, t: int, values: Mapping[str, float]) -> None:
        self._tell(metrics=[t, dict(values)])

    def text(self, t: int, name: str, text: str) -> None:
        self._tell(text=[t, name, text])

    def rewind(self, t: int) -> None:
        """What was told first stays: see ``process.Told``."""

    def artifact(self, path: Path) -> None:
        self._tell(artifact=str(path))

    def results(self, config: Mapping[str, Any], values: Mapping[str, float]) -> None:
        self._tell(results=dict(values))

    def finish(self, status: str) -> str | None:
        self._tell(finish=status)
        while self._starts():
            time.sleep(0.05)
        ended = time.monotonic() + (0 if self._lost else PATIENCE)
        try:
            self._queue.put(None, timeout=max(0.0, ended - time.monotonic()))
            self._thread.join(max(0.0, ended - time.monotonic()))
            code = self._process.wait(max(0.0, ended - time.monotonic()))
        except (queue.Full, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
            return self._once(f"did not end within {PATIENCE:g} s and was left")
        return self._once(f"failed ({self._last()})") if code else None

    def _starts(self) -> bool:
        """Whether it may still be loading its library."""
        waits = time.monotonic() < self._began + STARTS and not self._known.exists()
        return waits and not self._lost and self._process.poll() is None

    def _tell(self, **message: Any) -> None:
        if self._lost:
            trouble = self._once(f"failed ({self._last()})" if self._process.poll() else "no longer answers")
            if trouble:
                self._say(trouble)
            return
        try:
            self._queue.put_nowait(json.dumps(message))
        except queue.Full:
            self._lost = True

    def _write(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            while (line := self._queue.get()) is not None:
                pipe.write(line + "\n")
                pipe.flush()
            pipe.close()
        except OSError:
            self._process.wait()
            self._lost = True

    def _once(self, what: str) -> str | None:
        if self._said:
            return None
        self._said = True
        return f"the tracker {self._name} {what}; training is not touched by it. See {self._log}"

    def _last(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return PASSWORD.sub("://***@", lines[-1])[:200] if lines else "it says nothing"
