"""How many steps go out as one call, and whether agents or the links between their hosts set the pace."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

from sparring.agents.spec import Facts
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.team.team import Pending, Team
from sparring.trainers.methods.base import Method
from sparring.trainers.types import Metrics

WINDOW = 10  # steps whose waiting is looked at
WAITING = 0.25  # seconds of a step below which nobody would mend it
SPAN = 0.25  # seconds that a call may take: so long a stop waits for nothing, and a lost call loses little


class Pace:
    """One run's: quick steps go out together, where a team carries out several, since a call costs a millisecond.

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


class Links:
    """Whether every agent of a run waits for messages most of the time: then no agent is slow, but what lies between their hosts."""

    def __init__(self) -> None:
        self._waits = deque[tuple[float, float, int]](
            maxlen=WINDOW
        )  # seconds waited by who waited least, of the step; bytes
        self._said = False

    def seen(self, metrics: Mapping[str, Metrics], facts: Mapping[str, Facts]) -> str | None:
        """After a step: a sentence for a person, once."""
        hosts = dict.fromkeys(f"{facts[agent].node} ({agent})" for agent in metrics)
        if self._said or len({facts[agent].node for agent in metrics}) == 1:
            return None
        step = max(sum(m.seconds.values()) for m in metrics.values())
        waited = min(m.seconds.get("idle", 0.0) for m in metrics.values())
        self._waits.append((waited, step, sum(m.exchange_bytes for m in metrics.values())))
        wait, whole, size = (median(each) for each in zip(*self._waits, strict=True))
        if len(self._waits) < WINDOW or wait < max(WAITING, whole / 2):
            return None
        self._said = True
        return (
            f"a step takes {whole:.2g} s, of which every agent waits {wait:.2g} s or more for the others' messages ({size / 1e6:.3g} MB a "
            f"step): the link between {', '.join(hosts)} sets the pace, at about {8e-6 * size / wait:.2g} Mbit/s. Agents on one host "
            "(--placement.strategy STRICT_PACK), a faster link or a smaller --batch-size help"
        )
