"""Replicas under a load curve: from none to two and back, and what the requests waited.

    python benchmarks/serve_autoscale.py [--save]

A service of the models that come along with ``--predictors 0 --max-predictors 2 --idle 10 --batch 4`` is asked by 0, 1, 40, 1, 0 clients one
after the other; how many replicas there are is looked at twice a second. Clients live on the same two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from common import CLONE, circumstances, save

from tests.serve.live import Service, running

FLAGS = ("--predictors=0", "--max-predictors=2", "--idle=10", "--batch=4")
CURVE = ((0, 15), (1, 15), (40, 25), (1, 30), (0, 25))  # clients, seconds
PAUSE = 0.02  # seconds between a client's requests
BODY = {"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/serve_autoscale.json")
    args = parser.parse_args()
    models = f"--models-dir={CLONE / 'serve' / 'demo'}"
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), models, *FLAGS) as service:
        phases = asyncio.run(curve(service))
    result = circumstances(seed=0) | {"flags": FLAGS, "phases": phases, "n": sum(p["requests"] for p in phases)}
    for phase in phases:
        print(phase)
    if args.save:
        save("serve_autoscale", result)


async def curve(service: Service) -> list[dict[str, Any]]:
    """Per phase what the requests met, and when the number of replicas changed: [seconds, replicas]."""
    phases = []
    for clients, seconds in CURVE:
        answers: list[tuple[int, float]] = []
        began = time.monotonic()
        watch = asyncio.create_task(watched(service, began))
        stop = began + seconds
        await asyncio.gather(asyncio.sleep(seconds), *(client(service.url, stop, answers) for _ in range(clients)))
        watch.cancel()
        times = sorted(t for _, t in answers)
        phases.append(
            {
                "clients": clients,
                "seconds": seconds,
                "replicas": await watch,
                "requests": len(answers),
                "not_200": sum(status != 200 for status, _ in answers),
                "p50_ms": 1000 * times[len(times) // 2] if times else None,
                "longest_s": times[-1] if times else None,
            }
        )
    return phases


async def watched(service: Service, began: float) -> list[tuple[float, int]]:
    """Until it is cancelled."""
    seen: list[tuple[float, int]] = []
    try:
        while True:
            now = len(service.replicas("predictor"))
            if not seen or seen[-1][1] != now:
                seen.append((round(time.monotonic() - began, 1), now))
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        return seen


async def client(url: str, stop: float, answers: list[tuple[int, float]]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        while (started := time.monotonic()) < stop:
            answer = await http.post("/v2/models/digits-robust/infer", json=BODY)
            answers.append((answer.status_code, time.monotonic() - started))
            await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    main()
