"""The training loop.

submit(t) ---> references only; agents exchange among themselves     (window steps in flight)
save(t), evaluate(t) ---> queued behind the steps like any other call: nobody drains
collect(oldest) ---> floats: record a step, or commit a checkpoint once its files and accuracies are in
an error ---> the program's own: raise.  Lost processes: revive them, roll EVERYONE back to the newest whole
              checkpoint, replay. Replay gives the same bytes, since every random draw is a function of the step.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

from sparring.cluster.errors import BrokenCheckpoint, Infrastructure, Interrupted, TrainingStopped, of_agent
from sparring.cluster.machines.stop import StopSignal
from sparring.cluster.runs import images
from sparring.cluster.runs.mirror import Mirror
from sparring.cluster.team.team import Failure, Pending, Team
from sparring.cluster.training import timeline
from sparring.cluster.training.job import Job
from sparring.cluster.training.monitors import Alarm, Monitors
from sparring.cluster.training.pace import Links, Pace
from sparring.cluster.training.progress import Progress
from sparring.cluster.training.saving import Saver
from sparring.trainers.types import Metrics

ROLLBACKS = 3  # with half the learning rate each; a run that still collapses needs a person


class _Collapsed(Exception):
    def __init__(self, alarm: Alarm) -> None:
        super().__init__(alarm)
        self.alarm = alarm


class Controller:
    """Drives one run to its end.

    Args:
        job: the run. Who wants its reports is told every committed checkpoint's, and no step is taken before: it may stop the run.
        team: all agents.
        progress: told about everything.
        monitors: look at every result.
        stop: set by a signal; the step under way is finished and saved.
        total: steps of the run.
    """

    def __init__(
        self, job: Job, team: Team, progress: Progress, monitors: Monitors, stop: StopSignal, *, total: int
    ) -> None:
        self.job, self.team, self.progress, self.monitors = job, team, progress, monitors
        self.stop, self.total = stop, total
        self.folder, self.config, self.reported = job.folder, job.config, job.how.reported
        self.checkpoints = job.folder.checkpoints
        self.mirror = Mirror(job.config.mirror, job.folder.path.name) if job.config.mirror else None
        self._pending: deque[Pending] = deque()
        self._saver, self._traced = Saver(job, team), -1  # the step whose timeline is written
        self._pace, self._links = Pace(job.config, total), Links()
        self._halved = Counter[int]()  # how often training went back to a checkpoint with half the rate

    def fit(self) -> None:
        """Train to the end, from the checkpoint that the job goes on from, or from fresh agents.

        Raises:
            Interrupted: a signal came; everything is saved.
            TrainingStopped: a loss or weight is not finite, or training collapsed and is to stop.
            Infrastructure: more than ``max_failures`` recoveries.
        """
        first, failures, rollbacks, failure, collapse = self.job.first, 0, 0, None, None
        if self.config.trace:
            self._traced = min((first or 0) + timeline.STEP, self.total - 1)
        while True:
            try:
                self.job.check()  # going back writes into the folder
                if failure is not None:
                    first = self._recover(failure)
                elif collapse is not None:
                    first = self._roll_back(collapse)
                elif first is not None:
                    self._restore(first)
                failure = collapse = None
                self._train(first or 0)
                return
            except _Collapsed as seen:
                collapse = seen.alarm
                self._settle()
                rollbacks += 1
                if rollbacks > ROLLBACKS or self.config.on_collapse == "stop":
                    raise TrainingStopped(
                        f"training stopped itself: {collapse.name} of {collapse.agent} at step {collapse.t}: {collapse.text}. "
                        f"Everything is saved in {self.folder}"
                    ) from None
            except Exception as error:
                failure, failures = self._diagnose(error), failures + 1
                if failures > self.config.max_failures:
                    raise Infrastructure(
                        f"gave up after {self.config.max_failures} recoveries; last: {failure.reason}. "
                        f"Nothing committed is lost; continue with: sparring resume {self.folder}"
                    ) from error

    def _train(self, t: int) -> None:
        self._now = self.config.at(t)
        saved = self.checkpoints.committed()[-1:] == [t]
        if not saved and t == 0:
            self._checkpoint(0, compare=False)
            saved = True
        begun = t  # where a restored team has the settings of that step already
        while t < self.total and not self.stop.requested:
            if t in self.config.changes and t != begun:
                self._change(t)
            self._pending.append(self._pace.submitted(self.team, self._now.method, t))
            t += self._pending[-1].steps
            regular = t % self.config.checkpoint.every == 0 or t == self.total
            saved = regular or self._saver.node_leaves(self.progress.event)
            if saved:
                self._checkpoint(t, compare=regular)
            while sum(p.trains for p in self._pending) >= self.config.window or (
                self._saver.busy and self.reported is not None
            ):
                self._collect()
        if not saved:
            self._checkpoint(t, compare=False)  # a stop must not offer a candidate for best that no other run has
        while self._pending:
            self._collect()
        if t < self.total:
            raise Interrupted(
                f"stopped after step {t} of {self.total}, which is saved; continue with: sparring resume {self.folder}"
            )

    def _checkpoint(self, t: int, *, compare: bool = True) -> None:
        while self._saver.busy:  # the disk needs longer than the steps between two checkpoints
            self._collect()
        self._pending.extend(self._saver.begin(t, compare=compare))
        if compare:
            self.progress.looking(self.config)

    def _collect(self) -> None:
        """Take in the oldest result; it stays queued until it is in, so that a failure finds its references."""
        oldest = self._pending[0]
        result: Any = self.team.collect(oldest, timeout=self.config.call_timeout)
        self._pending.popleft()
        if oldest.trains:
            for t, metrics in enumerate([result] if oldest.kind == "step" else result, start=oldest.t):
                self._take_in(t, metrics)
        elif oldest.kind == "evaluate":  # looked at here, so that a slow disk changes nothing that monitors see
            alarms = self.monitors.checkpoint(oldest.t, self._saver.compared(result))
            self._commit()
            self._heed(alarms)
        elif (asked := self._saver.written(result, wait=not any(p.trains for p in self._pending))) is not None:
            self._pending.append(asked)
        else:
            self._commit()

    def _take_in(self, t: int, metrics: dict[str, Metrics]) -> None:
        self._pace.seen(metrics)
        if said := self._links.seen(metrics, self.team.describe()):
            self.progress.event(said)
        self.progress.step(t, metrics)
        if t == self._traced:
            timeline.save(self.folder.path / "trace.json", t, metrics, self.team.describe())
        self._heed(self.monitors.step(t, metrics))

    def _commit(self) -> None:
        """Commit the checkpoint under way, if it is whole."""
        if (committed := self._saver.commit(self.progress.steps)) is not None:
            self.progress.checkpoint(*committed)
            if self.mirror is not None:
                self.mirror.push(self.folder, self.progress.event)
            if self.reported is not None:
                self.reported(*committed)

    def _settle(self) -> None:
        """Commit the checkpoint under way, if it still can be: training does not go on from the steps behind it."""
        self._pending = deque(p for p in self._pending if not p.trains)
        try:
            while self._saver.busy:
                self._collect()
        except Exception:  # what has stopped training is what is to be told, and there are the checkpoints before
            self._abandon()

    def _abandon(self) -> None:
        """The agents go back to an earlier step: nothing that is under way counts."""
        self._pending.clear()
        self._saver.forget()

    def _heed(self, alarms: list[Alarm]) -> None:
        for alarm in alarms:
            self.progress.alarm(alarm)
        collapsed = [alarm for alarm in alarms if alarm.collapse]
        if collapsed and self.config.on_collapse != "warn":
            raise _Collapsed(collapsed[0])

    def _roll_back(self, alarm: Alarm) -> int:
        """Put every agent back to the newest checkpoint before the one that showed the collapse; its step."""
        self._abandon()
        every = self.config.checkpoint.every
        before = [t for t in self.checkpoints.committed() if t < max(alarm.t // every * every, 1)]
        if not before:
            raise TrainingStopped(f"{alarm.name} of {alarm.agent} at step {alarm.t}, and no earlier checkpoint is kept")
        t = before[-1]
        self._halved[t] += 1  # its files hold the rate from before
        self._restore(t)
        self.checkpoints.drop_after(t, why="collapsed")
        self.progress.rewind(t)
        self.monitors.forget()
        self.progress.event(f"rolled back to step {t}; going on with half the learning rate")
        return t

    def _diagnose(self, error: Exception) -> Failure:
        """The lost processes behind an error; any other error is raised."""
        failure = self.team.diagnose(error, [ref for p in self._pending for ref in p.refs])
        if failure is not None:
            return failure
        self._settle()
        good = self.checkpoints.committed()
        cause = of_agent(self.team.unwrap(error), self.checkpoints.path(good[-1]) if good else None)
        raise cause from None if cause is error else error  # from itself would be a chain without an end

    def _recover(self, failure: Failure) -> int | None:
        """Replace what was lost and put every agent back to the newest whole checkpoint; its step, None for fresh agents."""
        started = time.monotonic()
        self.progress.event(f"lost: {failure.reason}; rolling all agents back")
        self._abandon()
        t, wrong = self.checkpoints.newest_whole()
        if t is None and wrong:
            raise BrokenCheckpoint(f"no checkpoint to go back to in {self.checkpoints.folder}: {'; '.join(wrong)}")
        revived = self.team.revive(failure.dead if t is not None else None, self.progress.event)
        if t is not None:
            self._restore(t)
        self.checkpoints.drop_after(t)  # after restoring: a survivor may have been saving until then
        self.progress.rewind(t or 0)
        again = f"{', '.join(revived)} replaced, every agent at step {t or 0} again"
        self.progress.event(f"recovered in {time.monotonic() - started:.1f} s: {again}")
        self.folder.write_env(self.job.environment(self.team.describe()))
        return t

    def _restore(self, t: int) -> None:
        folder, factor = self.checkpoints.path(t) / "agents", 0.5 ** self._halved[t]
        self.team.restore(folder, timeout=self.config.call_timeout, lr_factor=factor)
        if self.config.changes:
            self._change(t)
        self.checkpoints.publish(t)

    def _change(self, t: int) -> None:
        """Every agent goes on with the settings that hold from step ``t``."""
        self._now = self.config.at(t)
        specs = self._now.specs(images.prepare(self.config.data, quiet=True))
        self.team.change(t, specs, timeout=self.config.call_timeout)
