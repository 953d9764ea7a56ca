"""The loader of a node: what agents see of it, and what is left when its processes, or they, are killed."""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparring.agents.loading import loader as loading
from sparring.agents.loading.host import Asked
from sparring.agents.loading.loader import Loader
from sparring.trainers.encoded.decoding import Undecodable
from tests.agents.loading.numbered import BAD, DEADLY, Numbered
from tests.helpers import CLONE

LINGER = 0.3
Indices = Callable[[int], tuple[int, ...]]


def twenty(t: int) -> tuple[int, ...]:
    return tuple(range(20 * t, 20 * t + (20 if t % 3 else 13)))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Loader]]:
    """Loaders of one work, which leave at the end."""
    name, made = f"sparring-test-{secrets.token_hex(6)}", list[Loader]()

    def one(indices: Indices = twenty, *, slow: float = 0.0, memory: int = 2**20) -> Loader:
        asked = Asked.of(name, Numbered(str(tmp_path / "notes"), slow), 2, memory, LINGER)
        made.append(Loader(asked, indices))
        return made[-1]

    yield one
    for loader in made:
        loader.close()


def right(loader: Loader, steps: range, indices: Indices = twenty) -> None:
    """Every step holds what its numbers say."""
    for t in steps:
        with loader.step(t) as seen:
            wanted = [np.random.default_rng([t, i]).integers(0, 256, (8, 8, 3), dtype=np.uint8) for i in indices(t)]
            assert np.array_equal(seen, np.stack(wanted)), t


