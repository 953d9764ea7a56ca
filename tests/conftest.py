"""Shared by all tests: one Ray for the session, small runs on digits, and a place for them."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time

TOKEN = os.path.join(tempfile.mkdtemp(prefix="sparring-test-"), "token")  # not the user's ~/.ray
with open(os.open(TOKEN, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
    f.write(secrets.token_hex(32))

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # fault tests leave failed references behind on purpose
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # teams of two threads beside other tests: waiting ones leave the core
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": TOKEN,
    "XDG_STATE_HOME": tempfile.mkdtemp(prefix="sparring-test-"),  # whose code runs unasked; not the user's own record
}

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.cluster.commands.main import main
from sparring.cluster.machines import session
from tests.helpers import end_started

torch.set_num_threads(1)
SECONDS: dict[str, float] = json.loads((Path(__file__).parent / "soak_seconds.json").read_text())


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """One local Ray for all tests, started as a user's session starts one; its address."""
    import ray

    yield session.start(num_cpus=8, object_store_memory=256 * 2**20)
    ray.shutdown()


@pytest.fixture(autouse=True)
def _given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test leaves Ray's CPUs free: else it is told here, not a later one that finds too few."""
    yield
    if "ray_session" not in request.fixturenames:
        return
    import ray

    deadline = time.monotonic() + 20
    while (free := ray.available_resources().get("CPU")) != (present := ray.cluster_resources().get("CPU")):
        assert time.monotonic() < deadline, f"{free} of {present} CPUs are free after this test; held by {_holders()}"
        time.sleep(0.05)


def _holders() -> list[str]:
    """Actors that live and placement groups that stand."""
    import ray
    from ray._private.state import actors

    alive = [f"{a['ActorClassName']} ({a['State']}, pid {a['Pid']})" for a in actors().values() if a["State"] != "DEAD"]
    groups = ray.util.placement_group_table().items()
    return alive + [f"group {k[:8]} ({g['state']}, {g['bundles']})" for k, g in groups if g["state"] != "REMOVED"]


@pytest.fixture(scope="session")
def _actors(ray_session: str) -> list[Any]:
    """Idle actors that become any agent; a new one costs two seconds."""
    return []


@pytest.fixture
def pooled(_actors: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray teams take their actors from a pool and give them back: for tests in which no process is lost."""
    import ray

    from sparring.agents.actors import _Actor
    from sparring.agents.direct import Direct
    from sparring.agents.spec import AgentSpec, Facts
    from sparring.cluster.team.ray_handle import RayHandle
    from sparring.cluster.team.ray_team import RayTeam

    class Reusable(_Actor):
        def __init__(self) -> None:
            pass

        def become(self, spec: AgentSpec) -> Facts:
            torch.set_num_threads(spec.threads)
            Direct.__init__(self, spec)
            self.agent.warm_up()
            return self.describe()

    def spawn(team: Any, roles: Any) -> None:
        for role in roles:
            actor = _actors.pop() if _actors else ray.remote(num_cpus=0)(Reusable).remote()
            team._lanes[0][role] = RayHandle(actor, team._note)
        ready = [team[role].actor.become.remote(team._specs[role]) for role in roles]
        team._facts = dict(zip(roles, ray.get(ready, timeout=60), strict=True))
        team._introduce()

    monkeypatch.setattr(RayTeam, "_spawn", spawn)
    monkeypatch.setattr(RayTeam, "_kill", lambda team, roles, lanes: _actors.extend(team[r].actor for r in roles))


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    """What a failed test leaves running would take the next one's cores."""
    yield
    end_started()


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for the real images, so that they are decoded once."""
    return tmp_path_factory.mktemp("real") / "cache"


LONG = (  # files of the first tier that take longest
    *("test_search.py", "test_teams.py", "test_cli.py", "test_faults.py", "test_service.py", "test_pretrain.py"),
    *("test_networks_of_other_people.py", "test_said_and_kept.py", "test_older_versions.py", "test_lanes.py"),
    *("test_report.py", "test_sparring.py", "test_fifth_method.py", "test_autoattack.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of the second tier from the shortest to the longest, so that a limited time holds as many as it can; of the first tier the
    longest first, so that no worker is left alone with one."""
    if all(item.get_closest_marker("soak") for item in items):
        whole = Counter[str]()
        for item in items:
            whole[str(item.path)] += expected(item)
            item.add_marker(pytest.mark.timeout(1500))
        items.sort(key=lambda item: (whole[str(item.path)], str(item.path)))
        return
    first = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path.name, len(first)))  # stable: the others keep their order


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``SPARRING_SOAK_UNTIL`` (seconds since 1970): what would end later is not begun."""
    until = os.environ.get("SPARRING_SOAK_UNTIL")
    if until and item.get_closest_marker("soak") and time.time() + expected(item) > float(until):
        pytest.skip(f"no time left for its {expected(item):.0f} s; make soak runs all")


def expected(item: pytest.Item) -> float:
    """Seconds that a test of the second tier took when they were measured; two minutes for one that was not."""
    return SECONDS.get(str(item.path.relative_to(item.config.rootpath)) + "::" + item.name.partition("[")[0], 120.0)


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def sparring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in an empty folder, in this process: ``sparring("train", "mat", "--max-steps", 2)``.

    Its record of whose code runs unasked is another than that of Ray's workers, as on a cluster.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path.with_name(f"{tmp_path.name}-state")))

    def run(*args: object) -> Done:
        code = main([str(a) for a in args])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run
