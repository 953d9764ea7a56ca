"""Time of a step, bytes exchanged and the driver's own time for 1 to 8 agents and 1 to 4 lanes: MAT on digits over Ray.

python benchmarks/scaling.py [--points 2x1,2x2] [--steps 20] [--save]

A point is AGENTSxLANES; every actor has one thread. Measured besides: an empty call to an actor and back, and how fast an array
passes through the object store into another process. ``benchmarks/scale_model.py`` predicts from what this saves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import numpy as np
import ray
from common import circumstances, save

from sparring.cluster.config.recipes import recipe
from sparring.cluster.machines import session
from sparring.cluster.team import assemble
from sparring.cluster.team.team import Pending

POINTS = "1x1,2x1,3x1,4x1,5x1,6x1,7x1,8x1,2x2,2x3,3x2,2x4"
WARM_UP = 4  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", default=POINTS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--network", default="small_cnn:width=16")
    parser.add_argument("--batch-size", type=int, default=120)  # 1 to 4 lanes get equal shares
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/scaling.json")
    args = parser.parse_args()
    session.start(num_cpus=8, object_store_memory=256 * 2**20)
    call_ms, store_gbps = exchange()
    points = [tuple(map(int, p.split("x"))) for p in args.points.split(",")]
    found: dict[tuple[int, ...], list[dict[str, float]]] = {p: [] for p in points}
    for _ in range(args.rounds):
        for agents, lanes in points:
            found[agents, lanes].append(measure(args, agents, lanes))
    samples = [
        {"agents": m, "lanes": r, **{k: statistics.median(one[k] for one in each) for k in each[0]}}
        for (m, r), each in found.items()
    ]
    record = {
        **circumstances(seed=args.seed),
        "n": args.rounds,
        "steps": args.steps,
        "cores": os.cpu_count(),
        "batch_size": args.batch_size,
        "call_ms": call_ms,
        "store_gbps": store_gbps,
        "samples": samples,
    }
    print(save("scaling", record) if args.save else json.dumps(record))


def measure(args: argparse.Namespace, agents: int, lanes: int) -> dict[str, float]:
    """Medians over the steps of one team."""
    changes = {
        "peers": agents,
        "lanes": lanes,
        "network": args.network,
        "batch_size": args.batch_size,
        "seed": args.seed,
    }
    config = recipe("mat").replace({**changes, "max_steps": 10**6, "attack.steps": 5, "placement.cpus_per_agent": 0.25})
    wall, own, size = [], [], 0
    with assemble.team_of(config) as team:
        pending: list[Pending] = []
        before = time.perf_counter()
        for t in range(WARM_UP + args.steps):
            started = time.process_time()
            pending.append(team.submit(config.method, t))
            if len(pending) >= config.window:
                size = sum(m.exchange_bytes for m in team.collect(pending.pop(0), timeout=60).values())
            now = time.perf_counter()
            wall.append(1e3 * (now - before))
            own.append(1e3 * (time.process_time() - started))
            before = now
        for p in pending:
            team.collect(p, timeout=60)
    return {
        "step_ms": statistics.mean(wall[WARM_UP:]),
        "driver_ms": statistics.mean(own[WARM_UP:]),
        "exchange_bytes": float(size),
    }


@ray.remote
class _Echo:
    def nothing(self) -> None:
        pass

    def give(self, n: int) -> Any:
        return np.zeros(n, np.uint8)

    def take(self, array: Any) -> int:
        return int(array.copy()[0])


def exchange() -> tuple[float, float]:
    """Milliseconds of an empty call and back; GB/s of an array from one actor's memory into another's."""
    a, b = (_Echo.options(num_cpus=0).remote() for _ in range(2))
    ray.get([a.nothing.remote(), b.nothing.remote()])
    calls, passed, n = [], [], 32 * 2**20
    for _ in range(30):
        started = time.perf_counter()
        ray.get(a.nothing.remote())
        calls.append(1e3 * (time.perf_counter() - started))
    for _ in range(8):
        started = time.perf_counter()
        ray.get(b.take.remote(a.give.remote(n)))
        passed.append(n / (time.perf_counter() - started) / 1e9)
    for actor in (a, b):
        ray.kill(actor)
    return statistics.median(calls), statistics.median(passed[1:])


if __name__ == "__main__":
    main()
