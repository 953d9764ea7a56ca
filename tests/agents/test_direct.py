"""Programs, what travels without a store, and agents that find each other: two ends in one process, or one of them gone."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from sparring.agents.frames import Doubled, put_together, taken_apart
from sparring.agents.meeting import TOKEN, Meeting, PeerLost
from sparring.agents.near import Near
from sparring.agents.ordered import Ordered
from sparring.agents.program import Call, Value, recorded
from sparring.agents.shared import Pipe, linked, place_of
from sparring.agents.sockets import Sockets
from sparring.agents.ways import chosen
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
    layout, tensors = taken_apart(message)
    places = Doubled(layout)
    again = put_together(layout, places.take(tensors))
    assert torch.equal(again["one"].logits, message["one"].logits)  # type: ignore[union-attr]
    assert torch.equal(again["two"].x, message["two"].x)  # type: ignore[union-attr]
    assert again["two"].x.is_contiguous()
    assert again["one"].maps[1].shape == (0, 5)
    tensors[0].zero_()
    assert again["one"].logits.any()  # in memory of its own,
    places.take(tensors)
    assert again["one"].logits.any()  # also when the next one comes


def test_types_of_every_size_lie_side_by_side() -> None:
    """Three bytes ahead of what has eight each."""
    message = (torch.tensor([True, False, True]), torch.tensor([2**40, -1]))
    layout, tensors = taken_apart(message)
    assert layout.nbytes == 64 + 16
    assert put_together(layout, Doubled(layout).take(tensors))[1].tolist() == [2**40, -1]


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ({"near": True, "mine": "cpu", "theirs": "cpu", "opened": False}, "memory"),
        ({"near": True, "mine": "cuda", "theirs": "cpu", "opened": False}, "memory"),
        ({"near": True, "mine": "cuda", "theirs": "cuda", "opened": False}, "memory"),  # each sees its own GPU alone
        ({"near": True, "mine": "cuda", "theirs": "cuda", "opened": True}, "ipc"),
        ({"near": False, "mine": "cuda", "theirs": "cuda", "opened": False}, "nccl"),
        ({"near": False, "mine": "cpu", "theirs": "cuda", "opened": False}, "gloo"),
    ],
)
def test_the_way_between_two(where: Any, kind: str) -> None:
    assert chosen(**where) == kind


def met(*agents: str, timeout: float = 20.0, openers: tuple[str, ...] = ()) -> dict[str, Wire]:
    """The agents of one host; ``openers`` read out of a device's memory, which is the CPU's here."""
    pipes = {a: {b: Pipe.laid() for b in agents if b != a} for a in agents}
    places = {a: {b: place_of(pipes[b][a].theirs) for b in agents if b != a} for a in agents}
    links = {a: linked(pipes[a], places[a], timeout=timeout) or {} for a in agents}
    for each in links.values():
        for link in each.values():
            link.settle()
    ways = {a: Near(links[a], CPU, frozenset(openers) - {a}) for a in agents}
    return {a: Wire(dict.fromkeys(links[a], ways[a]), CPU) for a in agents}


def on_device(*agents: str, timeout: float = 20.0) -> dict[str, Wire]:
    """One host; every message lies where CUDA's would."""
    return met(*agents, timeout=timeout, openers=agents)


def sockets(agents: Sequence[str], timeout: float, meanwhile: Callable[[], None]) -> dict[str, Sockets]:
    """Agents that each are on a host of their own."""
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
    return {a: Sockets(groups[a], ranks, timeout=timeout) for a in agents}


def far(*agents: str, timeout: float = 20.0, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Wire]:
    made = sockets(agents, timeout, meanwhile)
    return {a: Wire(dict.fromkeys(set(agents) - {a}, made[a]), CPU) for a in agents}


def ordered(*agents: str, timeout: float = 20.0) -> dict[str, Wire]:
    """The same with messages that have no tags, as NCCL's; over gloo here."""
    made, store = sockets(agents, timeout, lambda: None), distributed.HashStore()

    def pair(me: str, sender: str, receiver: str) -> Any:
        own = distributed.PrefixStore(f"{sender}>{receiver}", store)
        return distributed.ProcessGroupGloo(own, int(me == receiver), 2, timedelta(seconds=timeout))

    ways = {a: Ordered(a, partial(pair, a), made[a], CPU) for a in agents}
    return {a: Wire(dict.fromkeys(set(agents) - {a}, ways[a]), CPU) for a in agents}


