"""What a rollout costs and how long it takes: canary, shadow, a new version, and the way back, under four clients.

    python benchmarks/serve_versions.py [--repeats 5] [--save]

The model is small_cnn with random weights on the local host. ``canary``: of the requests that name no version the share that the canary
answered (asked: 0.1). ``shadow``: latencies with a shadow over those without, slices of 5 s taking turns. ``new``: the longest wait while a new version is loaded and
takes over. ``back``: seconds from the command until the last answer of the version that was taken back. Clients live on the same two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from common import circumstances, save

from sparring.agents import rollout
from sparring.agents.rollout import Rollout
from tests.serve.live import running
from tests.serve.made import infer, pixels, published

CLIENTS, SLICE, SHARE = 4, 5.0, 0.1


@dataclass
class Seen:
    """Answers of all clients: when, by which version, after how long."""

    answers: list[tuple[float, int, float]] = field(default_factory=list)
    failed: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/serve_versions.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "models" / "robust"
        for seed in (0, 1):
            published(model, seed=seed)
        rollout.save(model, Rollout(version=1))
        with running(Path(folder), "--host-by=local") as service:
            result = measured(service.url, model, args.repeats)
    result = circumstances(seed=0) | {"n": args.repeats, "clients": CLIENTS} | result
    print(json.dumps(result))
    if args.save:
        save("serve_versions", result)


def measured(url: str, model: Path, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {"canary": canary(url, model), "shadow": [shadow(url, model) for _ in range(repeats)]}
    rollout.save(model, Rollout())  # the newest
    found["new"] = [new(url, model, 10 + i) for i in range(repeats)]
    found["back"] = [back(url, model) for _ in range(repeats)]
    found["requests"] = sum(part["requests"] for key in ("new", "back") for part in found[key])
    found["failed"] = sum(part["failed"] for key in ("new", "back") for part in found[key])
    return found


def canary(url: str, model: Path) -> dict[str, Any]:
    rollout.save(model, Rollout(version=1, canary=2, share=SHARE))
    time.sleep(3)
    with asking(url) as seen:
        time.sleep(2 * SLICE)
    return {"requests": len(seen.answers), "share": sum(v == 2 for _, v, _ in seen.answers) / len(seen.answers)}


def shadow(url: str, model: Path) -> dict[str, float]:
    """Latencies with a shadow over those without."""
    times = {}
    for name, now in (("without", Rollout(version=1)), ("with", Rollout(version=1, shadow=2))):
        rollout.save(model, now)
        time.sleep(3)
        with asking(url) as seen:
            time.sleep(SLICE)
        times[name] = sorted(t for _, _, t in seen.answers)
    return {
        key: times["with"][int(share * len(times["with"]))] / times["without"][int(share * len(times["without"]))]
        for key, share in (("p50", 0.5), ("p99", 0.99))
    }


def new(url: str, model: Path, seed: int) -> dict[str, Any]:
    """A version is published while clients ask."""
    with asking(url) as seen:
        time.sleep(1)
        number = int(published(model, seed=seed).name)
        waited(seen, number)
    return told(seen)


def back(url: str, model: Path) -> dict[str, Any]:
    """From the newest version to the one before."""
    newest = max(int(p.name) for p in model.iterdir() if p.name.isdigit())
    rollout.save(model, Rollout(version=newest, before=newest - 1))
    time.sleep(3)
    with asking(url) as seen:
        time.sleep(1)
        began = time.monotonic()
        rollout.save(model, Rollout(version=newest - 1, before=newest))
        waited(seen, newest - 1)
        time.sleep(1)
    return {**told(seen), "seconds": max(at for at, version, _ in seen.answers if version == newest) - began}


def told(seen: Seen) -> dict[str, Any]:
    times = [t for _, _, t in seen.answers]
    return {
        "requests": len(times),
        "failed": seen.failed,
        "longest_ms": 1000 * max(times),
        "p50_ms": 1000 * median(times),
    }


def waited(seen: Seen, version: int) -> None:
    deadline = time.monotonic() + 30
    while not any(v == version for _, v, _ in seen.answers[-CLIENTS:]):
        assert time.monotonic() < deadline, f"version {version} does not answer"
        time.sleep(0.05)


@contextmanager
def asking(url: str) -> Iterator[Seen]:
    """``CLIENTS`` clients ask until the end of the block."""
    seen, ended = Seen(), threading.Event()
    body = infer(pixels())

    def loop() -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            while not ended.is_set():
                started = time.monotonic()
                answer = http.post("/v2/models/robust/infer", json=body)
                now = time.monotonic()
                if answer.status_code == 200:
                    seen.answers.append((now, int(answer.json()["model_version"]), now - started))
                else:
                    seen.failed += 1

    threads = [threading.Thread(target=loop) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
