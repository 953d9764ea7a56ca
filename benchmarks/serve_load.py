"""Requests per second and latencies of the service under load, beside others who answer the same requests.

python benchmarks/serve_load.py [--seconds 10] [--repeats 5] [--clients 1 8 32] [--networks ...] [--servers ...] [--save [NAME]]

A request is JSON of one image by the Open Inference Protocol; every client asks one at a time over one connection, all of them live in a
process of their own on the same cores. Servers take turns, so that a slow minute of the machine meets them all: ``bare`` is FastAPI and uvicorn
around the same network, ``litserve`` is LitServe (left out where it is not installed; --litserve names a folder that it was installed into),
``local`` and ``ray`` are the hosts of ``sparring serve``. Answers of all are compared with the network's own, to the bit. ``attack``: the 99th
percentile with and without a client that attacks all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import numpy as np
from common import CLONE, circumstances, save

from tests.serve.live import free_port, running
from tests.serve.made import infer, pixels, png

SHAPES = {"small_cnn": (1, 8, 8), "resnet18": (3, 32, 32)}
SPECS = {"small_cnn": "small_cnn:width=24", "resnet18": "resnet18"}
SERVERS = ("bare", "litserve", "local", "ray")
WARM = 1.0  # seconds before counting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--networks", nargs="*", default=list(SHAPES))
    parser.add_argument("--servers", nargs="*", default=list(SERVERS))
    parser.add_argument(
        "--litserve", metavar="FOLDER", default="", help="where LitServe was installed: pip install --target"
    )
    parser.add_argument("--attack", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--save",
        nargs="?",
        const="serve_load",
        metavar="NAME",
        help="write benchmarks/results/NAME.json, by default serve_load",
    )
    parser.add_argument("--load", help=argparse.SUPPRESS)  # the clients, in a process of their own
    args = parser.parse_args()
    if args.load:
        print(json.dumps(asyncio.run(clients(**json.loads(args.load)))))
        return
    result: dict[str, Any] = {**circumstances(seed=0), "seconds": args.seconds, "n": args.repeats}
    with tempfile.TemporaryDirectory() as folder:
        versions = {name: publish(Path(folder) / name / "models" / "m", name) for name in args.networks}
        result["points"] = points(versions, args)
        if args.attack:
            result["attack"] = under_attack(versions[args.networks[0]], args)
    print(save(args.save, result) if args.save else json.dumps(result))


def points(versions: dict[str, Path], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians over the repeats, per server, network and number of clients."""
    seen: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for _ in range(args.repeats):
        for name, version in versions.items():
            for server in args.servers:
                with started(server, version, args.litserve) as running_at:
                    if running_at is None:
                        continue
                    url, held, ready = running_at
                    check(url, version, name)
                    for count in args.clients:
                        point = {**load(url, name, count, args.seconds), "ready_s": ready, "memory_mib": held()}
                        seen.setdefault((server, name, count), []).append(point)
                        print(server, name, count, json.dumps(point), file=sys.stderr, flush=True)
    return [
        {"server": server, "network": name, "clients": count}
        | {key: round(median(p[key] for p in found), 2) for key in found[0]}
        for (server, name, count), found in seen.items()
    ]


def check(url: str, version: Path, name: str) -> None:
    """The answer is the network's own, to the bit."""
    import torch

    from sparring.agents import model_folder

    x = pixels(1, shape=SHAPES[name])
    with torch.inference_mode():
        right = model_folder.load(version)(torch.from_numpy(x)).numpy().ravel()
    answer = httpx.post(f"{url}/v2/models/m/infer", json=infer(x), timeout=60)
    found = np.asarray(answer.json()["outputs"][0]["data"], dtype=np.float32)
    assert np.array_equal(found, right), (answer.text[:200], right)


