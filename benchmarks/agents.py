"""Where a step's time goes with several agents over Ray: own computation, exchange, waiting.

    python benchmarks/agents.py [--points mat:2 mat:3 mat:4 mtard mat:2x4] [--steps 10] [--exchange store direct] [--compute-ms 25] [--save]

A point is METHOD[:PEERS][xLANES]. With --compute-ms the agents are stand-ins that wait so long a step on the clock, without a core, and exchange what true ones would: what a
step costs beside a GPU's. A step's wall time is that between two results with two steps in flight, as in training. An agent's own computation is what its
verbs took in the same steps, beside everything else that the machine had to do; the ratio is step over own computation of the
slowest agent, the median over all steps. On a machine with fewer cores than agents the verbs themselves get slower, not the ratio.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

from common import circumstances, save
from stand_ins import StandInSpec, configured

from sparring.agents.spec import AgentSpec
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.machines import session
from sparring.cluster.team import assemble
from sparring.cluster.team.team import Pending
from sparring.cluster.training.pace import Pace
from sparring.trainers.types import Metrics

WARM_UP = 4  # steps
OWN = ("craft", "answer", "predict", "learn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", default=["mat:2", "mat:3", "mat:4", "mtard"])
    parser.add_argument("--exchange", nargs="+", choices=["store", "direct"], default=["store"])
    parser.add_argument("--compute-ms", type=float, help="stand-ins that wait so long a step; default: true agents")
    parser.add_argument("--network", default="small_cnn:width=32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shape", default="3x32x32", help="CxHxW of the random images")
    parser.add_argument("--steps", type=int, default=10, help="per point and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--address", help="of a cluster whose hosts share the agents evenly; default: a Ray of its own")
    parser.add_argument("--cache", help="folder of the prepared images on every host")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/agents.json")
    args = parser.parse_args()
    if args.address is None:
        session.start(num_cpus=8, object_store_memory=256 * 2**20)
    with tempfile.TemporaryDirectory() as folder:
        configs = {
            (exchange, point): configured(point, args, Path(folder)).replace({"exchange": exchange})
            for point in args.points
            for exchange in args.exchange
        }
        found: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in configs}
        made = {point: agents_of(configs[args.exchange[0], point], args.compute_ms) for point in args.points}
        for _ in range(args.rounds):
            for key, config in configs.items():
                found[key] += measured(config, made[key[1]], args.steps)
    result = circumstances(seed=args.seed) | {"n": args.rounds * args.steps, "network": args.network}
    result |= {"batch_size": args.batch_size, "shape": args.shape, "compute_ms": args.compute_ms}
    result["exchange"] = {exchange: {} for exchange in args.exchange}
    for (exchange, point), steps in found.items():
        result["exchange"][exchange][point] = {k: median(s[k] for s in steps) for k in steps[0]}
    result["points"] = result["exchange"][args.exchange[-1]]
    if args.save:
        save("stand_ins" if args.compute_ms else "agents", result)
    print(json.dumps(result, indent=None if args.json else 1))


def agents_of(config: RunConfig, compute_ms: float | None) -> list[AgentSpec]:
    """True agents, or such that wait."""
    made = assemble.specs(config, quiet=True)
    return made if compute_ms is None else waiting(config, made, compute_ms)


def measured(config: RunConfig, made: list[AgentSpec], steps: int) -> list[dict[str, float]]:
    """Milliseconds of every step after the first ones, of the agent that computed most."""
    samples = []
    with assemble.team_of(config, made=made) as team:
        pending: list[Pending] = []
        before, used = time.perf_counter(), time.process_time()
        pace, t = Pace(config, 10**6), 0
        while len(samples) < WARM_UP + steps:
            pending.append(pace.submitted(team, config.method, t))
            t += pending[-1].steps
            if len(pending) < config.window:
                continue
            oldest = pending.pop(0)
            found = team.collect(oldest, timeout=600)
            now, spent = time.perf_counter(), time.process_time()
            found = [found] if oldest.kind == "step" else found
            each = {"driver_cpu_ms": 1e3 * (spent - used) / len(found)}
            for metrics in found:
                pace.seen(metrics)
                samples.append(sample(metrics, (now - before) / len(found)) | each)
            before, used = now, spent
        for p in pending:
            team.collect(p, timeout=600)
    return samples[WARM_UP:]


def waiting(config: RunConfig, made: list[AgentSpec], compute_ms: float) -> list[AgentSpec]:
    """Stand-ins: the agent that computes most waits ``compute_ms`` a step, every other one as much less as it computes less."""
    with assemble.team_of(config.replace({"team": "local", "lanes": 1}), made=made) as team:
        steps = [team.collect(team.submit(config.method, t), timeout=600) for t in range(6)]
    verbs = {agent: tuple(name for name, _, _ in m.spans if name in OWN) for agent, m in steps[-1].items()}
    each = {agent: [_verbs(step[agent]) for step in steps[1:]] for agent in verbs}
    shares = {}
    for (
        agent,
        calls,
    ) in verbs.items():  # agents with the same verbs have the same: peers of one network differ by noise alone
        alike = [s for other, steps_of in each.items() if verbs[other] == calls for s in steps_of]
        shares[agent] = tuple(median(took) for took in zip(*alike, strict=True))
    most = max(map(sum, shares.values()))
    return [
        StandInSpec(
            **{f.name: getattr(spec, f.name) for f in fields(spec)},
            waits=tuple(1e-3 * compute_ms * share / most for share in shares[spec.me]),
        )
        for spec in made
    ]


def _verbs(metrics: Metrics) -> list[float]:
    """Seconds of its verbs, one by one."""
    return [seconds for name, _, seconds in metrics.spans if name in OWN]


def sample(metrics: dict[str, Metrics], step: float) -> dict[str, float]:
    """One step."""
    own = {agent: sum(m.seconds.get(verb, 0.0) for verb in OWN) for agent, m in metrics.items()}
    slowest = max(own, key=lambda agent: own[agent])
    seconds: Any = metrics[slowest].seconds
    return {
        "step_ms": 1e3 * step,
        "own_ms": 1e3 * own[slowest],
        "exchange_ms": 1e3 * seconds.get("exchange", 0.0),
        "idle_ms": 1e3 * seconds["idle"],
        "ratio": step / own[slowest],
        "peak_mib": max(m.memory for m in metrics.values()) / 2**20,
    }


if __name__ == "__main__":
    main()
