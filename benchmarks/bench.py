"""Whether Sparring got slower: today's speed-ups over the papers' style against the committed ones (make bench).

    python benchmarks/bench.py [--methods at mat] [--waits attack] [--update]

Five interleaved pairs per method and variant on a ResNet-18, and of what users wait for besides steps (``waits.py``); a ratio's 90 % interval is that of the mean of its logarithms
(Student's t). Fails when an interval lies wholly below 0.8 of the committed ratio. Ratios, not times: they hardly depend on the machine, but a CPU
without bfloat16 units has another bf16 ratio; --update writes the ratios of this one.
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from math import exp, log, sqrt
from statistics import fmean, stdev
from typing import Any

import torch
from common import RESULTS, circumstances, save
from step_time import compare, peak
from waits import WAITS

PAIRS = 5
STUDENT_T = 2.132  # two-sided 90 %, four degrees of freedom
ALLOWED = 0.8
METHODS = ("at", "mtard", "peeraid", "mat")
VARIANTS = ["exact", "bf16"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--waits", nargs="*", choices=list(WAITS), default=list(WAITS))
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--update", action="store_true", help="write what was measured into the baseline: benchmarks/results/bench.json"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    now = measured(args)
    committed = json.loads((RESULTS / "bench.json").read_text())
    if args.update:
        merged = {part: committed[part] | now[part] for part in ("ratios", "sources")}
        print(save("bench", now | merged))
        return
    baseline = committed["ratios"]
    slower = [name for name, samples in now["ratios"].items() if worse(samples, fmean(baseline[name]))]
    for name, samples in now["ratios"].items():
        low, high = interval(samples)
        verdict = "SLOWER" if name in slower else "ok"
        print(
            f"{verdict:6} {name:14} {low:.2f} to {high:.2f} times the plain way; committed {fmean(baseline[name]):.2f}"
        )
    sys.exit(bool(slower))


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Ratios plain / variant of every method, one per pair."""
    device = torch.device("cpu")
    peaks = {p: peak(p, args.batch, device) for p in ("fp32", "bf16")} if args.methods else {}
    options = Namespace(**vars(args), variants=VARIANTS, rounds=PAIRS, device="cpu")
    result = circumstances(seed=args.seed) | {"n": PAIRS, "network": args.network, "batch": args.batch, "ratios": {}}
    for method in args.methods:
        samples = compare(method, options, device, peaks)["samples"]
        result["ratios"] |= {f"{method} {v}": [s["plain"] / s[v] for s in samples] for v in VARIANTS}
    torch.set_num_threads(1)
    for name in args.waits:
        WAITS[name](0)  # memory and kernels are found once
        pairs = [WAITS[name](args.seed) for _ in range(PAIRS)]
        result["ratios"][name] = [plain / ours for plain, ours in pairs]
    result["sources"] = dict.fromkeys(result["ratios"], circumstances(seed=args.seed))
    return result


def interval(samples: Sequence[float]) -> tuple[float, float]:
    """90 % interval of a ratio's geometric mean over five pairs."""
    logs = [log(s) for s in samples]
    half = STUDENT_T * stdev(logs) / sqrt(len(logs))
    return exp(fmean(logs) - half), exp(fmean(logs) + half)


def worse(samples: Sequence[float], baseline: float) -> bool:
    """Whether the whole interval lies below what is allowed."""
    return interval(samples)[1] < ALLOWED * baseline


if __name__ == "__main__":
    main()
