"""A model of the time of a step, and what it says of machines that nobody measured here.

python benchmarks/scale_model.py                                              # fit, and check on points it has not seen
python benchmarks/scale_model.py --agents 8 --lanes 8 --gpu-step-ms 150 --nic-gbps 100     # predict, both ways of exchange

Where cores are full, as in benchmarks/scaling.py, with M agents of R lanes on C cores:

    step = (a M + b M^2 + k M R + d M^2 R) / C

    a  an agent's own attack and passes over the batch      k  what every lane costs besides: calls, averaging, fixed parts
    b  another agent's examples: answers, passes, copies    d  the part of b that lanes do not share

With an own device for every lane, an agent's path and the driver's run side by side:

    step = max(path, driver)
    path   = gpu / R + 3 calls + (M - 1) payload / R (1 / store + across / nic) + 2 (R - 1) / R parameters / nic
    driver = M R c

``gpu`` is an agent's compute for the whole batch at this M; ``across`` the share of the other agents that run on another host.

Directly, a step is one call per agent and quick ones go several to a call, so the calls are out of the path; the driver makes one for each of H
hosts a quarter of a second, which takes it a share of a core that does not depend on the step:

    path   = gpu / R + (M - 1) payload / R (1 / direct + across / nic) + 2 (R - 1) / R parameters / nic
    driver = (s + h H) of a core; above 1 it is the wall, and the step path (s + h H)

s and h are from one and two hosts of benchmarks/driver.py; four hosts are what the model has not seen.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS
from scipy.optimize import nnls

HELD_OUT = {(6, 1), (7, 1), (8, 1), (2, 4)}
HOSTS_SEEN = (1, 2)
ALLOWED = 0.25  # relative error


@dataclass(frozen=True)
class Constant:
    """A number of the model, and where it is from."""

    value: float
    origin: str


def features(agents: int, lanes: int, cores: int) -> list[float]:
    m, r = agents, lanes
    return [m / cores, m * m / cores, m * r / cores, m * m * r / cores]


def fit(record: dict[str, Any]) -> np.ndarray:
    """a, b, k, d in ms from the points that are not held out; relative errors are squared."""
    seen = [
        s
        for s in record["samples"]
        if (s["agents"], s["lanes"]) not in HELD_OUT and s["agents"] * s["lanes"] >= record["cores"]
    ]
    rows = np.array([features(s["agents"], s["lanes"], record["cores"]) for s in seen])
    times = np.array([s["step_ms"] for s in seen])
    return nnls(rows / times[:, None], np.ones(len(times)))[0]  # type: ignore[no-any-return]


def check(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Every held-out point, measured and predicted."""
    constants, found = fit(record), []
    for s in record["samples"]:
        if (s["agents"], s["lanes"]) in HELD_OUT:
            predicted = float(np.dot(features(s["agents"], s["lanes"], record["cores"]), constants))
            error = predicted / s["step_ms"] - 1
            found.append(
                {
                    "agents": s["agents"],
                    "lanes": s["lanes"],
                    "measured_ms": s["step_ms"],
                    "predicted_ms": predicted,
                    "error": error,
                }
            )
    return found


def shares(driver: dict[str, Any]) -> dict[int, float]:
    """Of a core, what the driver took with so many hosts."""
    return {int(n): found["driver_cpu_ms"] / found["step_ms"] for n, found in driver["hosts"].items()}


def line(driver: dict[str, Any]) -> tuple[float, float]:
    """s and h."""
    found = shares(driver)
    (a, b), (low, high) = HOSTS_SEEN, (found[n] for n in HOSTS_SEEN)
    per_host = (high - low) / (b - a)
    return low - a * per_host, per_host


def check_hosts(driver: dict[str, Any]) -> list[dict[str, Any]]:
    """Numbers of hosts that the line was not drawn through, measured and predicted."""
    share, per_host = line(driver)
    return [
        {"hosts": n, "measured": found, "predicted": share + per_host * n, "error": (share + per_host * n) / found - 1}
        for n, found in shares(driver).items()
        if n not in HOSTS_SEEN
    ]


