"""What a run tells: a live view or lines for a person, log.txt, and numbers for machines (JSON lines, trackers)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from statistics import fmean
from typing import Any, TextIO

from sparring.cluster.config import measuring
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.config.tracking import parsed
from sparring.cluster.config.values import flat
from sparring.cluster.errors import Interrupted, sentence
from sparring.cluster.terminal import duration, is_terminal
from sparring.cluster.trackers.trackers import Status, Trackers
from sparring.cluster.training.job import Job
from sparring.cluster.training.monitors import Alarm
from sparring.cluster.training.startup import Startup
from sparring.trainers.files import naming
from sparring.trainers.types import HeldOut, Metrics

ESTIMATE_AFTER = 20  # steps; the first ones are slow
INTERVAL = 2.0  # seconds between progress lines
SLOW = 5.0  # seconds of comparing networks from which on it is said
UNTRACED = " (its forward cannot be traced or has hooks, and runs as it is, slower)"
FILES = ("metrics.jsonl", "validation.jsonl", "alarms.jsonl")


class Progress:
    """Records every step and shows where the run is.

    Args:
        job: the run; log.txt and the JSON lines go into its folder; ``--log`` says who else is told.
        total: steps of the run.
        steps_per_epoch: for the display.
        startup: marked by the first step, and said.
    """

    def __init__(self, job: Job, *, total: int, steps_per_epoch: int, startup: Startup | None = None) -> None:
        self._folder, self._total, self._first, self._quiet = job.folder, total, job.first or 0, job.how.quiet
        self._steps_per_epoch, self._batch_size = steps_per_epoch, job.config.batch_size
        self._log = (job.folder.path / "log.txt").open("a")
        self._files: dict[str, TextIO] = {}
        self._open()
        self._live = None if self._quiet or not is_terminal() else _live_view(total)
        self._startup, self._per_step = startup, 0.0  # seconds, once a step is taken
        self._steps = self._first
        self._started = self._said = time.monotonic()
        self._since: dict[str, list[Mapping[str, float]]] = {}  # per agent, what the next line averages
        self._status: Status = "finished"
        names, settings = parsed(job.config.log), flat(job.config.to_dict())
        self._trackers = Trackers(
            names, job.folder.path, settings, first=self._first, say=self.event, parent=job.how.parent
        )
        self._trackers.artifact(job.folder.path / "config.yaml")
        self._tell_held_out_of(self._first)

    def event(self, text: str) -> None:
        """One line about something that happened."""
        self._note(text)
        if self._live is not None:
            self._live.event(text)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def ended(self, error: BaseException) -> None:
        """Why the run goes on no longer, for whoever looks into its folder; the command says it on stderr."""
        asked = isinstance(error, SystemExit) and not error.code  # as Ray ends a trial
        self._status = "stopped" if asked or isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
        self._note(f"ended: {sentence(error)}")

    def _note(self, text: str) -> None:
        with naming(self._folder.path / "log.txt"):
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self._log.flush()

    @property
    def steps(self) -> int:
        """Steps recorded so far."""
        return self._steps

    def step(self, t: int, metrics: Mapping[str, Metrics]) -> None:
        """Record step ``t`` of every agent."""
        told: dict[str, float] = {}
        for agent, m in metrics.items():
            line = {k: v for k, v in asdict(m).items() if k not in ("spans", "shares")}
            shares = {term: share._asdict() for term, share in m.shares.items()}
            self._write("metrics.jsonl", {"t": t, "agent": agent, **line, **({"shares": shares} if shares else {})})
            for term, share in m.shares.items():
                told |= {f"loss_share_{term}/{agent}": share.loss, f"gradient_share_{term}/{agent}": share.gradient}
            told |= {f"{name}/{agent}": value for name, value in m.values.items()}
            told[f"exchange_bytes/{agent}"] = m.exchange_bytes
        self._trackers.metrics(t, told)
        self._steps = t + 1
        if self._startup is not None:
            self._startup.mark("first step")
            self.event(str(self._startup))
            self._startup = None
        done, now = t + 1 - self._first, time.monotonic()
        per_step, left = (now - self._started) / done, self._total - t - 1
        if done == ESTIMATE_AFTER and left > 0:
            self._estimate(per_step, left, metrics)
        eta, self._per_step = duration(per_step * left), per_step
        if self._live is not None:
            epoch = f"epoch {t // self._steps_per_epoch + 1}/{-(-self._total // self._steps_per_epoch)}"
            self._live.step(t, metrics, epoch=epoch, per_second=self._batch_size / per_step, eta=eta)
            return
        for agent, m in metrics.items():
            if m.values:
                self._since.setdefault(agent, []).append(m.values)
        if now - self._said >= INTERVAL or left == 0:
            self._said = now
            steps = max(map(len, self._since.values()), default=0)
            self.event(f"step {t + 1:>{len(str(self._total))}}/{self._total}, means of {steps} steps, eta {eta}")
            for agent, seen in self._since.items():
                mean = {k: fmean(v[k] for v in seen if k in v) for k in seen[-1]}  # a term may begin in between
                self.event(f"  {agent}  {_values(mean)}")
            self._since.clear()

    def checkpoint(self, t: int, validation: Mapping[str, HeldOut]) -> None:
        """Record a committed checkpoint."""
        for agent, held_out in validation.items():
            self._write("validation.jsonl", {"t": t, "agent": agent, **asdict(held_out)})
            self._tell_held_out(t, agent, asdict(held_out))
        parts = [f"{a} clean {v.clean:.1%} robust {v.robust:.1%}" for a, v in validation.items()]
        self.event(f"checkpoint at step {t}" + (": held out " + ", ".join(parts) if parts else ""))

    def _tell_held_out(self, t: int, agent: str, held_out: Mapping[str, Any]) -> None:
        figures = ("clean", "robust", "own_attack")
        self._trackers.metrics(t, {f"held_out_{name}/{agent}": held_out[name] for name in figures})

    def _tell_held_out_of(self, t: int) -> None:
        """What the checkpoint gone back to was worth: trackers that forget step ``t`` forget that too, and it is not measured again."""
        for line in self._folder.lines("validation.jsonl"):
            if line["t"] == t:
                self._tell_held_out(t, line["agent"], line)

    def looking(self, config: RunConfig) -> None:
        """What is waited for when networks are compared, where that takes long; with few images it goes beside the steps."""
        by = config.measure
        if by.images is None:
            return
        steps = by.images * measuring.per_image(by, config) / measuring.per_step(config)
        about = f", about {duration(steps * self._per_step)}" if self._per_step else ""
        if not self._per_step or steps * self._per_step > SLOW:
            self.event(f"comparing networks on {by.images} held-out images at most{about}")

    def alarm(self, alarm: Alarm) -> None:
        """Record what a monitor saw."""
        self._write("alarms.jsonl", asdict(alarm))
        self._trackers.text(alarm.t, f"monitor/{alarm.agent}", f"{alarm.name}: {alarm.text}")
        self.event(f"monitor: {alarm.name} of {alarm.agent} at step {alarm.t}: {alarm.text}")

    def results(self, config: Mapping[str, Any], results: Mapping[str, float]) -> None:
        """The configuration and final figures, for trackers that compare runs by them."""
        self._trackers.results(config, results)

    def rewind(self, t: int) -> None:
        """Forget the numbers of step ``t`` and later."""
        for file in self._files.values():
            file.close()
        self._folder.rewind_metrics(t)
        self._trackers.rewind(t)
        self._tell_held_out_of(t)
        self._open()
        self._first, self._started = t, time.monotonic()
        self._steps = t

    def close(self) -> None:
        """Write out everything; what of it fails keeps nothing else from being closed."""
        with ExitStack() as closing:  # from the last to the first
            closing.callback(self._log.close)
            closing.callback(self._finish)
            for file in self._files.values():
                closing.callback(file.close)
            if self._live is not None:
                closing.callback(self._live.close)

    def _finish(self) -> None:
        self._trackers.artifact(self._folder.path / "env.json")
        self._trackers.finish(self._status)

    def _open(self) -> None:
        self._files = {name: (self._folder.path / name).open("a") for name in FILES}

    def _write(self, name: str, line: Mapping[str, Any]) -> None:
        with naming(self._folder.path / name):
            self._files[name].write(json.dumps(line) + "\n")
            self._files[name].flush()

    def _estimate(self, per_step: float, left: int, metrics: Mapping[str, Metrics]) -> None:
        memory = max(m.memory for m in metrics.values()) / 2**30
        checkpoints = self._folder.checkpoints
        kept = checkpoints.committed()[-1:]  # never one that is being written: its files come and go
        saved = sum(f.stat().st_size for t in kept for f in checkpoints.path(t).rglob("*") if f.is_file())
        self.event(
            f"estimate: {per_step * 1e3:.0f} ms per step, {duration(per_step * left)} to go; {memory:.2f} GiB per agent; "
            + (f"{saved / 2**20:.1f} MiB per checkpoint" if kept else "no checkpoint yet")
        )


def _live_view(total: int) -> Any:
    from rich.console import Console

    from sparring.cluster.training.live import LiveView

    return LiveView(Console(stderr=True), total=total)


def _values(values: Mapping[str, float]) -> str:
    return "  ".join(
        f"{k} {v:.1%}" if k.endswith("accuracy") else f"{k} {v:.4g}" for k, v in values.items() if k != "lr"
    )


def facts_table(facts: Mapping[str, Any]) -> list[str]:
    """agent -> node -> device, one line each."""
    return [
        f"{name}: {f.parameters:,} parameters{'' if f.traced else UNTRACED} on {f.host}{f' ({f.node})' if f.node else ''}, "
        f"{f.device}, process {f.pid}"
        for name, f in facts.items()
    ]