WAYS = [met, on_device, far, ordered]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 200_000])
def test_messages_arrive_as_they_were(way: Callable[..., dict[str, Wire]], size: int) -> None:
    """Six steps, two batch sizes, in order; what was received does not change when the next one comes, and can be written to."""
    wires = way("a", "b")
    sent = [Adversarial(torch.full((size, 1 + (t == 3)), float(t))) for t in range(6)]
    held: list[torch.Tensor] = []
    got: list[list[torch.Tensor]] = []

    def receive() -> None:
        for t in range(6):
            key = (VALUE, CALL, 1 + (t == 3))
            wires["b"].expect(t, key)
            held.append(wires["b"].receive(t, key).x)
            got.append([x.clone() for x in held[-2:]])
            if t > 0:
                held[-2].fill_(-1)
            wires["b"].end(t)

    reader = threading.Thread(target=receive)
    reader.start()
    for t, message in enumerate(sent):
        wires["a"].publish(t, (VALUE, CALL, 1 + (t == 3)), message, ["b"])
        wires["a"].end(t)
    reader.join(30)
    assert [each[-1].shape for each in got] == [s.x.shape for s in sent]
    assert all(torch.equal(each[-1], s.x) for each, s in zip(got, sent, strict=True))
    assert all(torch.equal(each[0], s.x) for each, s in zip(got[1:], sent, strict=False))


@pytest.mark.parametrize("way", WAYS)
def test_values_are_taken_in_another_order_than_published(way: Callable[..., dict[str, Wire]]) -> None:
    """Three agents: two publish two values each, which the third takes as it needs them, over three steps."""
    wires = way("a", "b", "c")
    keys = [(Value(a, i), CALL, 4) for a in "ab" for i in (0, 1)]
    said = {key: float(10 * n) for n, key in enumerate(keys)}

    def publish(me: str) -> None:
        for t in range(3):
            for key in keys:
                if key[0].of == me:
                    wires[me].publish(t, key, Adversarial(torch.full((4, 1 + key[0].index), said[key] + t)), ["c"])
            wires[me].end(t)

    threads = [threading.Thread(target=publish, args=(me,)) for me in "ab"]
    for thread in threads:
        thread.start()
    for t in range(3):
        for key in reversed(keys):
            wires["c"].expect(t, key)
        for key in (keys[1], keys[2], keys[0], keys[3]):
            assert torch.equal(wires["c"].receive(t, key).x, torch.full((4, 1 + key[0].index), said[key] + t))
        wires["c"].end(t)
    for thread in threads:
        thread.join(30)


@pytest.mark.parametrize("way", [met, on_device, far])
def test_another_shape_for_the_same_images_is_refused(way: Callable[..., dict[str, Wire]]) -> None:
    wires, key = way("a", "b"), (VALUE, CALL, 4)
    wires["a"].publish(0, key, Adversarial(torch.rand(4, 2)), ["b"])
    with pytest.raises(ValueError, match=r"a: what craft publishes in step 1 has other shapes .* --exchange store"):
        wires["a"].publish(1, key, Adversarial(torch.rand(4, 3)), ["b"])


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


@pytest.mark.parametrize("said", [None, b"", b"abc"], ids=["goes", "silent", "says something"])
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
        wires["a"].publish(t, key, sent, ["b"])
        assert torch.equal(wires["b"].receive(t, key).x, sent.x)
        wires["a"].end(t)


def test_who_cannot_prove_itself_is_no_member() -> None:
    """The group was made, and one of them is not whom the other was told of."""
    meetings = [Meeting(i, 2, "127.0.0.1", timeout=20) for i in range(2)]
    addresses = {k: v for meeting in meetings for k, v in meeting.address().items()}
    told = [addresses | {f"{TOKEN}1": bytes(32)}, addresses]
    found: dict[int, Any] = {}

    def join(i: int) -> None:
        try:
            found[i] = meetings[i].join(told[i], timeout=1)
        except PeerLost as error:
            found[i] = str(error)

    threads = [threading.Thread(target=join, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found[0] == "who connected in the place of [1] is somebody else"
    assert not isinstance(found[1], str)


def test_nobody_comes() -> None:
    meeting = Meeting(0, 2, "127.0.0.1", timeout=0.3)
    address = meeting.address()
    assert len(address) == 2
    with pytest.raises(PeerLost, match="did not meet"):
        meeting.join(address, timeout=1)
