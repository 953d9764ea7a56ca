"""The blocks of an evaluation, attacked one after the other in this process; ``workers.py`` does the same on actors.

every job without a file ---> pixels and labels ---> Attacking.attack ---> block-0007.parquet
draws depend on (seed, attack, block) only, so who attacks a block, and when, changes nothing
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from sparring.agents.checkpoint import write
from sparring.agents.robustness import judged
from sparring.cluster.evaluation.block import evaluate_block, read, to_parquet
from sparring.cluster.evaluation.named_attacks import VERSIONS, Block
from sparring.cluster.evaluation.subjects import device_of
from sparring.trainers.attacks import gradient
from sparring.trainers.config import Threat
from sparring.trainers.losses import cross_entropy

PGD_STEPS = 20  # of a transfer attack, and more than fgsm's one
FULL = (
    100 + 900 + 1000 + 5000 / 3
)  # APGD-CE, APGD-T, FAB-T (100 steps to 9 targets each), Square; of images that resist to the end

Seconds: TypeAlias = Mapping[str, float]  # by attack


@dataclass(frozen=True, slots=True)
class Job:
    """One block to evaluate."""

    path: Path
    start: int
    stop: int
    index: int
    agent: str
    threat: Threat


Images: TypeAlias = Callable[[Job], tuple[Tensor, Tensor]]  # [n, C, H, W] in [0, 1] and labels [n], on the CPU
Done: TypeAlias = Callable[[Job, Seconds], None]


@dataclass(frozen=True, slots=True)
class Attacking:
    """Who is attacked, and how: what this process, or each worker, holds."""

    models: Mapping[str, nn.Module]  # by agent
    sources: Mapping[str, nn.Module]  # of transfer attacks, by name
    attacks: tuple[str, ...]
    seed: int

    def attack(self, job: Job, x: Tensor, y: Tensor) -> tuple[bytes, Seconds]:
        """Evaluate one block; its file as bytes, and seconds per attack."""
        model = self.models[job.agent]
        here = device_of(model)
        block = Block(x.to(here), y.to(here), job.index, self.seed)
        outcome = evaluate_block(model, block, attacks=self.attacks, threat=job.threat, sources=self.sources)
        return to_parquet(outcome, job.start), outcome.seconds

    def copied(self, device: torch.device) -> Attacking:
        """The same on a device, in eval mode, in memory of its own."""
        models = {name: deepcopy(m).to(device).eval() for name, m in self.models.items()}
        sources = {name: deepcopy(m).to(device).eval() for name, m in self.sources.items()}
        return Attacking(models, sources, self.attacks, self.seed)


def run(attacking: Attacking, jobs: Sequence[Job], images: Images, done: Done) -> None:
    """Evaluate every job and write its file."""
    for job in jobs:
        content, seconds = attacking.attack(job, *images(job))
        put(job, content)
        done(job, seconds)


def put(job: Job, content: bytes) -> None:
    """Write a block's file."""
    job.path.parent.mkdir(parents=True, exist_ok=True)
    write(job.path, content)


def jobs_of(target: Path, agents: Sequence[str], threats: Sequence[Threat], n: int, size: int) -> list[Job]:
    """Every block of an evaluation; nothing is made on disk."""
    jobs = []
    for agent in agents:
        for threat in threats:
            folder = target / "blocks" / agent / str(threat).replace(":", "-")
            for index, start in enumerate(range(0, n, size)):
                path = folder / f"block-{index:04d}.parquet"
                jobs.append(Job(path, start, min(start + size, n), index, agent, threat))
    return jobs


def read_all(jobs: Sequence[Job]) -> dict[str, Tensor]:
    """The columns of consecutive blocks, without witnesses."""
    parts = [read(job.path) for job in jobs]
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0] if isinstance(parts[0][k], Tensor)}


def about(work: Attacking, jobs: Sequence[Job], images: Images) -> float:
    """Seconds that all jobs take in this process, at most and roughly, from one gradient on two images of the first."""
    x, y = (a[:2] for a in images(jobs[0]))
    model = work.models[jobs[0].agent]
    x, y = x.to(device_of(model)), y.to(device_of(model))
    with judged(model):
        for _ in range(2):  # the first call of every kernel is slow
            started = time.perf_counter()
            gradient(lambda z: cross_entropy(model(z), y), x)
            seconds = (time.perf_counter() - started) / len(x)
    return seconds * sum(map(gradients, work.attacks)) * sum(job.stop - job.start for job in jobs)


def gradients(attack: str) -> float:
    """What an attack costs per image, at most, counted in gradients; an answer alone is a third of one."""
    if attack in VERSIONS:
        return FULL
    kind, _, rest = attack.rpartition("-")
    if kind == "square":
        return int(rest) / 3
    steps, _, restarts = rest.partition("x")
    return int(steps) * int(restarts or 1) + 1 if kind.endswith("pgd") else PGD_STEPS


class Meter:
    """Says how far an evaluation is: after the first block, then at most every five seconds."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self.total, self.say, self.finished = total, say, 0
        self.started = self.said = time.monotonic()

    def done(self, job: Job, seconds: Mapping[str, float]) -> None:
        self.finished += 1
        now = time.monotonic()
        if self.finished == 1 or now - self.said > 5 or self.finished == self.total:
            self.said = now
            left = (now - self.started) / self.finished * (self.total - self.finished)
            parts = ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())
            self.say(f"{job.agent} {job.threat}: {self.finished} of {self.total} blocks, {left:.0f} s to go ({parts})")
