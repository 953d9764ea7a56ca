"""Wall time of a step on Ray against the same step in one process: MAT, one thread per agent, interleaved rounds.

    python benchmarks/team_vs_local.py --rounds 5 --steps 20

Both teams are warm and alive at once; rounds alternate between them, so that what else the machine does hits both. The
ratio of the two medians of a round is the sample; the median over rounds is the figure.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

from common import circumstances, random_images, save

from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.team import assemble
from sparring.cluster.team.team import Pending, Team

ROUND = 6.0  # seconds of one team
WARM_UP = 6  # steps; the first ones pay for imports, allocation and kernel selection


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="small_cnn:width=32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--data-shape", help="CxHxW: random images of this shape instead of digits")
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--attack-steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="per team and round; default 20, fewer when they take more than 6 s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write the result to benchmarks/results/")
    return parser.parse_args()


def seconds_per_step(team: Team, config: RunConfig, first: int, steps: int) -> float:
    """Wall time of ``steps`` steps with the configured window in flight, per step."""
    started = time.perf_counter()
    pending: list[Pending] = []
    for t in range(first, first + steps):
        pending.append(team.submit(config.method, t))
        while len(pending) >= config.window:
            team.collect(pending.pop(0), timeout=config.call_timeout)
    for p in pending:
        team.collect(p, timeout=config.call_timeout)
    return (time.perf_counter() - started) / steps


def main() -> None:
    args = arguments()
    overrides: dict[str, Any] = {
        "network": args.network,
        "batch_size": args.batch_size,
        "peers": args.peers,
        "attack.steps": args.attack_steps,
        "seed": args.seed,
        "max_steps": 10**6,
    }
    if args.data_shape:
        overrides["data.name"] = random_images([int(n) for n in args.data_shape.split("x")])
    config = recipe("mat").replace(overrides)
    rounds = []
    with assemble.team_of(config.replace({"team": "local"})) as local, assemble.team_of(config) as remote:
        slow = seconds_per_step(local, config, 0, 2) + seconds_per_step(remote, config, 0, 2) > ROUND
        warm_up = 2 if slow else WARM_UP  # long steps hide what the first ones pay
        for team in (local, remote):
            if not slow:
                seconds_per_step(team, config, 2, WARM_UP - 2)
        per_step = seconds_per_step(local, config, warm_up, 1)
        seconds_per_step(remote, config, warm_up, 1)
        steps = args.steps or max(1, min(20, int(ROUND / per_step)))
        for i in range(args.rounds):
            first = warm_up + 1 + i * steps
            pair = {
                name: seconds_per_step(team, config, first, steps) for name, team in (("local", local), ("ray", remote))
            }
            rounds.append({**pair, "ratio": pair["ray"] / pair["local"]})
    result = {
        **circumstances(seed=args.seed),
        "n": args.rounds,
        "steps_per_round": steps,
        "local_ms": 1e3 * median(r["local"] for r in rounds),
        "ray_ms": 1e3 * median(r["ray"] for r in rounds),
        "ratio": median(r["ratio"] for r in rounds),
        "samples": rounds,
    }
    print(json.dumps({k: v for k, v in result.items() if k != "samples"}, indent=1))
    print("ratios", *(f"{r['ratio']:.2f}" for r in rounds))
    if args.save:
        name = "team_vs_local" if args.network.startswith("small_cnn") else f"team_vs_local_{args.network}"
        print(f"written: {save(name, result)}")


if __name__ == "__main__":
    main()
