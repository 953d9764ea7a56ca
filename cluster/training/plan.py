"""What a run would be, before it is: placement, exchange, memory, time."""

from __future__ import annotations

import time
from typing import Any

from sparring.agents.spec import Facts
from sparring.cluster.config import run_config
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.team import assemble
from sparring.cluster.training.progress import duration
from sparring.trainers.types import Metrics

CHEAP = 5.0  # seconds
PROBE_BATCH = 8  # images of the measured step; everything per image is scaled from it


def dry_run(config: RunConfig) -> dict[str, Any]:
    """One small step in this process, scaled to the run's batch: bytes that travel, memory of weights, time on this device.

    Raises:
        NoResources: with Ray, when this machine or the cluster cannot hold the agents.
    """
    bundles = {b.agent: b.resources for b in _bundles(config)}
    here = config.replace({"data.download": False, "team": "local", "lanes": 1})
    probe = here.replace({"batch_size": min(PROBE_BATCH, config.batch_size), "max_steps": 2})
    metrics, facts, seconds = _measure(probe)
    if seconds * config.batch_size / probe.batch_size < CHEAP:  # then the real batch is worth its time
        probe = probe.replace({"batch_size": config.batch_size})
        metrics, facts, seconds = _measure(probe)
    scale = config.batch_size / probe.batch_size
    spec = assemble.specs(here, quiet=True)[0]
    steps, last = spec.length(), spec.last_batch()
    plan = {
        "agents": {name: {"parameters": f.parameters, "bundle": bundles.get(name, {})} for name, f in facts.items()},
        "steps": steps,
        "last_batch": last,
        "measured_batch": probe.batch_size,
        "exchange_bytes_per_step": {name: round(m.exchange_bytes * scale) for name, m in metrics.items()},
        "state_bytes_per_agent": {name: 2 * 4 * f.parameters for name, f in facts.items()},
        "seconds_one_process": round(seconds * scale * steps, 1),
        "config": config.to_dict(),
    }
    return {**plan, "text": _text(config, plan)}


def _measure(probe: RunConfig) -> tuple[dict[str, Metrics], dict[str, Facts], float]:
    """Metrics of a step in this process, facts of its agents, its seconds."""
    with assemble.team_of(probe, quiet=False) as team:
        metrics: dict[str, Metrics] = {}
        seconds = 0.0
        for t in range(2):  # the first call of every kernel is slow
            started = time.perf_counter()
            metrics = team.collect(team.submit(probe.method, t), timeout=probe.call_timeout)
            seconds = time.perf_counter() - started
        return metrics, team.describe(), seconds


def _bundles(config: RunConfig) -> list[Any]:
    if config.team == "local":
        return []
    from sparring.cluster.machines import placement, session

    with session.connected(config.address):
        roles, nodes = list(config.method.roles()), placement.nodes_alive()
        wanted, own = placement.on_device(config.device, config.placement, config.agents)
        return list(placement.plan(roles, wanted, nodes, lanes=config.lanes, own=own))


def _text(config: RunConfig, plan: dict[str, Any]) -> str:
    lines = [run_config.dump(config), "The plan"]
    for name, agent in plan["agents"].items():
        bundle = ", ".join(f"{v:g} {k}" for k, v in agent["bundle"].items()) or "this process"
        sent = plan["exchange_bytes_per_step"].get(name, 0)
        lines.append(
            f"{name}: {agent['parameters']:,} parameters, {plan['state_bytes_per_agent'][name] / 2**20:.1f} MiB with momentum, "
            f"{sent / 2**20:.2f} MiB published per step, on {bundle}"
        )
    if plan["last_batch"] > config.batch_size:
        lines.append(
            f"the last batch of an epoch has {plan['last_batch']} images: the one that would be left joins it, for batch norm "
            "has no variance of one"
        )
    lines.append(
        f"{plan['steps']} steps; about {duration(plan['seconds_one_process'])} if all agents shared this one process"
    )
    lines.append(f"(from a step of {plan['measured_batch']} images measured here; agents on Ray run side by side)")
    return "\n".join(lines)
