"""What a run would be, before it is: differences from its recipe, placement, exchange, memory, time."""

from __future__ import annotations

import time
from typing import Any

from cluster import launch, run_config
from cluster.run_config import RunConfig

PROBE_BATCH = 8  # images of the measured step; everything per image is scaled from it


def changes(base: RunConfig, config: RunConfig) -> list[str]:
    """``setting: recipe's value -> value`` for all that differ."""
    before, after = _flat(base.to_dict()), _flat(config.to_dict())
    return [f"{k}: {before.get(k)} -> {v}" for k, v in after.items() if before.get(k) != v]


def dry_run(config: RunConfig) -> dict[str, Any]:
    """One small step in this process, scaled to the run's batch: bytes that travel, memory of weights, time on this device.

    Raises:
        NoResources: with Ray, when this machine or the cluster cannot hold the agents.
    """
    bundles = _bundles(config)
    probe = config.replace({"team": "local", "batch_size": min(PROBE_BATCH, config.batch_size), "max_steps": 2})
    with launch.team_of(probe) as team:
        for t in range(2):  # the first call of every kernel is slow
            started = time.perf_counter()
            metrics = team.collect(team.submit(probe.method, t), timeout=config.call_timeout)
            seconds = time.perf_counter() - started
        facts = team.describe()
    scale = config.batch_size / probe.batch_size
    per_epoch = -(-next(iter(facts.values())).steps_per_epoch * probe.batch_size // config.batch_size)
    steps = config.max_steps or config.epochs * per_epoch
    plan = {
        "agents": {name: {"parameters": f.parameters, "bundle": bundles} for name, f in facts.items()},
        "steps": steps,
        "exchange_bytes_per_step": {name: round(m.exchange_bytes * scale) for name, m in metrics.items()},
        "state_bytes_per_agent": {name: 2 * 4 * f.parameters for name, f in facts.items()},
        "seconds_one_process": round(seconds * scale * steps, 1),
        "config": config.to_dict(),
    }
    return {**plan, "text": _text(config, plan)}


def _bundles(config: RunConfig) -> dict[str, float]:
    if config.team == "local":
        return {}
    from cluster import placement, session

    with session.connected(config.address):
        return placement.plan(len(config.method.roles()), config.placement, placement.nodes_alive())[0]


def _text(config: RunConfig, plan: dict[str, Any]) -> str:
    lines = [run_config.dump(config)]
    for name, agent in plan["agents"].items():
        bundle = ", ".join(f"{v:g} {k}" for k, v in agent["bundle"].items()) or "this process"
        sent = plan["exchange_bytes_per_step"].get(name, 0)
        lines.append(
            f"{name}: {agent['parameters']:,} parameters, {plan['state_bytes_per_agent'][name] / 2**20:.1f} MiB with momentum, "
            f"{sent / 2**20:.2f} MiB published per step, on {bundle}"
        )
    lines.append(
        f"{plan['steps']} steps; about {plan['seconds_one_process']:.0f} s if all agents shared this one process"
    )
    lines.append(
        f"(scaled from a step of {min(PROBE_BATCH, config.batch_size)} images measured here; agents on Ray run side by side)"
    )
    return "\n".join(lines)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for k, v in values.items():
        flat |= _flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v}
    return flat
