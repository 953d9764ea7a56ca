"""One process and many actors: the same bytes; and it really is distributed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from sparring.agents.exchange import pack
from sparring.agents.spec import Facts
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import DataError, Interrupted, TrainingStopped
from sparring.cluster.team import assemble
from sparring.cluster.team.ray_team import RayTeam
from sparring.cluster.team.team import LocalTeam, Team, save_now
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers import datasets, methods
from sparring.trainers.types import Adversarial, Metrics
from tests.helpers import bytes_of, small


@pytest.fixture
def team_of(ray_session: str) -> Iterator[Any]:
    """Make teams that are closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda config: stack.enter_context(assemble.team_of(config))


def hashes(team: Team, t: int, folder: Path) -> dict[str, dict[str, str]]:
    return save_now(team, t, folder, timeout=60)


def run_steps(team: Team, config: RunConfig, steps: int) -> list[dict[str, Metrics]]:
    return [team.collect(team.submit(config.method, t), timeout=60) for t in range(steps)]


@pytest.mark.parametrize("peers", [2, *(pytest.param(n, marks=pytest.mark.soak) for n in (1, 3))])
def test_local_and_ray_give_identical_bytes(peers: int, ray_session: str, tmp_path: Path) -> None:
    """Weights, momenta, buffers, state (by sha256 of the files) and metrics, after 20 steps with two in flight."""
    runs = [
        launch.train(small("mat", peers=peers, team=team), runs_dir=tmp_path, name=team, how=Circumstances(quiet=True))
        for team in ("local", "ray")
    ]
    local, remote = (bytes_of(run.path) for run in runs)
    assert local == remote
    assert local["manifest"]["t"] == 20
    assert len(local["manifest"]["files"]) == 3 * peers
    assert len(local["metrics"]) == 20 * peers


DIRECT = ("mat", "mtard", "peeraid", "mixacm")  # one of each pattern of messages; the others in the second tier


