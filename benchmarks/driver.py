"""What the driver itself costs a step, with more agents and more hosts: stand-ins that wait 25 ms.

    python benchmarks/driver.py [--actors 8 16 32] [--hosts 1 2 4] [--save]

On one host so many actors, through the object store (as many calls a step as each has verbs) and directly (one call per host and some
steps); then eight actors on each of several hosts, which are network namespaces of this machine (needs root). Actors are lanes of two
peers of MAT; their messages are small, since only the driver is looked at. Every point is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import CLONE, circumstances, save

from tests.hosts import hosts

COMMAND = (sys.executable, str(CLONE / "benchmarks" / "agents.py"), "--compute-ms=25", "--batch-size=48", "--json")
SMALL = ("--shape=1x8x8", "--network=small_cnn:width=4")
PEERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="*", default=[8, 16, 32])
    parser.add_argument("--hosts", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=60, help="per point and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/driver.json")
    args = parser.parse_args()
    asked = [*COMMAND, *SMALL, f"--steps={args.steps}", f"--rounds={args.rounds}", f"--seed={args.seed}"]
    here: dict[str, Any] = {}
    if args.actors:
        run = [*asked, "--exchange", "store", "direct", "--points", *map(point, args.actors)]
        here = answered(subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True).stdout)["exchange"]
    result = circumstances(seed=args.seed) | {"n": args.steps * args.rounds, "compute_ms": 25}
    result["actors"] = {exchange: {str(n): found[point(n)] for n in args.actors} for exchange, found in here.items()}
    result["hosts"] = {str(n): on_hosts(n, asked) for n in args.hosts}
    if args.save:
        save("driver", result)
    print(json.dumps(result, indent=1))


def answered(said: str) -> dict[str, Any]:
    """The object among lines that Ray printed."""
    found: dict[str, Any] = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    return found


def point(actors: int) -> str:
    """So many actors, as lanes of two peers."""
    return f"mat:{PEERS}x{actors // PEERS}"


def on_hosts(count: int, asked: list[str]) -> dict[str, Any]:
    """Eight actors on each of so many hosts; the driver is on a host of its own."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        token = Path(folder) / "token"
        token.write_text(secrets.token_hex(32))
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        os.environ["PYTHONPATH"] = str(CLONE / "benchmarks")  # where the stand-ins are
        with hosts(cache) as made:
            for _ in range(count):
                made.add(1)
            run = [
                *asked,
                "--exchange=direct",
                f"--points={point(8 * count)}",
                f"--address={made.address}",
                f"--cache={cache}",
            ]
            said, wrong = (process := made.run(*run)).communicate()
    if process.returncode:
        raise SystemExit(wrong)
    found: dict[str, Any] = answered(said)["points"][point(8 * count)]
    return found


if __name__ == "__main__":
    main()
