"""How often a step waits for its device, and how many kernels it launches there, without one.

python benchmarks/counts.py [METHOD ...] [--save] [--names]

The second step of every method on digits (small_cnn of width 4, attacks of ten steps, batch 32), all agents on a device that computes nothing
(tests/gpu). ``--save`` writes benchmarks/waits.json (reads by the CPU, by the place in the code that asks) and benchmarks/launches.json (kernels
inside the layers of networks, outside of them, and outside of them before they were counted first), which tests/gpu compares with the code.
"""

from __future__ import annotations

import argparse
import json

from common import CLONE

from sparring.trainers import methods
from tests.gpu.teams import second_step

LAUNCHES = CLONE / "benchmarks" / "launches.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=methods.names())
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--names", action="store_true", help="kernels outside the layers, by operator")
    args = parser.parse_args()
    seen = {name: second_step(name) for name in args.methods}
    waits = {name: dict(sorted(w.waits.items())) for name, w in seen.items()}
    launches = {name: dict(sorted(w.launches.items())) for name, w in seen.items()}
    for name in args.methods:
        print(f"{name:10} {launches[name]}  waits {waits[name]}")
        if args.names:
            print(
                "  ",
                *(f"{n} {operator.partition('.')[0]}" for operator, n in seen[name].names.most_common()),
                sep="\n   ",
            )
    if args.save:
        known = json.loads(LAUNCHES.read_text())
        whole = {name: {**known.get(name, {}), **found} for name, found in launches.items()}
        LAUNCHES.write_text(json.dumps({**known, **whole}, indent=1) + "\n")
        LAUNCHES.with_name("waits.json").write_text(json.dumps(waits, indent=1) + "\n")


if __name__ == "__main__":
    main()
