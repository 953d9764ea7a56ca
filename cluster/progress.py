"""What a run tells: lines for a person (stderr and log.txt), numbers for machines (metrics.jsonl, TensorBoard)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster.run_folder import RunFolder
from trainers.types import Metrics

ESTIMATE_AFTER = 20  # steps; the first ones are slow
INTERVAL = 2.0  # seconds between progress lines


class Progress:
    """Records every step and says from time to time where the run is.

    Args:
        folder: where log.txt, metrics.jsonl and tensorboard/ go.
        total: steps of the run.
        first: step at which this process starts; TensorBoard forgets what it had from there on.
        quiet: no lines on stderr.
    """

    def __init__(self, folder: RunFolder, *, total: int, first: int, quiet: bool = False) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._total, self._first, self._quiet = total, first, quiet
        self._log = (folder.path / "log.txt").open("a")
        self._folder = folder
        self._metrics = (folder.path / "metrics.jsonl").open("a")
        self._board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=first)
        self._started = self._said = time.monotonic()

    def event(self, text: str) -> None:
        """One line about something that happened."""
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._log.flush()
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def step(self, t: int, metrics: Mapping[str, Metrics]) -> None:
        """Record step ``t`` of every learner."""
        for agent, m in metrics.items():
            self._metrics.write(json.dumps({"t": t, "agent": agent, **asdict(m)}) + "\n")
            for name, value in m.values.items():
                self._board.add_scalar(f"{name}/{agent}", value, t)
            self._board.add_scalar(f"exchange_bytes/{agent}", m.exchange_bytes, t)
        self._metrics.flush()
        done, now = t + 1 - self._first, time.monotonic()
        if done == ESTIMATE_AFTER and self._total - t > 1:
            per_step = (now - self._started) / done
            self.event(
                f"estimate: {per_step * 1e3:.0f} ms per step, {_duration(per_step * (self._total - t - 1))} to go"
            )
        if now - self._said >= INTERVAL or t + 1 == self._total:
            self._said = now
            left = (now - self._started) / done * (self._total - t - 1)
            for agent, m in metrics.items():
                self.event(
                    f"step {t + 1:>{len(str(self._total))}}/{self._total}  {agent}  {_values(m.values)}  (eta {_duration(left)})"
                )

    def checkpoint(self, t: int, validation: Mapping[str, Mapping[str, float]]) -> None:
        """Say and record a committed checkpoint."""
        for agent, accuracy in validation.items():
            for name in ("clean", "robust"):
                self._board.add_scalar(f"held_out_{name}/{agent}", accuracy[name], t)
        parts = [f"{a} clean {v['clean']:.1%} robust {v['robust']:.1%}" for a, v in validation.items()]
        self.event(f"checkpoint at step {t}" + (": held out " + ", ".join(parts) if parts else ""))

    def rewind(self, t: int) -> None:
        """Forget the numbers of step ``t`` and later."""
        self._metrics.close()
        self._folder.rewind_metrics(t)
        self._metrics = (self._folder.path / "metrics.jsonl").open("a")
        self._first, self._started = t, time.monotonic()

    def close(self) -> None:
        """Write out everything."""
        self._metrics.close()
        self._board.close()
        self._log.close()


def _values(values: Mapping[str, float]) -> str:
    shown = [k for k in values if k not in ("lr",)]
    return "  ".join(f"{k} {values[k]:.1%}" if k.endswith("accuracy") else f"{k} {values[k]:.4g}" for k in shown)


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{s:02}s" if minutes else f"{s}s"


def facts_table(facts: Mapping[str, Any]) -> list[str]:
    """agent -> host -> device, one line each."""
    return [
        f"{name}: {f.parameters:,} parameters on {f.host}, {f.device}, process {f.pid}" for name, f in facts.items()
    ]
