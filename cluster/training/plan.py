"""What a run would be, before it is: placement, exchange, memory, time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.agents.loading.loader import processes
from sparring.agents.spec import Facts
from sparring.cluster.config import environment, run_config
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.team import assemble
from sparring.cluster.team.team import Team
from sparring.cluster.terminal import duration
from sparring.trainers.types import Metrics

CHEAP = 5.0  # seconds
PROBES = (4, 8)  # images of the measured steps; a step of the run's size follows where it is cheap
MARGIN = 0.3  # of a time that was measured on an idle machine


def dry_run(config: RunConfig) -> dict[str, Any]:
    """Small steps in this process, scaled to the run's batch: bytes that travel, memory, time on this device.

    Raises:
        NoResources: with Ray, when this machine or the cluster cannot hold the agents.
    """
    bundles, said = _bundles(config)
    here = config.replace({"data.download": False, "team": "local", "lanes": 1, "loader.workers": 0})
    seen = [_measure(here.replace({"batch_size": min(n, config.batch_size), "max_steps": 2})) for n in PROBES]
    each = (seen[-1].seconds + seen[-1].decoding) / PROBES[-1]
    if each * config.batch_size < CHEAP:  # then the real batch is worth its time
        seen = [_measure(here.replace({"max_steps": 2}))]
    last = seen[-1]
    scale = config.batch_size / last.images
    spec = assemble.specs(here, quiet=True)[0]
    steps, (low, high) = spec.length(), _seconds(seen, config.batch_size)
    learners = sum(role.learns for role in config.method.roles().values())
    plan = {
        "agents": {n: {"parameters": f.parameters, "bundle": bundles.get(n, {})} for n, f in last.facts.items()},
        "steps": steps,
        "last_batch": spec.last_batch(),
        "device": _device(last.facts, config.threads_per_agent),
        "measured_batch": last.images,
        "exchange_bytes_per_step": {name: round(m.exchange_bytes * scale) for name, m in last.metrics.items()},
        "state_bytes_per_agent": {name: 2 * 4 * f.parameters for name, f in last.facts.items()},
        "activation_bytes_per_agent": round(last.kept * scale / max(learners, 1)),
        "seconds_one_process": [round(low * steps, 1), round(high * steps, 1)],
        "decoding": _decoding(config, last, low),
        "looking": config.measure.images,
        "ships": _shipped(config),
        "said": said,
        "config": config.to_dict(),
    }
    return {**plan, "text": _text(config, plan)}


@dataclass(frozen=True, slots=True)
class Probe:
    """What a step of so many images was seen to take."""

    images: int
    metrics: dict[str, Metrics]
    facts: dict[str, Facts]
    seconds: float  # without those of decoding
    kept: int  # bytes that gradients need, at most at a time, of all agents in this process
    decoding: float = 0.0  # seconds of the same step
    decoded: tuple[int, float] = (0, 0.0)  # images that all agents decoded in both steps, and seconds


def _measure(probe: RunConfig) -> Probe:
    """The second of two steps in this process: the first call of every kernel is slow."""
    with assemble.team_of(probe, quiet=False) as team:
        metrics: dict[str, Metrics] = {}
        seconds, kept = 0.0, Kept()
        decoding, begun = 0.0, _decoded(team, probe)
        for t in range(2):
            started, before = time.perf_counter(), _decoded(team, probe)
            with kept.watched() if t == 0 else nullcontext():
                metrics = team.collect(team.submit(probe.method, t), timeout=probe.call_timeout)
            seconds, ended = time.perf_counter() - started, _decoded(team, probe)
            decoding = ended[1] - before[1]
        decoded = (ended[0] - begun[0], ended[1] - begun[1])
        return Probe(probe.batch_size, metrics, team.describe(), seconds - decoding, kept.most, decoding, decoded)


def _decoded(team: Team, probe: RunConfig) -> tuple[int, float]:
    """Images that all agents, which are in this process, have decoded so far, and seconds."""
    each = [team[role].endpoint.agent.batches.decoded for role in probe.method.roles()]
    return sum(images for images, _ in each), sum(seconds for _, seconds in each)


def _decoding(config: RunConfig, probe: Probe, seconds: float) -> dict[str, Any] | None:
    """Images a second that steps want and that this machine decodes; None where images are in memory.

    Args:
        seconds: of a step, if all agents share one process; side by side they are quicker, by their number at most.
    """
    images, took = probe.decoded
    if images == 0:
        return None
    at_once = 1 if config.team == "local" else len(probe.facts)
    wanted, one = config.batch_size * at_once / seconds, images / took
    workers = processes(config.loader)
    return {
        "images_per_second_wanted": round(wanted, 1),
        "images_per_second_of_a_process": round(one, 1),
        "processes": workers,
        "images": images,
        "slower": wanted > one * max(1, workers),
    }


class Kept:
    """Bytes that autograd keeps for gradients, and the most that it did at a time; weights, which are there anyway, do not count."""

    def __init__(self) -> None:
        self.now, self.most = 0, 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside the block."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda one: one.tensor):
            yield

    def _keep(self, tensor: Tensor) -> _One:
        size = 0 if tensor.is_leaf else tensor.numel() * tensor.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        return _One(self, tensor, size)


class _One:
    def __init__(self, kept: Kept, tensor: Tensor, size: int) -> None:
        self.tensor, self._kept, self._size = tensor, kept, size

    def __del__(self) -> None:
        self._kept.now -= self._size


def _seconds(seen: Sequence[Probe], batch: int) -> tuple[float, float]:
    """Of a step of ``batch`` images, from and to: a part of a step's time does not grow with its images, and how much is not known."""
    last = seen[-1]
    if last.images == batch:
        return last.seconds * (1 - MARGIN), last.seconds * (1 + MARGIN)
    each = max(0.0, (last.seconds - seen[0].seconds) / (last.images - seen[0].images))
    line, share = last.seconds + each * (batch - last.images), last.seconds * batch / last.images
    return min(line, share) * (1 - MARGIN), max(line, share)


