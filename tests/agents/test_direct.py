"""Programs, what travels without a store, and agents that find each other: two ends in one process, or one of them gone."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.agents.exchange import pack, unpack
from sparring.agents.frames import put_together, taken_apart
from sparring.agents.meeting import Meeting, PeerLost
from sparring.agents.program import Call, Value, recorded
from sparring.agents.shared import Pipe, linked, place_of
from sparring.agents.wire import Wire
from sparring.trainers import methods
from sparring.trainers.methods.mat import Mat
from sparring.trainers.types import Adversarial, Answer

CPU = torch.device("cpu")
VALUE = Value("a", 0)
CALL = Call("craft", "train", (), VALUE)


def test_a_program_is_the_step() -> None:
    """MAT with two peers: each attacks, answers to both examples and learns; examples and answers travel to the other."""
    program = recorded(Mat(), 3)
    assert [c.verb for c in program.calls["peer0"]] == ["craft", "answer", "learn"]
    craft, answer, learn = program.calls["peer0"]
    assert craft.attack == "train"
    assert answer.takes == (("on.peer0", Value("peer0", 0)), ("on.peer1", Value("peer1", 0)))
    assert ("soft.peer1", Value("peer1", 1)) in learn.takes
    assert program.readers() == {Value(p, i): (q,) for p, q in (("peer0", "peer1"), ("peer1", "peer0")) for i in (0, 1)}
    assert program.makers()[Value("peer1", 1)] == program.calls["peer1"][1]


@pytest.mark.parametrize("name", methods.names())
def test_every_learner_learns_once_in_its_program(name: str) -> None:
    method = methods.load(name)()
    program = recorded(method, 0)
    for role, kind in method.roles().items():
        assert sum(c.verb == "learn" for c in program.calls[role]) == kind.learns
    assert program == recorded(method, 0)


def test_a_message_is_taken_apart_and_put_together() -> None:
    message = {
        "one": Answer(torch.rand(3, 4).to(torch.bfloat16), (torch.rand(3, 2), torch.empty(0, 5))),
        "two": Adversarial(torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)),
    }
    layout, arrays = taken_apart(pack(message))
    assert layout.nbytes == 3 * 4 * 2 + 3 * 2 * 4 + 2 * 3 * 16 * 4
    again = unpack(put_together(layout, arrays))
    assert torch.equal(again["one"].logits, message["one"].logits)  # type: ignore[union-attr]
    assert torch.equal(again["two"].x, message["two"].x)  # type: ignore[union-attr]
    assert again["one"].maps[1].shape == (0, 5)


def met(*agents: str, timeout: float = 20.0) -> dict[str, Wire]:
    """The agents of one host."""
    pipes = {a: {b: Pipe.laid() for b in agents if b != a} for a in agents}
    places = {a: {b: place_of(pipes[b][a].theirs) for b in agents if b != a} for a in agents}
    links = {a: linked(pipes[a], places[a], timeout=timeout) for a in agents}
    for each in links.values():
        for link in (each or {}).values():
            link.settle()
    return {a: Wire(links[a] or {}, None, {}, device=CPU, timeout=timeout) for a in agents}


def far(*agents: str, timeout: float = 20.0, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Wire]:
    """The same, as if each were on a host of its own."""
    meetings = [Meeting(i, len(agents), "127.0.0.1", timeout=timeout) for i in range(len(agents))]
    addresses = {k: v for meeting in meetings for k, v in meeting.address().items()}
    meanwhile()
    groups: dict[str, Any] = {}
    threads = [
        threading.Thread(target=lambda a=a, m=m: groups.update({a: m.join(addresses, timeout=timeout)}))
        for a, m in zip(agents, meetings, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ranks = {a: i for i, a in enumerate(agents)}
    return {a: Wire({}, groups[a], ranks, device=CPU, timeout=timeout) for a in agents}


@pytest.mark.parametrize("way", [met, far])
@pytest.mark.parametrize("size", [1, 200_000])
def test_messages_arrive_as_they_were(way: Callable[..., dict[str, Wire]], size: int) -> None:
    """Six steps, two batch sizes, in order; what was received does not change when the next one comes."""
    wires = way("a", "b")
    sent = [Adversarial(torch.full((size, 1 + (t == 3)), float(t))) for t in range(6)]
    got: list[Adversarial] = []

    def receive() -> None:
        for t in range(6):
            key = (VALUE, CALL, 1 + (t == 3))
            wires["b"].expect(t, key)
            got.append(wires["b"].receive(t, key))
            wires["b"].end(t)

    reader = threading.Thread(target=receive)
    reader.start()
    for t, message in enumerate(sent):
        wires["a"].send(t, (VALUE, CALL, 1 + (t == 3)), pack(message), ["b"])
        wires["a"].end(t)
    reader.join(30)
    assert [g.x.shape for g in got] == [s.x.shape for s in sent]
    assert all(torch.equal(g.x, s.x) for g, s in zip(got, sent, strict=True))


@pytest.mark.parametrize("way", [met, far])
def test_another_shape_for_the_same_images_is_refused(way: Callable[..., dict[str, Wire]]) -> None:
    wires, key = way("a", "b"), (VALUE, CALL, 4)
    wires["a"].send(0, key, pack(Adversarial(torch.rand(4, 2))), ["b"])
    with pytest.raises(ValueError, match=r"a: what craft publishes in step 1 has other shapes .* --exchange store"):
        wires["a"].send(1, key, pack(Adversarial(torch.rand(4, 3))), ["b"])


@pytest.mark.parametrize("way", [met, far])
def test_who_waits_for_one_that_leaves_is_told(way: Callable[..., dict[str, Wire]]) -> None:
    wires, key, seen = way("a", "b"), (VALUE, CALL, 4), list[BaseException]()

    def wait() -> None:
        try:
            wires["b"].receive(0, key)
        except PeerLost as error:
            seen.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wires["a"].close()
    waiting.join(10)
    assert str(seen[0]).startswith("a is gone")


@pytest.mark.parametrize("way", [met, far])
def test_silence_is_a_loss_after_the_timeout(way: Callable[..., dict[str, Wire]]) -> None:
    wires = way("a", "b", timeout=0.2)
    with pytest.raises(PeerLost, match="a"):
        wires["b"].receive(0, (VALUE, CALL, 4))


@pytest.mark.parametrize("wrong", ["process", "file"])
def test_an_agent_out_of_sight_is_no_neighbour(wrong: str) -> None:
    """As in another container: its open files are not shown here, or the number is another file's. Nothing stays open."""
    before = len(os.listdir("/proc/self/fd"))
    seen = Pipe.laid()
    other = (*place_of(seen.end)[:2], 1) if wrong == "file" else (1 << 22, 5, 1)
    pipes, places = {"b": seen, "c": Pipe.laid()}, {"b": place_of(seen.theirs), "c": other}
    assert linked(pipes, places, timeout=1.0) is None
    assert len(os.listdir("/proc/self/fd")) == before


