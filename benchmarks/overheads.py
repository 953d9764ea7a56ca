"""What writing checkpoints costs a run.

    python benchmarks/overheads.py [--rounds 3] [--save]

Stretches of --every steps of adversarial
training (ResNet-18 with its momenta, 90 MB) in one actor, with a checkpoint at the end of the stretch and without, in turn.
Files are written while the next stretch begins; the cost is the difference of the medians. Held-out accuracies are no part of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

from common import circumstances, random_images, save

from sparring.cluster.config.recipes import recipe
from sparring.cluster.machines import session
from sparring.cluster.team import assemble
from sparring.cluster.team.team import Pending

WARM_UP = 3  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/overheads.json")
    args = parser.parse_args()
    result = circumstances(seed=args.seed) | {"n": args.rounds, "network": args.network, "every": args.every}
    with tempfile.TemporaryDirectory() as folder:
        result["saving"] = saving(args, Path(folder))
    if args.save:
        save("overheads", result)
    print(json.dumps(result, indent=None if args.json else 1))


def saving(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of stretches with and without a checkpoint."""
    session.start(num_cpus=8, object_store_memory=256 * 2**20)
    data = random_images((3, 32, 32))
    config = recipe("at").replace({"data.name": data, "data.cache": str(folder / "cache"), "network": args.network})
    config = config.replace({"batch_size": args.batch_size, "attack.steps": 1, "max_steps": 10**6, "seed": args.seed})
    samples: dict[str, list[float]] = {"without": [], "with": []}
    with assemble.team_of(config) as team:
        pending: deque[Pending] = deque()
        t = 0

        def steps_under_way() -> int:
            return sum(p.kind == "step" for p in pending)

        def collect() -> None:
            oldest = pending.popleft()
            result = team.collect(oldest, timeout=600)
            if oldest.kind != "step" and (not result or None in result.values()):  # as a run asks
                pending.append(team.written(oldest.t, wait=not steps_under_way()))

        def steps(count: int, *, saved: bool) -> float:
            nonlocal t
            before = time.perf_counter()
            while saved and any(p.kind != "step" for p in pending):  # as a run: one checkpoint at a time
                collect()
            for i in range(count):
                pending.append(team.submit(config.method, t))
                t += 1
                if saved and i == 0:  # of the step before: written beside this stretch
                    pending.append(team.save(t, folder / f"step-{t}"))
                while steps_under_way() >= config.window:
                    collect()
            return time.perf_counter() - before

        steps(WARM_UP, saved=True)
        for i in range(args.rounds):
            for name in ("without", "with") if i % 2 == 0 else ("with", "without"):
                samples[name].append(steps(args.every, saved=name == "with"))
        while pending:
            collect()
        written = next(iter(folder.glob("step-*")))
        size = sum(f.stat().st_size for f in written.rglob("*") if f.is_file())
    share = median(samples["with"]) / median(samples["without"]) - 1
    return {"samples": samples, "share": share, "megabytes": size / 1e6}


if __name__ == "__main__":
    main()