def _device(facts: Mapping[str, Facts], threads: int) -> str:
    """What the steps were measured on."""
    kinds = {f.device for f in facts.values()}
    if kinds != {"cpu"}:
        return ", ".join(sorted(kinds))
    return f"{environment.cpu()}, {threads} thread{'s' if threads > 1 else ''}"


def _bundles(config: RunConfig) -> tuple[dict[str, dict[str, float]], str | None]:
    """What every agent gets, without starting a Ray of one's own to learn it; and what is to be said of that."""
    if config.team == "local":
        return {}, None
    from sparring.cluster.machines import placement, session  # late: a local team needs no ray

    roles, said = list(config.method.roles()), None
    wanted, own = placement.on_device(config.device, config.placement, config.agents)
    if session.brings_its_own(config.address):
        wanted, said = placement.on_one_machine(wanted, config.lanes * len(roles))
        planned = placement.plan(roles, wanted, [placement.this_machine()], lanes=config.lanes, own=own)
    else:
        with session.connected(config.address):
            planned = placement.plan(roles, wanted, placement.nodes_alive(), lanes=config.lanes, own=own)
    return {b.agent: b.resources for b in planned}, said


def _shipped(config: RunConfig) -> tuple[int, int] | None:
    """Files and bytes of our code, where a cluster gets it."""
    if config.address is None or config.team == "local":
        return None
    from sparring.cluster.machines import session

    return session.shipped_size()


def _text(config: RunConfig, plan: dict[str, Any]) -> str:
    lines = [run_config.dump(config), "The plan"]
    for name, agent in plan["agents"].items():
        bundle = ", ".join(f"{v:g} {k}" for k, v in agent["bundle"].items()) or "this process"
        sent = plan["exchange_bytes_per_step"].get(name, 0)
        lines.append(
            f"{name}: {agent['parameters']:,} parameters, {plan['state_bytes_per_agent'][name] / 2**20:.1f} MiB with momentum, "
            f"{sent / 2**20:.2f} MiB published per step, on {bundle}"
        )
    lines.append(f"{plan['activation_bytes_per_agent'] / 2**20:,.0f} MiB of activations per agent that learns, about")
    lines += [plan["said"]] if plan["said"] else []
    if plan["looking"] is not None:
        lines.append(f"networks are compared on {plan['looking']} held-out images at most, at every checkpoint")
    lines += _decoding_text(config, plan["decoding"]) if plan["decoding"] else []
    if plan["ships"]:
        files, size = plan["ships"]
        lines.append(
            f"the cluster gets our code ({files} files, {size / 2**20:.1f} MiB) and the files that the run names"
        )
    if plan["last_batch"] > config.batch_size:
        lines.append(
            f"the last batch of an epoch has {plan['last_batch']} images: the one that would be left joins it, for batch norm "
            "has no variance of one"
        )
    low, high = map(duration, plan["seconds_one_process"])
    lines.append(f"{plan['steps']} steps: {low} to {high} if all agents shared one process on {plan['device']}")
    lines.append(f"(from steps of {plan['measured_batch']} images measured here; agents on Ray run side by side)")
    return "\n".join(lines)


def _decoding_text(config: RunConfig, found: Mapping[str, Any]) -> list[str]:
    wanted, one, workers = (
        found[k] for k in ("images_per_second_wanted", "images_per_second_of_a_process", "processes")
    )
    of = f"(measured on {found['images']})"
    if workers:
        shared, who = "once for all agents of a node", f"{workers} process{'es' if workers > 1 else ''} here"
        lines = [
            f"steps want up to {wanted:,.0f} images a second, {shared}",
            f"{who} decode{'' if workers > 1 else 's'} about {one * workers:,.0f}, each {one:,.0f} {of}",
        ]
    else:
        lines = [f"steps want up to {wanted:,.0f} images a second; every agent decodes about {one:,.0f} {of}"]
    if found["slower"]:
        scaled = "" if config.data.scaled or config.data.augment != "resized-crop" else ", or --data.scaled"
        lines.append(f"DECODING IS SLOWER than the steps: more --loader.workers{scaled}")
    return lines