def processes(name: str) -> list[int]:
    """The host and the workers of a loader that live: the host first."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if name in (entry / "cmdline").read_text() and "Z (zombie)" not in (entry / "status").read_text():
                found.append((int((entry / "stat").read_text().rpartition(") ")[2].split()[1]), int(entry.name)))
        except OSError:
            continue
    pids = {pid for _, pid in found}
    return [pid for parent, pid in sorted(found, key=lambda f: f[0] in pids)]


def gone(name: str, within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while processes(name) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes(name)


def test_agents_of_a_node_share_what_is_made_once(make: Callable[..., Loader], tmp_path: Path) -> None:
    agents = [make(slow=0.0005) for _ in range(3)]
    wrong: list[BaseException] = []

    def run(loader: Loader) -> None:
        try:
            right(loader, range(30))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(agent,)) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    made = [line for line in (tmp_path / "notes").read_text().splitlines() if int(line.split()[0]) < 30]
    assert len(made) == len(set(made)) == sum(len(twenty(t)) for t in range(30))


def test_what_decodes_is_imported_once() -> None:
    """Before the fork: a node has as many such processes as cores, and torch and torchvision would cost each 300 MiB and seconds."""
    text = (
        "import importlib, sys; import numpy as np; import sparring.agents.loading.host; from pathlib import Path\n"
        "from sparring.trainers.augment.settings import AugmentConfig; from sparring.trainers.config import DataConfig\n"
        "from sparring.trainers import encoded; from sparring.trainers.encoded.crops import Crops; from tempfile import mkdtemp\n"
        "config = DataConfig(name='generated:10', cache=mkdtemp(), augment='resized-crop', transforms=AugmentConfig(randaugment=9, hue=0.1))\n"
        "crops = Crops(encoded.opened(config).train, config, 0, (32, 32), 10)\n"
        "[importlib.import_module(name) for name in crops.modules]; before = set(sys.modules)\n"
        "[crops.image(t, 1) for t in range(20)]\n"
        "print(sorted(name for name in set(sys.modules) - before if name.startswith('torch')))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=CLONE)
    assert done.stdout == "[]\n"


def test_memory_is_bounded_and_read_only(make: Callable[..., Loader], tmp_path: Path) -> None:
    """Two slots of 20 images of 192 bytes: nothing beyond the step after the one that is read is made ahead."""
    agent = make(memory=3 * 20 * 192)
    with agent.step(0) as seen:
        time.sleep(0.5)
        made = {int(line.split()[0]) for line in (tmp_path / "notes").read_text().splitlines()}
        assert made == {0, 1, 2}
        with pytest.raises(ValueError, match="read-only"):
            seen[0, 0, 0, 0] = 1
    right(agent, range(1, 10))


def test_any_order_of_steps(make: Callable[..., Loader]) -> None:
    """A run that rolls back asks for steps that it had."""
    agent, behind = make(memory=3 * 20 * 192), make(memory=3 * 20 * 192)
    right(agent, range(10))
    right(behind, range(2))
    right(agent, range(4, 12))
    right(behind, range(2, 4))


@pytest.mark.parametrize("who", ["a worker", "the host", "all"])
def test_killed(who: str, make: Callable[..., Loader]) -> None:
    agent = make(slow=0.002)
    right(agent, range(3))
    for t in range(3, 15):
        host, *workers = processes(agent._asked.name)
        for pid in {"a worker": workers[:1], "the host": [host], "all": [host, *workers]}[who] if t % 4 == 0 else []:
            os.kill(pid, signal.SIGKILL)
        right(agent, range(t, t + 1))


def test_an_image_that_cannot_be_decoded(make: Callable[..., Loader]) -> None:
    agent = make(lambda t: (1, BAD, 2) if t == 3 else twenty(t))
    right(agent, range(3))
    for _ in range(2):
        with pytest.raises(Undecodable, match=r"cat\.jpg: damaged image"), agent.step(3):
            pass
    right(agent, range(4, 8))


def test_an_image_that_kills_its_decoder(make: Callable[..., Loader]) -> None:
    agent = make(lambda t: (DEADLY,) if t == 3 else twenty(t))
    with pytest.raises(Undecodable, match="3 processes died while they decoded training images 1000002"), agent.step(3):
        pass
    right(agent, range(4, 8))


def test_a_work_that_cannot_be_made_there(make: Callable[..., Loader]) -> None:
    agent = make()
    agent._asked = replace(agent._asked, work=b"no pickle")
    with pytest.raises(Undecodable, match="UnpicklingError"), agent.step(0):
        pass


def test_nothing_is_left_of_killed_agents(tmp_path: Path) -> None:
    asked = Asked.of(
        f"sparring-test-{secrets.token_hex(6)}", Numbered(str(tmp_path / "notes"), 0.001), 2, 2**20, LINGER
    )
    text = (
        "import pickle, sys, time; from sparring.agents.loading.loader import Loader; loader = Loader(pickle.load(sys.stdin.buffer), "
        "lambda t: (t, t + 1))\nfor t in range(10**6):\n    with loader.step(t): print(t, flush=True)"
    )
    agent = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CLONE)
    assert agent.stdin is not None
    assert agent.stdout is not None
    agent.stdin.write(pickle.dumps(asked))
    agent.stdin.close()
    assert agent.stdout.readline() == b"0\n"
    alive = [*processes(asked.name), agent.pid]
    assert len(alive) == 4
    for pid in alive:  # its memory has no name that could be left
        assert "/dev/shm" not in Path(f"/proc/{pid}/maps").read_text()
    agent.kill()
    agent.wait()
    agent.stdout.close()
    assert gone(asked.name)


def test_another_users_loader_is_not_trusted(make: Callable[..., Loader]) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to be somebody else")
    agent = make()
    ready, child = os.pipe()[0], os.fork()
    if child == 0:
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(f"\0{agent._asked.name}")
            door.listen()
            time.sleep(30)
        os._exit(0)
    try:
        deadline = time.monotonic() + 10
        while f"@{agent._asked.name}" not in Path("/proc/net/unix").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(OSError, match="another user's process has the name of this run's loader"), agent.step(0):
            pass
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_host_that_cannot_begin(make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "START", "raise SystemExit(3)")
    with pytest.raises(OSError, match="ended with exit code 3"), make().step(0):
        pass
