"""What sets a run's pace: an agent, or the link between hosts."""

from __future__ import annotations

from sparring.agents.spec import Facts
from sparring.cluster.training.pace import WINDOW, Links
from sparring.trainers.types import Metrics

MEGABYTE = 10**6


def facts(*nodes: str) -> dict[str, Facts]:
    fixed = {"steps_per_epoch": 1, "total_steps": 1, "data_sha256": "", "classes": 10, "parameters": 1, "device": "cpu"}
    return {f"peer{i}": Facts(**fixed, host="h", pid=1, node=node) for i, node in enumerate(nodes)}  # type: ignore[arg-type]


def step(*idle: float, whole: float) -> dict[str, Metrics]:
    return {
        f"peer{i}": Metrics({}, MEGABYTE, {"learn": whole - waited, "idle": waited}) for i, waited in enumerate(idle)
    }


def said(links: Links, metrics: dict[str, Metrics], nodes: tuple[str, str] = ("10.0.0.1", "10.0.0.2")) -> list[str]:
    return [text for _ in range(2 * WINDOW) if (text := links.seen(metrics, facts(*nodes)))]


def test_a_slow_link_is_told_once() -> None:
    """Everybody waits 1.6 s of 2 for 2 MB: 10 Mbit/s."""
    (text,) = said(Links(), step(1.6, 1.8, whole=2.0))
    assert text == (
        "a step takes 2 s, of which every agent waits 1.6 s or more for the others' messages (2 MB a step): the link between "
        "10.0.0.1 (peer0), 10.0.0.2 (peer1) sets the pace, at about 10 Mbit/s. Agents on one host (--placement.strategy STRICT_PACK), "
        "a faster link or a smaller --batch-size help"
    )


def test_what_is_no_links_fault_is_not_told() -> None:
    assert not said(Links(), step(0.1, 1.8, whole=2.0))  # an agent that the other waits for
    assert not said(Links(), step(0.018, 0.018, whole=0.02))  # calls
    assert not said(Links(), step(1.6, 1.8, whole=2.0), ("10.0.0.1", "10.0.0.1"))  # one host


def test_single_slow_steps_are_not_told() -> None:
    """As beside a checkpoint."""
    links, quick, slow = Links(), step(0.0, 0.0, whole=0.3), step(1.6, 1.8, whole=2.0)
    assert not [text for i in range(4 * WINDOW) if (text := links.seen(slow if i % 3 == 0 else quick, facts("a", "b")))]