def constants(
    record: dict[str, Any], driver: dict[str, Any], exchange: dict[str, Any], args: argparse.Namespace
) -> dict[str, Constant]:
    """All numbers of a prediction."""
    here = f"measured: scaling.json, {record['device']}"
    per_actor = float(np.median([s["driver_ms"] / (s["agents"] * s["lanes"]) for s in record["samples"]]))
    given = "assumed; a flag of the command"
    share, per_host = line(driver)
    hosts = f"measured: driver.json, {driver['device']}"
    handed = {way: exchange["bytes"] / exchange["ms"][way] / 1e6 for way in ("store", "direct")}
    pair = f"measured: exchange.json, {exchange['device']}; gigabytes per second each way, calls and waiting included"
    return {
        "driver_share": Constant(share, f"{hosts}; of a core, whatever it drives"),
        "driver_share_per_host": Constant(per_host, f"{hosts}; of a core"),
        "store_gbps": Constant(handed["store"], pair),
        "direct_gbps": Constant(handed["direct"], pair),
        "driver_ms_per_actor": Constant(per_actor, here),
        "call_ms": Constant(record["call_ms"], here),
        "gpu_step_ms": Constant(args.gpu_step_ms, given),
        "nic_gbps": Constant(args.nic_gbps / 8, f"{given}; gigabytes per second"),
        "payload_mb": Constant(args.payload_mb, "computed: images and soft labels of one agent at batch 128, 3x32x32"),
        "parameters_mb": Constant(args.parameters_mb, "computed: ResNet-18 in float32"),
        "agents_per_host": Constant(args.gpus_per_host, "assumed: one actor per GPU, packed"),
    }


def predict(c: dict[str, Constant], agents: int, lanes: int, *, direct: bool = False) -> dict[str, float]:
    """Milliseconds of every part of a step; ``step`` is the largest of the path and the driver."""
    v = {name: constant.value for name, constant in c.items()}
    across = max(0.0, 1 - v["agents_per_host"] / (agents * lanes))
    payload = (agents - 1) * v["payload_mb"] / lanes
    parts = {
        "gpu": v["gpu_step_ms"] / lanes,
        "calls": 0.0 if direct else 3 * v["call_ms"],
        "exchange": payload / v["direct_gbps" if direct else "store_gbps"]
        + payload * across / v["nic_gbps"],  # MB / (GB/s) = ms
        "averaging": 2 * (lanes - 1) / lanes * v["parameters_mb"] / v["nic_gbps"],
    }
    if direct:
        hosts = ceil(agents * lanes / v["agents_per_host"])
        share, path = v["driver_share"] + v["driver_share_per_host"] * hosts, sum(parts.values())
        return {**parts, "driver": share * path, "step": max(1.0, share) * path}
    driver = agents * lanes * v["driver_ms_per_actor"]
    return {**parts, "driver": driver, "step": max(sum(parts.values()), driver)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--gpu-step-ms", type=float, default=150.0)
    parser.add_argument("--nic-gbps", type=float, default=100.0, help="gigabits per second")
    parser.add_argument("--gpus-per-host", type=int, default=8)
    parser.add_argument("--payload-mb", type=float, default=1.58)
    parser.add_argument("--parameters-mb", type=float, default=44.7)
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of scaling.json, driver.json and exchange.json"
    )
    args = parser.parse_args()
    record, driver, exchange = (
        json.loads((args.results / f"{name}.json").read_text()) for name in ("scaling", "driver", "exchange")
    )
    if args.agents is None:
        found, hosts = check(record), check_hosts(driver)
        print(
            json.dumps(
                {
                    "constants_ms": dict(zip("abkd", fit(record).tolist(), strict=True)),
                    "held_out": found,
                    "hosts": hosts,
                },
                indent=1,
            )
        )
        raise SystemExit(any(abs(f["error"]) > ALLOWED for f in [*found, *hosts]))
    known = constants(record, driver, exchange, args)
    print(
        json.dumps(
            {
                "constants": {k: [c.value, c.origin] for k, c in known.items()},
                "ms": {
                    "store": predict(known, args.agents, args.lanes),
                    "direct": predict(known, args.agents, args.lanes, direct=True),
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
