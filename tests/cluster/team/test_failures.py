"""What is said when agents cannot be made."""

from __future__ import annotations

from ray.exceptions import ActorUnschedulableError, RayTaskError, TaskUnschedulableError

from sparring.agents.meeting import PeerLost
from sparring.cluster.errors import Infrastructure
from sparring.cluster.team.failures import at_start


def test_a_node_that_leaves_while_agents_start_is_said_in_our_words() -> None:
    for kind in (TaskUnschedulableError, ActorUnschedulableError):
        error = at_start(kind("soft=False was specified. lease_id=03, name=missing"))
        assert isinstance(error, Infrastructure)
        assert "one of their nodes was lost meanwhile, or is being drained" in str(error)
        assert "lease_id" not in str(error)


def test_an_agents_own_error_stays_its_own() -> None:
    own = KeyError("a name")
    assert at_start(RayTaskError("make", "traceback", own).as_instanceof_cause()) is own


def test_a_lost_peer_is_infrastructure() -> None:
    assert isinstance(at_start(PeerLost("peer1")), Infrastructure)
