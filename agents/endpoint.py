"""An agent's verbs on packed messages with flat names: what a team talks to, in its own process or in an actor's.

Both teams use this class, so one process and many exchange the same bytes and copy them at the same places.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sparring.agents import checkpoint
from sparring.agents.exchange import nest, pack, unpack
from sparring.agents.lanes import Lanes, joined
from sparring.agents.meeting import Meeting
from sparring.agents.spec import AgentSpec, Facts, describe
from sparring.trainers import user
from sparring.trainers.config import Measure
from sparring.trainers.types import HeldOut, Metrics


class Endpoint:
    """Every method is the agent's own: messages are unpacked on the way in and packed on the way out."""

    @user.telling
    def __init__(self, spec: AgentSpec, lanes: Lanes = Lanes()) -> None:
        self.agent = spec.build(lanes)
        self._entrance: Meeting | None = None
        self._writer, self._written = ThreadPoolExecutor(1), dict[int, Future[dict[str, str]]]()

    def open(self, index: int, count: int, host: str, timeout: float) -> dict[str, bytes]:
        """Become one of several lanes; where the others find it, if it learns: a frozen agent has nothing to average.

        Args:
            host: this host's address as the others see it.
            timeout: seconds in which all must have come.
        """
        self.agent.lanes = Lanes(index, count)
        self._entrance = Meeting(index, count, host, timeout=timeout) if self.agent.learns else None
        return {} if self._entrance is None else self._entrance.address()

    def join(self, addresses: Mapping[str, bytes], timeout: float) -> None:
        """Meet the other lanes of this agent, at the addresses of all of them.

        Args:
            timeout: seconds after which a lane that waits for another gives up.
        """
        if self._entrance is not None:
            index, count, device = self.agent.lanes.index, self.agent.lanes.count, self.agent.batches.device
            self.agent.lanes = joined(self._entrance, addresses, index, count, device=device, timeout=timeout)
            self._entrance = None

    def describe(self) -> Facts:
        return describe(self.agent)

    @user.telling
    def craft(self, t: int, attack: str, **hints: Any) -> Any:
        return self._pack(self.agent.craft(t, attack=attack, **self._seen(hints)))

    @user.telling
    def answer(self, t: int, **on: Any) -> Any:
        return self._pack(self.agent.answer(t, **self._seen(on)))

    @user.telling
    def predict(self, t: int, **seen: Any) -> Any:
        return self._pack(self.agent.predict(t, **self._seen(seen)))

    @user.telling
    def learn(self, t: int, **seen: Any) -> Metrics:
        return self.agent.learn(t, **self._seen(seen))

    def report(self, t: int) -> Metrics:
        return self.agent.report(t)

    @user.telling
    def evaluate(self, t: int, by: Measure) -> dict[str, HeldOut]:
        return self.agent.evaluate(t, by)

    def save(self, t: int, folder: str) -> None:
        """Copy what step ``t - 1`` left behind; it is written while the agent goes on, see :meth:`written`."""
        lane, config = self.agent.lanes.index, self.agent.model.config
        if lane > 0:
            buffers = {k: v.detach().cpu().clone() for k, v in self.agent.model.named_buffers()}
            self._written[t] = self._writer.submit(checkpoint.save_buffers, buffers, lane, Path(folder))
        else:
            self._written[t] = self._writer.submit(checkpoint.save, self.agent.state(t), config, Path(folder))  # type: ignore[arg-type]

    def written(self, t: int, *, wait: bool) -> dict[str, str] | None:
        """The sha256 of each file once what :meth:`save` took at step ``t`` is on disk; until then None, unless it may wait.

        What was taken before step ``t`` can no longer be asked for.
        """
        self._written = {s: files for s, files in self._written.items() if s >= t}
        files = self._written[t]
        return files.result() if wait or files.done() else None

    def change(self, t: int, spec: AgentSpec) -> None:
        """Go on as another specification of the same role says, in the state that step ``t - 1`` left behind."""
        state, lanes = self.agent.state(t if self.agent.learns else self.agent.t), self.agent.lanes
        self.agent = spec.build(lanes)
        self.agent.load_state(state)

    def load(self, folder: str, lr_factor: float = 1.0) -> int:
        """Continue from a saved state; a learning-rate factor is multiplied onto the saved one."""
        self._writer.submit(lambda: None).result()  # what was being written is done with: its folder may be removed now
        self._written.clear()
        state = checkpoint.load(Path(folder))
        state.lr_factor *= lr_factor
        self.agent.load_state(state)
        if self.agent.lanes.index > 0:
            checkpoint.load_buffers(self.agent.model, self.agent.lanes.index, Path(folder))
        return self.agent.t

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.shutdown()

    def _pack(self, message: Any) -> Any:
        with self.agent.meter.timed("exchange"):
            return pack(message)

    def _seen(self, flat: dict[str, Any]) -> dict[str, Any]:
        with self.agent.meter.timed("exchange"):
            return {k: unpack(v, device=self.agent.batches.device) for k, v in nest(flat).items()}
