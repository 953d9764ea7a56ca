"""What counts as infrastructure, and which agents died.

A failure is read from the causes of all references of its step, never from pings: while one agent hangs, healthy ones
that wait for its result do not answer either. The first error seen may be a survivor's ``WrongStep``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    RaySystemError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from sparring.agents.lanes import LaneBroken
from sparring.agents.meeting import PeerLost
from sparring.agents.state import WrongStep
from sparring.cluster.errors import Infrastructure, of_agent
from sparring.cluster.team.team import Failure
from sparring.trainers.encoded.decoding import Unanswered

LOST = (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RaySystemError,
    TaskUnschedulableError,
    WorkerCrashedError,
)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything behind it."""
    seen: set[int] = set()
    queue: list[Any] = [error]
    while queue:
        e = queue.pop()
        if isinstance(e, BaseException) and id(e) not in seen:
            seen.add(id(e))
            yield e
            queue += [getattr(e, "cause", None), e.__cause__, *e.args]  # a failed constructor is found in args only


def classify(error: BaseException, refs: Sequence[Any], actors: Mapping[str, str]) -> Failure | None:
    """The infrastructure failure behind ``error``, or None when it is the program's own.

    Args:
        error: what collecting a step raised.
        refs: every reference of the steps under way; finished ones are searched for the real cause.
        actors: Ray's actor id -> role.
    """
    if isinstance(error, GetTimeoutError):
        return Failure("a call did not end in time", None)
    found = [e for e in _errors(error, refs) if isinstance(e, (*LOST, LaneBroken, PeerLost, Unanswered))]
    if not found:
        return None
    dead = {actors[e.actor_id] for e in found if isinstance(e, ActorDiedError) and e.actor_id in actors}
    certain = dead and all(isinstance(e, (ActorDiedError, PeerLost)) for e in found)
    if certain:  # whoever waited for the dead lost a peer, no more
        found = [e for e in found if not isinstance(e, PeerLost)]
    reason = ", ".join(sorted({type(e).__name__ for e in found}))
    return Failure(f"{reason} ({', '.join(sorted(dead))})" if certain else reason, frozenset(dead) if certain else None)


def own(error: BaseException, refs: Sequence[Any]) -> BaseException | None:
    """The program's own error among those of a step, where every agent has one: those who waited for its agent lost a peer."""
    consequences = (RayError, LaneBroken, PeerLost, WrongStep, TimeoutError, Unanswered)
    return next((e for e in _errors(error, refs) if not isinstance(e, consequences)), None)


def infrastructure(error: BaseException) -> bool:
    """Whether an error says that processes, nodes or the network were lost; any other would be raised again after a restart."""
    return any(isinstance(e, (*LOST, LaneBroken, PeerLost, ConnectionError, GetTimeoutError)) for e in causes(error))


def at_start(error: BaseException) -> BaseException:
    """What is to be raised when agents could not be made: their own error, else that of the infrastructure."""
    cause = unwrap(error)
    if isinstance(cause, (ActorUnschedulableError, TaskUnschedulableError)):
        return Infrastructure(
            "the agents could not be started: one of their nodes was lost meanwhile, or is being drained. Repeat the command, with "
            "--resume-if-exists where it has one"
        )
    if cause is error or isinstance(cause, (LaneBroken, PeerLost)):
        return Infrastructure(f"the agents could not be started: {cause}")
    return of_agent(cause, None)


def unwrap(error: BaseException) -> BaseException:
    """The exception that an agent raised, without Ray's wrapper."""
    own = [e for e in causes(error) if not isinstance(e, RayError)]
    return own[-1] if own else error


def _errors(error: BaseException, refs: Sequence[Any]) -> Iterator[BaseException]:
    yield from causes(error)
    if refs:
        done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0, fetch_local=False)
        for ref in done:
            try:
                ray.get(ref, timeout=1)
            except Exception as other:  # every kind of failure is evidence here; none is hidden: the caller re-raises
                yield from causes(other)