def under_attack(version: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Four clients, alone and beside one that attacks; alternating, medians of the 99th percentiles, on the local host."""
    found: dict[str, list[float]] = {"alone": [], "attacked": []}
    name = args.networks[0]
    with running(version.parents[2], "--demo", "--host-by=local") as service:
        for _ in range(3):
            for case, values in found.items():
                with attacking(service.url, name) if case == "attacked" else nullcontext():
                    values.append(load(service.url, name, 4, args.seconds)["p99_ms"])
    return {"network": name, "p99_ms": found, "ratio": round(median(found["attacked"]) / median(found["alone"]), 2)}


@contextmanager
def attacking(url: str, name: str) -> Iterator[None]:
    """A client that attacks all the time."""
    options = {"url": url, "name": name, "count": 1, "seconds": 3600, "attack": True}
    process = subprocess.Popen([sys.executable, __file__, "--load", json.dumps(options)], stdout=subprocess.DEVNULL)
    try:
        time.sleep(3)  # the first attack waits for its process
        yield
    finally:
        process.terminate()
        process.wait()


def load(url: str, name: str, count: int, seconds: float) -> dict[str, Any]:
    """What so many clients meet."""
    options = {"url": url, "name": name, "count": count, "seconds": seconds}
    done = subprocess.run(
        [sys.executable, __file__, "--load", json.dumps(options)], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout))


async def clients(url: str, name: str, count: int, seconds: float, attack: bool = False) -> dict[str, Any]:
    """Requests per second, and percentiles of their time in ms; any answer but 200 is an error here."""
    host, port = url.removeprefix("http://").split(":")
    images = pixels(16, shape=SHAPES[name])
    bodies = [json.dumps(infer(x[None])).encode() for x in images]
    path = "/v2/models/m/infer"
    if attack:
        path = "/v1/models/m:attack"
        coded = [base64.b64encode(png(x)).decode() for x in images]
        bodies = [json.dumps({"image": image, "eps": 0.1, "steps": 20}).encode() for image in coded]
    begun = time.monotonic()
    took: list[float] = []

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        i = number
        while (now := time.monotonic()) < begun + WARM + seconds:
            body = bodies[i % len(bodies)]
            head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ", 2)[1])
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            if status != 200:
                raise SystemExit(f"answer {status}")
            if now > begun + WARM:
                took.append(time.monotonic() - now)
            i += count
        writer.close()

    await asyncio.gather(*(one(n) for n in range(count)))
    cuts = quantiles(took, n=100)
    return {
        "requests_s": round(len(took) / seconds, 1),
        "p50_ms": round(1000 * cuts[49], 2),
        "p99_ms": round(1000 * cuts[98], 2),
    }


@contextmanager
def started(server: str, version: Path, litserve: str) -> Iterator[tuple[str, Any, float] | None]:
    """A running server's address, what tells its memory in MiB, and the seconds until it answered; None where it is not installed."""
    begun = time.monotonic()
    if server in ("local", "ray"):
        with running(version.parents[2], f"--host-by={server}") as service:
            yield service.url, lambda: service.memory(whole=True) >> 20, time.monotonic() - begun
        return
    env = {**os.environ, "PYTHONPATH": litserve} if server == "litserve" and litserve else dict(os.environ)
    if (
        server == "litserve"
        and subprocess.run([sys.executable, "-c", "import litserve"], env=env, check=False).returncode
    ):
        yield None
        return
    port = free_port()
    command = [sys.executable, str(CLONE / "benchmarks" / f"serve_{server}.py"), str(version), str(port)]
    process = subprocess.Popen(command, env=env, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx.get(f"{url}/docs")
                break
            except httpx.TransportError:
                if process.poll() is not None:
                    raise SystemExit(f"{server} did not start") from None
                time.sleep(0.1)
        yield url, lambda: group_memory(process.pid) >> 20, time.monotonic() - begun
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def group_memory(leader: int) -> int:
    """Bytes that a process and those in its group hold."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == leader:
                total += int((path / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            continue
    return total


def publish(folder: Path, name: str) -> Path:
    """A model with random weights: only its cost counts."""
    from sparring.agents import model_folder, networks
    from sparring.agents.networks import NetworkConfig

    shutil.rmtree(folder, ignore_errors=True)
    channels, height, width = SHAPES[name]
    config = NetworkConfig(SPECS[name], channels, height, width, 10, (0.5,) * channels, (0.5,) * channels)
    size = {"channels": channels, "height": height, "width": width, "range": [0, 1]}
    card = {
        "networks": [config.spec],
        "input": size,
        "classes": list("0123456789"),
        "threats": ["linf:0.1"],
        "evaluations": [],
    }
    return model_folder.create(folder, [networks.build(config, 0)], card)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(CLONE))
    main()
