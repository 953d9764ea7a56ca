"""Requests per second and latencies of the service under load, beside a bare FastAPI application with the same predictor.

python benchmarks/serve_load.py [--seconds 8] [--clients 1 8 32] [--models small_cnn resnet18] [--servers ...] [--save]

Every client asks for the classes of a PNG of the model's size, one request at a time, over one connection. Servers: ``bare`` is FastAPI and
uvicorn in one process; ``serve`` is ``sparring serve``; ``unbatched`` the same with --batch 1; ``haproxy`` with --haproxy. ``attack``: the
99th percentile of :classify with and without a client that attacks all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from common import CLONE, circumstances, save
from fastapi import FastAPI, Request  # here, so that FastAPI finds the annotations

from tests.serve.live import free_port, running
from tests.serve.made import pixels, png

SHAPES = {"small_cnn": (1, 8, 8), "resnet18": (3, 32, 32)}
SPECS = {"small_cnn": "small_cnn:width=24", "resnet18": "resnet18"}
SERVERS: dict[str, tuple[str, ...]] = {"bare": (), "serve": (), "unbatched": ("--batch=1",), "haproxy": ("--haproxy",)}
WARM = 2.0  # seconds before counting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--models", nargs="*", default=list(SHAPES))
    parser.add_argument("--servers", nargs="*", default=list(SERVERS))
    parser.add_argument("--attack", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/serve_load.json")
    parser.add_argument("--bare", metavar="FOLDER:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)  # the clients, in a process of their own
    args = parser.parse_args()
    if args.bare:
        bare(*args.bare.rsplit(":", 1))
        return
    if args.load:
        print(json.dumps(asyncio.run(clients(**json.loads(args.load)))))
        return
    result: dict[str, Any] = {**circumstances(seed=0), "seconds": args.seconds, "n": len(args.clients)}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            publish(Path(folder) / "models" / name, name)
        result["points"] = [p for server in args.servers for p in measured(server, Path(folder), args)]
        if args.attack:
            result["attack"] = under_attack(Path(folder), args)
    print(save("serve_load", result) if args.save else json.dumps(result))


def measured(server: str, folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every model and number of clients on one server."""
    with started(server, folder) as url:
        for name in args.models:
            for count in args.clients:
                point = {"server": server, "model": name, "clients": count, **load(url, name, count, args.seconds)}
                print(json.dumps(point), file=sys.stderr, flush=True)
                yield point


def under_attack(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Four clients of :classify, alone and beside one that attacks; alternating, medians of the 99th percentiles."""
    found: dict[str, list[float]] = {"alone": [], "attacked": []}
    name = args.models[0]
    with running(folder, "--demo") as service:
        for _ in range(3):
            for case, values in found.items():
                with attacking(service.url, name, args.seconds + WARM) if case == "attacked" else nothing():
                    values.append(load(service.url, name, 4, args.seconds)["p99_ms"])
    return {"model": name, "p99_ms": found, "ratio": round(median(found["attacked"]) / median(found["alone"]), 2)}


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def attacking(url: str, name: str, seconds: float) -> Iterator[None]:
    """A client that attacks all the time."""
    options = {"url": url, "name": name, "count": 1, "seconds": seconds, "path": "attack"}
    process = subprocess.Popen([sys.executable, __file__, "--load", json.dumps(options)], stdout=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait()


def load(url: str, name: str, count: int, seconds: float) -> dict[str, Any]:
    """What so many clients meet, who live in another process."""
    options = {"url": url, "name": name, "count": count, "seconds": seconds, "path": "classify"}
    done = subprocess.run(
        [sys.executable, __file__, "--load", json.dumps(options)], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout))


async def clients(url: str, name: str, count: int, seconds: float, path: str) -> dict[str, Any]:
    """Requests per second, and percentiles of their time in ms; any answer but 200 is an error here."""
    host, port = url.removeprefix("http://").split(":")
    images = [png(x) for x in pixels(16, shape=SHAPES[name])]
    bodies = images
    if path == "attack":
        bodies = [json.dumps({"image": base64.b64encode(i).decode(), "eps": 0.1, "steps": 20}).encode() for i in images]
    begun = time.monotonic()
    took: list[float] = []

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        i = number
        while (now := time.monotonic()) < begun + WARM + seconds:
            body = bodies[i % len(bodies)]
            head = f"POST /v1/models/{name}:{path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ", 2)[1])
            lengths = [line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if lengths:
                await reader.readexactly(int(lengths[0].split(b":")[1]))
            else:
                await _chunks(reader)
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


async def _chunks(reader: asyncio.StreamReader) -> None:
    while size := int((await reader.readuntil(b"\r\n")), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


@contextmanager
def started(server: str, folder: Path) -> Iterator[str]:
    """A running server's address."""
    if server != "bare":
        with running(folder, *SERVERS[server]) as service:
            yield service.url
        return
    port = free_port()
    process = subprocess.Popen([sys.executable, __file__, "--bare", f"{folder / 'models'}:{port}"])
    try:
        import httpx

        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/docs")
                break
            except httpx.ConnectError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def bare(folder: str, port: str) -> None:
    """What somebody would write without us: decode, predict in a thread, answer."""
    import torch
    import uvicorn

    from sparring.serve.images import decode
    from sparring.serve.models import Models
    from sparring.serve.settings import Settings

    torch.set_num_threads(1)
    models, app = Models(Settings(models_dir=folder)), FastAPI()
    models.poll()
    from concurrent.futures import ThreadPoolExecutor

    thread = ThreadPoolExecutor(1)

    @app.post("/v1/models/{name}:classify")
    async def classify(name: str, request: Request) -> dict[str, Any]:
        served = models.get(name, None)[1]
        x = decode(await request.body(), served.shape, pixels=2**24)
        answer: Any = (
            await asyncio.get_running_loop().run_in_executor(thread, models.predict, [(name, None, x[None])])
        )[0]
        order = (-answer["probabilities"][0]).argsort()[:5]
        return {
            "top": [
                {"class": served.card["classes"][i], "probability": float(answer["probabilities"][0][i])} for i in order
            ]
        }

    uvicorn.run(app, port=int(port), log_level="warning", access_log=False)


def publish(folder: Path, name: str) -> None:
    """A model with random weights: only its cost counts."""
    from sparring.agents import model_folder, networks
    from sparring.agents.networks import NetworkConfig

    channels, height, width = SHAPES[name]
    config = NetworkConfig(SPECS[name], channels, height, width, 10, (0.5,) * channels, (0.5,) * channels)
    size = {"channels": channels, "height": height, "width": width}
    card = {
        "networks": [config.spec],
        "input": size,
        "classes": list("0123456789"),
        "threats": ["linf:0.1"],
        "evaluations": [],
    }
    model_folder.create(folder, [networks.build(config, 0)], card)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(CLONE))
    main()