def listening() -> list[int]:
    """Ports on which this process waits for connections."""
    own = {os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)}
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return [int(line[1].split(":")[1], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own]


@pytest.mark.parametrize("said", [None, b"", b"abc", bytes(64)], ids=["goes", "silent", "a few bytes", "more"])
def test_a_stranger_at_the_sockets_disturbs_nothing(said: bytes | None) -> None:
    """Before the agents meet, between two steps and when it leaves."""
    before, strangers = set(listening()), list[socket.socket]()

    def knock() -> None:
        for port in set(listening()) - before:
            strangers.append(socket.create_connection(("127.0.0.1", port)))
            if said is None:
                strangers.pop().close()
            else:
                strangers[-1].sendall(said)

    wires = far("a", "b", meanwhile=knock)
    assert said is None or len(strangers) == 2
    for t in range(3):
        if t == 1:
            knock()
        if t == 2:
            for stranger in strangers:
                stranger.close()
        key, sent = (VALUE, CALL, 4), Adversarial(torch.full((4, 3), float(t)))
        wires["b"].expect(t, key)
        wires["a"].send(t, key, pack(sent), ["b"])
        assert torch.equal(wires["b"].receive(t, key).x, sent.x)
        wires["a"].end(t)


def test_nobody_comes() -> None:
    meeting = Meeting(0, 2, "127.0.0.1", timeout=0.3)
    address = meeting.address()
    assert len(address) == 1
    with pytest.raises(PeerLost, match="did not meet"):
        meeting.join(address, timeout=1)
