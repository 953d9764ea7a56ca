"""Images per second of a node's loader beside torchvision's, and its memory over a million images.

python benchmarks/loader.py [--images 2000] [--seconds 8] [--rounds 5] [--workers 2] [--steps 1000] [--json]

JPEG files of 500x375 pixels in folders, in the system's cache; random parts at 224 pixels, bilinear, flipped, as float32 in [0, 1]: torchvision's
``ImageFolder`` and ``DataLoader``, and ``Batches`` with a loader, each with as many processes that decode. ``agents``: processes that want the same
batches; torchvision gives each a loader of its own. Kinds take turns, so that a slow minute of the machine meets them all; ratios are medians
over rounds. Memory is what an agent, the loader's host and its processes have of their own, and their share of what they have in common.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from common import CLONE, circumstances, save

from sparring.trainers.batches import Batches
from sparring.trainers.config import DataConfig, LoaderConfig

BATCH, SIZE, WARM = 64, 224, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000, help="of the run whose memory is looked at")
    parser.add_argument("--millions", type=float, default=1.0, help="of generated images in that run")
    parser.add_argument("--json", action="store_true", help="write benchmarks/results/loader.json")
    parser.add_argument("--consume", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.consume:
        print(json.dumps(consumed(args.consume, Path(args.consume.split(",")[1]), args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, args.images)
        rates: dict[str, list[float]] = {}
        for round_ in range(args.rounds):
            for agents in (1, 2):
                for kind in ("torchvision", "sparring"):
                    rate = together(f"{kind},{root},{round_}-{agents}", agents, args)
                    rates.setdefault(f"{kind}, {agents}", []).append(rate)
                    print(f"{kind}, {agents} agents: {rate:.0f} images/s", file=sys.stderr, flush=True)
        result = {
            **circumstances(seed=0),
            "n": args.rounds,
            "images": args.images,
            "workers": args.workers,
            "batch": BATCH,
        }
        result["rates"] = {name: median(found) for name, found in rates.items()}
        result["ratios"] = {
            str(agents): median(
                a / b for a, b in zip(rates[f"sparring, {agents}"], rates[f"torchvision, {agents}"], strict=True)
            )
            for agents in (1, 2)
        }
        result["memory"] = {str(n): memory(n, root, args) for n in (10_000, int(args.millions * 1e6))}
    if args.json:
        save("loader", result)
    print(json.dumps(result))


def write(root: Path, count: int) -> None:
    """A folder of files in ten classes."""
    from sparring.trainers.encoded.generated import CLASSES, Generated

    for split, n in (("train", count), ("test", CLASSES)):
        images = Generated(split, n, (500, 375))
        for i in range(n):
            place = root / split / f"c{i % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i:08}.jpg").write_bytes(images.read(i))


def together(what: str, agents: int, args: argparse.Namespace) -> float:
    """Images per second of all agents, each a process."""
    command = [
        sys.executable,
        str(CLONE / "benchmarks" / "loader.py"),
        "--consume",
        what,
        "--workers",
        str(args.workers),
    ]
    command += ["--seconds", str(args.seconds)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(agents)]
    return sum(json.loads(process.communicate()[0])["rate"] for process in started)


def consumed(what: str, root: Path, args: argparse.Namespace) -> dict[str, float]:
    """One agent."""
    import torch

    torch.set_num_threads(1)
    kind, _, name = what.split(",")
    batches = torchvisions(root, args.workers) if kind == "torchvision" else ours(root, args.workers, name)
    for _ in range(WARM):
        next(batches)
    began, seen = time.monotonic(), 0
    while (spent := time.monotonic() - began) < args.seconds:
        seen += len(next(batches))
    return {"rate": seen / spent}


def torchvisions(root: Path, workers: int) -> Iterator[Any]:
    """Epoch after epoch."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    images = ImageFolder(str(root / "train"), transforms.Compose(steps))
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=True, drop_last=True)
    while True:
        for x, _ in loader:
            yield x


def ours(root: Path, workers: int, name: str) -> Iterator[Any]:
    """Step after step."""
    from sparring.trainers.augment.settings import AugmentConfig

    bilinear = AugmentConfig(interpolation="bilinear")
    how = {
        "name": "folder",
        "root": str(root),
        "cache": str(root / "cache"),
        "encoded": True,
        "augment": "resized-crop",
    }
    batches = made(DataConfig(**how, size=SIZE, transforms=bilinear), workers, f"benchmark-{name}-{os.getppid()}")
    t = 0
    while True:
        yield batches.batch(t).x
        t += 1


def made(config: DataConfig, workers: int, team: str) -> Batches:
    """The batches of a run."""
    from sparring.agents.loading.loader import node_loader
    from sparring.trainers import datasets

    loader = node_loader(LoaderConfig(workers=workers, memory=256), team)
    return Batches(datasets.load(config).train, config, batch_size=BATCH, seed=0, loader=loader)


def memory(count: int, root: Path, args: argparse.Namespace) -> dict[str, float]:
    """MiB of an agent and its loader after 100 steps and at the end."""
    text = (
        "import sys; sys.path.insert(0, sys.argv[1]); import loader; from sparring.trainers.config import DataConfig\n"
        "config = DataConfig(name=f'generated:{sys.argv[2]}', cache=sys.argv[3], size=32, augment='resized-crop')\n"
        "batches = loader.made(config, int(sys.argv[4]), f'memory-{sys.argv[2]}')\n"
        "for t in range(int(sys.argv[5])):\n"
        "    batches.batch(t)\n"
        "    if t == 99: first = loader.own()\n"
        "print(first, loader.own())"
    )
    command = [
        sys.executable,
        "-c",
        text,
        str(CLONE / "benchmarks"),
        str(count),
        str(root / "cache"),
        str(args.workers),
        str(args.steps),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, last = map(float, done.stdout.split())
    return {"100": first, str(args.steps): last}


def own() -> float:
    """MiB of this process, the loader that it began and the loader's processes: their proportional share of memory."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(found / 1024, 1)


if __name__ == "__main__":
    main()