@pytest.mark.parametrize("method", methods.names())
def test_every_method(method: str, pooled: None, tmp_path: Path) -> None:
    """One process and the object store; four of them directly too."""
    same_bytes(method, ("store", "direct") if method in DIRECT else ("store",), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("method", [name for name in methods.names() if name not in DIRECT])
def test_every_method_directly(method: str, pooled: None, tmp_path: Path) -> None:
    same_bytes(method, ("direct",), tmp_path)


def same_bytes(method: str, exchanges: tuple[str, ...], folder: Path) -> None:
    """Six steps, of those that are compared both ways with two threads per agent; frozen roles get the weights of a short run."""
    options: dict[str, Any] = {"max_steps": 6, "threads_per_agent": len(exchanges)}
    config = small(method)
    options |= {f"attacks__{norm}__steps": 2 for norm in config.attacks}
    roles = config.method.roles()
    frozen = [name for name in config.networks() if name not in roles or not roles[name].learns]
    if frozen:
        teacher = launch.train(
            small("at", team="local", max_steps=3), runs_dir=folder, name="teacher", how=Circumstances(quiet=True)
        )
        options |= {f"agents__{role}__init": str(teacher.path) for role in frozen}
    ways: dict[str, dict[str, Any]] = {"local": {"team": "local"}} | {e: {"exchange": e} for e in exchanges}
    made = [
        launch.train(small(method, **options, **way), runs_dir=folder, name=name, how=Circumstances(quiet=True))
        for name, way in ways.items()
    ]
    local, *others = (bytes_of(run.path) for run in made)
    assert [other == local for other in others] == [True] * len(exchanges)


@pytest.mark.soak
def test_actors_are_other_processes(team_of: Any) -> None:
    facts = team_of(small("mat", peers=3)).describe()
    pids = {f.pid for f in facts.values()}
    assert len(pids) == 3
    assert os.getpid() not in pids
    assert len({f.data_sha256 for f in facts.values()}) == 1


@pytest.mark.soak
def test_the_driver_sees_only_scalars_and_references(
    ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value that ray.get hands to this process, searched for arrays."""
    seen: list[Any] = []
    real = ray.get

    def spy(refs: Any, **options: Any) -> Any:
        value = real(refs, **options)
        seen.append(value)
        return value

    monkeypatch.setattr(ray, "get", spy)
    launch.train(small("mat", max_steps=4), runs_dir=tmp_path, how=Circumstances(quiet=True))

    def leaves(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            for v in value.values():
                yield from leaves(v)
        elif isinstance(value, list | tuple):
            for v in value:
                yield from leaves(v)
        elif hasattr(value, "__slots__") and not isinstance(value, np.ndarray | torch.Tensor):
            for name in value.__slots__:
                yield from leaves(getattr(value, name))
        else:
            yield value

    kinds = {type(leaf) for leaf in leaves(seen)}
    assert any(isinstance(v, list) and v and isinstance(v[0], Metrics) for v in seen)
    assert kinds <= {int, float, str, bool, type(None)}


def test_what_travels_matters(pooled: None, team_of: Any, tmp_path: Path) -> None:
    """Zeros instead of a peer's examples change the weights of the peer that receives them, and of nobody else."""
    config = small("mat")
    honest, cheated = team_of(config), team_of(config)
    run_steps(honest, config, 1)
    adv = {i: cheated[i].craft(0) for i in ("peer0", "peer1")}
    soft = {j: cheated[j].answer(0, adv) for j in ("peer0", "peer1")}
    zeros = ray.put(pack(Adversarial(torch.zeros(32, 1, 8, 8))))
    cheated["peer0"].learn(0, adv={**adv, "peer1": zeros}, soft={"peer1": soft["peer1"]})
    cheated["peer1"].learn(0, adv=adv, soft={"peer0": soft["peer0"]})
    right, wrong = hashes(honest, 1, tmp_path / "a"), hashes(cheated, 1, tmp_path / "b")
    assert right["peer0"]["model.safetensors"] != wrong["peer0"]["model.safetensors"]
    assert right["peer1"] == wrong["peer1"]


def test_exchange_bytes_are_the_tensors(pooled: None, team_of: Any) -> None:
    config = small("mat", peers=3)
    team = team_of(config)
    metrics = run_steps(team, config, 1)[0]
    examples, answers = 32 * 1 * 8 * 8 * 4, 3 * 32 * 10 * 4  # float32; a peer answers about everybody's examples
    assert {m.exchange_bytes for m in metrics.values()} == {examples + answers}
    team.submit(config.method, 1)
    adv = ray.get(team["peer0"].craft(2))  # what a receiver gets: the arrays themselves
    assert adv.x.nbytes == examples


def test_a_step_can_be_in_flight_before_the_last_ends(pooled: None, team_of: Any) -> None:
    config = small("mat")
    team = team_of(config)
    pending = [team.submit(config.method, t) for t in range(6)]
    results = [team.collect(p, timeout=60) for p in pending]
    local = LocalTeam(config.specs(datasets.prepare(config.data)))
    expected = run_steps(local, config, 6)
    local.close()
    for a, b in zip(results, expected, strict=True):
        assert {k: m.values for k, m in a.items()} == {k: m.values for k, m in b.items()}


def test_agents_that_see_other_images_do_not_start(
    ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RayTeam.describe

    def one_differs(team: RayTeam) -> dict[str, Facts]:
        facts = real(team)
        return {**facts, "peer1": replace(facts["peer1"], data_sha256="f" * 64, host="elsewhere")}

    monkeypatch.setattr(RayTeam, "describe", one_differs)
    with pytest.raises(DataError, match=r"do not see the same training images \(peer0 on .*, peer1 on elsewhere: ffff"):
        launch.train(small("mat"), runs_dir=tmp_path, how=Circumstances(quiet=True))
    assert not list(tmp_path.iterdir())


def ended(how: str, config: RunConfig, runs: Path) -> Path:
    """A run that reaches its end, fails at a loss, or is stopped by a signal."""
    done = threading.Event()

    def stop() -> None:
        while not done.is_set() and not (runs / "run" / "metrics.jsonl").exists():
            time.sleep(0.01)
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop)
    watcher.start()
    expected = {
        "success": nullcontext(),
        "failure": pytest.raises(TrainingStopped),
        "stopped": pytest.raises(Interrupted),
    }
    with expected[how]:
        launch.train(config, runs_dir=runs, name="run", how=Circumstances(quiet=True))
    done.set()
    watcher.join()
    return runs / "run"


@pytest.mark.soak
@pytest.mark.parametrize("how", ["failure", "success", "stopped"])
def test_everything_is_given_back(how: str, ray_session: str, tmp_path: Path) -> None:
    """No actor, no placement group and no object stays behind, however a run ends."""
    before = ray.available_resources()["object_store_memory"]
    options = {"success": {"max_steps": 2}, "failure": {"optim__lr": 1e30}, "stopped": {"max_steps": 500}}[how]
    run = ended(how, small("mat", **options), tmp_path)
    agents = json.loads((run / "env.json").read_text())["agents"].values()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        alive = [a["pid"] for a in agents if Path(f"/proc/{a['pid']}").exists()]
        free, present = ray.available_resources(), ray.cluster_resources()
        held = before - free["object_store_memory"]
        if not alive and free.get("CPU") == present["CPU"] and held < 2**20:
            break
        time.sleep(0.1)
    assert alive == []
    assert free["CPU"] == present["CPU"]
    assert held < 2**20
    assert {g["state"] for g in ray.util.placement_group_table().values()} == {"REMOVED"}


def test_objects_in_use_are_seen(ray_session: str) -> None:
    """What the test above looks at does change while something is held."""
    before = ray.available_resources()["object_store_memory"]
    held = ray.put(np.zeros(8 * 2**20, np.uint8))
    deadline = time.monotonic() + 20
    while before - ray.available_resources()["object_store_memory"] < 2**20:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    del held


def test_an_agent_that_cannot_be_made_is_the_users_error(ray_session: str, tmp_path: Path) -> None:
    """The sentence from inside the actor's constructor, no lost placement group."""
    path = tmp_path / "own.py"
    path.write_text("def net(config):\n    raise KeyError('in an actor')\n")
    with pytest.raises(ValueError, match=r"own.py, line 2: KeyError: 'in an actor'"):
        launch.train(small("mat", network=f"{path}:net"), runs_dir=tmp_path, how=Circumstances(quiet=True))
    assert {g["state"] for g in ray.util.placement_group_table().values()} == {"REMOVED"}


def test_local_team_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    config = replace(small("at"), threads_per_agent=2)
    team = LocalTeam(config.specs(datasets.prepare(config.data)))
    assert torch.get_num_threads() == 2
    team.close()
    assert torch.get_num_threads() == before
