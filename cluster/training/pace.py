"""How many steps go out as one call, where a team carries out several: quick ones together, since a call costs a millisecond."""

from __future__ import annotations

from collections.abc import Mapping

from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.team.team import Pending, Team
from sparring.trainers.methods.base import Method
from sparring.trainers.types import Metrics

SPAN = 0.25  # seconds that a call may take: so long a stop waits for nothing, and a lost call loses little


class Pace:
    """One run's.

    Args:
        total: steps of the run.
    """

    def __init__(self, config: RunConfig, total: int) -> None:
        self._config, self._total = config, total
        self._seconds: float | None = None

    def seen(self, metrics: Mapping[str, Metrics]) -> None:
        """What the newest step took."""
        self._seconds = max(sum(m.seconds.values()) for m in metrics.values())

    def submitted(self, team: Team, method: Method, t: int) -> Pending:
        """What is submitted next: step ``t``, or several from it on."""
        steps = self.steps(t) if team.spans else 1
        return team.submit(method, t) if steps == 1 else team.submit_span(t, steps)

    def steps(self, t: int) -> int:
        """How many from step ``t`` on: up to where a checkpoint or a change of settings comes between, one until a step is known."""
        if self._seconds is None:
            return 1
        every = self._config.checkpoint.every
        ends = [t - t % every + every, self._total, *(change for change in self._config.changes if change > t)]
        return max(1, min(int(SPAN / max(self._seconds, 1e-3)), min(ends) - t))
