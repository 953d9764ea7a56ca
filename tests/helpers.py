"""What several tests need: small runs, agents in this process in float64, and the bytes of a run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.agents.agent import Agent
from sparring.agents.base import Makings
from sparring.agents.lanes import Lanes
from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.runs.checkpoints import Checkpoints
from sparring.cluster.search import report as search_report
from sparring.cluster.search.results import results_of
from sparring.cluster.search.settings import Search
from sparring.trainers import code, trusting
from sparring.trainers.batches import Batches
from sparring.trainers.config import Attack, DataConfig, OptimConfig, SpeedConfig, Threat
from sparring.trainers.data import Split
from sparring.trainers.methods.base import Method
from sparring.trainers.types import Metrics
from tests.planted import final

CLONE = Path(__file__).resolve().parent.parent
PATIENCE = 300.0  # seconds for a process to come to a point or to end: on a busy machine a few become many
_started: list[subprocess.Popen[Any]] = []


def with_docs_tools(*modules: str) -> dict[str, str]:
    """The environment of a process that has what ``make docs-tools`` installed; skips the test where a module is not there."""
    paths = [str(CLONE), str(CLONE / ".docs-tools"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NO_MKDOCS_2_WARNING": "1"}
    for module in modules:
        found = subprocess.run([sys.executable, "-c", f"import {module}"], env=env, capture_output=True, check=False)
        if found.returncode:
            pytest.skip(f"needs {module} (make docs-tools)")
    return env


def started(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """A process of this test's own: it does not outlive the test, however that ends."""
    process = subprocess.Popen(command, text=True, **options)
    _started.append(process)
    return process


def end_started() -> None:
    """Called after every test."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.wait()


SMALL: dict[str, Any] = {
    "network": "small_cnn:width=4",
    "batch_size": 32,
    "attack.steps": 2,
    "max_steps": 20,
    "checkpoint.every": 5,
    "checkpoint.attack_steps": 2,
    "placement.cpus_per_agent": 0.5,
}


def small(method: str = "mat", **overrides: Any) -> RunConfig:
    """A run of 20 short steps on digits; dots in setting names are written as two underscores."""
    return recipe(method).replace(SMALL | {k.replace("__", "."): v for k, v in overrides.items()})


def small_flags(**overrides: Any) -> list[str]:
    """The same as flags of ``sparring train``."""
    values = SMALL | {k.replace("__", "."): v for k, v in overrides.items()}
    return [f"--{k.replace('_', '-')}" + ("" if v is True else f"={v}") for k, v in values.items()]


def bytes_of(run: Path) -> dict[str, Any]:
    """Everything of a run that is promised to be identical: hashes of all agents' files, and metrics without times."""
    checkpoints = Checkpoints(run / "checkpoints")
    manifest = json.loads((checkpoints.path(checkpoints.committed()[-1]) / "MANIFEST.json").read_bytes())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [(line["t"], line["agent"], line["values"], line["exchange_bytes"]) for line in lines]
    best, latest = ((run / "checkpoints" / f"{n}.json").read_text() for n in ("best", "last"))
    return {"manifest": manifest, "metrics": metrics, "best": best, "last": latest}


def planted(*, steps: int, every: int, seed: int = 0, **options: Any) -> Search:
    """A search on the method whose best settings are known; its trials take a tenth of a second."""
    run: dict[str, Any] = {"max_steps": steps, "method__length": steps, "checkpoint__every": every, "batch_size": 4}
    cheap: dict[str, Any] = {"team": "local", "network": "small_cnn:width=2", "checkpoint__attack_steps": 0}
    config = small(str(CLONE / "tests" / "planted.py"), **run, **cheap, data__validation=0.02, seed=seed)
    return Search(config=config, spaces=config.method.SEARCH, objective="model/quality", **options)


def chosen(folder: Path) -> float:
    """What the settings that such a search chose come to."""
    found = search_report.best_of(results_of(folder))
    assert found is not None
    return final(found["params"]["method.a"], found["params"]["method.b"])


class TinyNet(nn.Module):
    """Two convolutions and a linear layer, with or without batch norm."""

    def __init__(self, *, channels: int = 1, classes: int = 4, bn: bool = True, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv1, self.conv2 = nn.Conv2d(channels, 5, 3, padding=1), nn.Conv2d(5, 6, 3, stride=2)
            self.fc = nn.Linear(6, classes)
        self.bn = nn.BatchNorm2d(5) if bn else nn.Identity()

    def features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        first = torch.relu(self.bn(self.conv1(x)))
        second = torch.tanh(self.conv2(first))
        return (first, second), self.fc(second.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[1]


@dataclass
class Handle:
    """An agent as a method sees it, without any packing."""

    agent: Agent
    metrics: Metrics | None = None

    def craft(self, t: int, *, attack: str = "train", **hints: Any) -> Any:
        return self.agent.craft(t, attack=attack, **hints)

    def answer(self, t: int, on: Any = None) -> Any:
        return self.agent.answer(t, on)

    def predict(self, t: int, **seen: Any) -> Any:
        return self.agent.predict(t, **seen)

    def learn(self, t: int, **seen: Any) -> None:
        self.metrics = self.agent.learn(t, **seen)


def make_team(
    method: Method,
    models: Mapping[str, nn.Module] | None = None,
    *,
    bn: bool = True,
    attack: Attack | None = None,
    optim: OptimConfig | None = None,
    n: int = 24,
    batch_size: int = 8,
    same_start: bool = False,
    lanes: Mapping[str, Lanes] | None = None,
    speed: SpeedConfig = SpeedConfig(),
    dtype: torch.dtype = torch.float64,
) -> dict[str, Handle]:
    """Agents, by default in float64, on random images of 1x6x6; equal arguments give equal agents."""
    rng = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (n, 6, 6, 1), generator=rng, dtype=torch.uint8)
    split = Split(images, torch.randint(0, 4, (n,), generator=rng))
    team = {}
    named = {p: Attack(norm=p, eps={"linf": 0.1, "l2": 0.4, "l1": 1.5}[p], steps=3) for p in method.norms()}  # type: ignore[arg-type]
    roles = method.roles()
    beside = {name for role in roles.values() for name in role.beside}
    for index, role in enumerate(roles):
        model = models[role] if models else TinyNet(bn=bn, seed=index)
        helpers = method.helpers(role, {r: [5, 6] for r in roles})
        batches = Batches(split, DataConfig(), batch_size=batch_size, seed=3, dtype=dtype)
        made = Makings(
            me=role,
            index=0 if same_start else index,
            method=method,
            model=model.to(dtype),
            batches=batches,
            held_out=split,
            config=optim or OptimConfig(schedule="constant"),
            attacks={"train": attack or Attack(**{"eps": 0.1, "steps": 3, **method.ATTACK}), **named},
            seed=5,
            total_steps=50,
            classes=4,
            helpers=helpers.to(dtype) if helpers else None,
            beside={name: TinyNet(bn=bn, seed=99).to(dtype).eval() for name in beside},
            speed=speed,
            lanes=lanes[role] if lanes else Lanes(),
        )
        team[role] = Handle(Agent(made))
    return team


def losses(team: Mapping[str, Handle]) -> dict[str, float]:
    """Total loss of every learner in the last step."""
    return {role: h.metrics.values["total"] for role, h in team.items() if h.metrics is not None}


def gradients(handle: Handle) -> list[Tensor]:
    """The gradients that the last ``learn`` left behind."""
    return [p.grad for p in handle.agent.model.parameters() if p.grad is not None]


def shorten_autoattack(monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts of AutoAttack, ours and its authors', with few steps and queries: what a test asks is not how strong it is."""
    from pyautoattack import AutoAttack

    from sparring.trainers import autoattack

    real, stages = AutoAttack.__init__, autoattack.stages

    def short(self: Any, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 10
        self.apgd.n_iter_orig = self.apgd_targeted.n_iter_orig = 10
        for attack in (self.apgd, self.apgd_targeted):
            attack.n_iter_2, attack.n_iter_min, attack.size_decr = 2, 1, 1
        self.square.n_queries = 100

    def few(version: str, threat: Threat, classes: int) -> dict[str, Any]:
        return {
            name: replace(stage, **({"queries": 100} if name == "square" else {"steps": 10}))  # type: ignore[type-var]
            for name, stage in stages(version, threat, classes).items()
        }

    monkeypatch.setattr(AutoAttack, "__init__", short)
    monkeypatch.setattr(autoattack, "stages", few)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """With a few bytes changed, cut out or put in."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, what = rng.randrange(len(found)), rng.randrange(3)
        if what == 0:
            found[at] = rng.randrange(256)
        elif what == 1:
            del found[at : at + rng.randint(1, 40)]
        else:
            found[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(found)


def begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that has just begun knows users' files: not at all."""
    monkeypatch.setattr(code, "_known", {})
    monkeypatch.setattr(trusting, "_admitted", set())
    monkeypatch.setattr(trusting, "_strange", {})
    for name in [name for name in sys.modules if name.startswith(code.PREFIX)]:
        monkeypatch.delitem(sys.modules, name)
