"""One training step in the papers' style against Sparring's, side by side: CIFAR shapes, PGD-10, one process.

    python benchmarks/step_time.py [--methods at mtard] [--variants exact bf16] [--batch 32] [--threads 2] [--json]

Every round times one step of each variant in turn, so that what else the machine does hits all of them; a ratio is the median
over the rounds of plain / variant. ``plain`` is benchmarks/plain.py. ``exact`` is what every run does: the same numbers to
rounding. ``bf16``, ``compile``, ``bf16+compile`` and ``tf32`` are the flags --precision and --compile. On an NVIDIA GPU ``plain``
multiplies float32 as such, too, though PyTorch's own default for convolutions is TensorFloat-32.

The peak is the fastest of several convolutions measured here in the same precision; the share is FLOPs of a step (torch's
counter, which counts convolutions and matrix products) over its time, over that peak.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import plain
import torch
from common import circumstances, random_images, save
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sparring.agents import checkpoint, networks
from sparring.agents.precision import arithmetic
from sparring.cluster.config.recipes import images as recipe_for_images
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.runs import images
from sparring.cluster.team.team import LocalTeam

VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "compile": {"compile": True},
    "bf16+compile": {"precision": "bf16", "compile": True},
}
BATCHES = 16  # of images: an epoch's last, smaller batch comes after more rounds than anybody asks for
WARM_UP = 1  # steps of every variant before the first round
PEAKS = ((64, 32), (128, 16), (256, 8), (512, 4))  # channels, side: the 3x3 convolutions of a ResNet-18


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() and args.device == "auto" else "cpu")
    result: dict[str, Any] = circumstances(seed=args.seed)
    result |= {"n": args.rounds, "batch": args.batch, "threads": args.threads, "network": args.network}
    if device.type == "cuda":
        result["device"] = torch.cuda.get_device_name()
    result["peak_gflops"] = {p: peak(p, args.batch, device) for p in ("fp32", "tf32", "bf16")}
    result["methods"] = {}
    for method in args.methods:
        result["methods"][method] = compare(method, args, device, result["peak_gflops"])
        print(f"{method}: {line(result['methods'][method], args.variants)}", file=sys.stderr, flush=True)
    if args.save:
        save(args.save, result)
    if args.json or not args.save:
        print(json.dumps(result, indent=None if args.json else 1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(plain.METHODS), default=list(plain.METHODS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["exact", "bf16"])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--save", nargs="?", const="step_time", help="write benchmarks/results/NAME.json (step_time)")
    return parser.parse_args()


def compare(name: str, args: argparse.Namespace, device: torch.device, peaks: dict[str, float]) -> dict[str, Any]:
    """Times, ratios and shares of the peak of one method."""
    with tempfile.TemporaryDirectory() as folder:
        steps = {"plain": plain_step(name, args, device)}
        steps |= {v: team_step(name, args, VARIANTS[v], Path(folder), device) for v in args.variants}
        for step in steps.values():
            for _ in range(WARM_UP):
                seconds(step, device)
        samples = [{v: seconds(step, device) for v, step in steps.items()} for _ in range(args.rounds)]
        found: dict[str, Any] = {"samples": samples}
        for v, step in steps.items():
            took = median(s[v] for s in samples)
            found[v] = {"ms": 1e3 * took, "images_per_s": args.batch / took}
            if "compile" not in v:  # compiled kernels are not counted
                with Flops() as counter:
                    step()
                flops = counter.total
                share = flops / took / 1e9 / peaks[VARIANTS.get(v, {}).get("precision", "fp32")]
                found[v] |= {"gflop": flops / 1e9, "share_of_peak": share}
        for v in args.variants:
            found[f"{v}_ratio"] = median(s["plain"] / s[v] for s in samples)
    return found


def configured(name: str, args: argparse.Namespace, folder: Path, changes: dict[str, Any]) -> RunConfig:
    """The method's recipe for CIFAR-10 on random images, its frozen networks with random weights."""
    config = recipe_for_images(name, "cifar10", args.network)
    data = random_images((3, 32, 32), count=BATCHES * args.batch)
    config = config.replace({"data.name": data, "data.cache": str(folder / "cache"), "batch_size": args.batch})
    config = config.replace({"threads_per_agent": args.threads, "max_steps": 10**6, "seed": args.seed, "team": "local"})
    config = config.replace({"device": args.device, **changes})
    dataset = images.prepare(config.data, quiet=True).load()
    roles = config.method.roles()
    for index, role in enumerate(config.networks()):
        if role not in roles or not roles[role].learns:
            checkpoint.save_model(networks.build(networks.configure(args.network, dataset), index), folder / role)
            config = config.replace({f"agents.{role}.init": str(folder / role)})
    return config


def team_step(
    name: str, args: argparse.Namespace, changes: dict[str, Any], folder: Path, device: torch.device
) -> Callable[[], None]:
    """A step of Sparring's, from batch to optimiser step, with everything that is reported of it."""
    config = configured(name, args, folder, changes)
    team, t = LocalTeam(config.specs(images.prepare(config.data, quiet=True))), iter(range(10**6))

    def step() -> None:
        team.collect(team.submit(config.method, next(t)), timeout=600)

    return step


def plain_step(name: str, args: argparse.Namespace, device: torch.device) -> Callable[[], None]:
    """A step in the papers' style on images that are ready."""
    with tempfile.TemporaryDirectory() as folder:
        config = configured(name, args, Path(folder), {})
        dataset = images.prepare(config.data, quiet=True).load()
        made = {
            role: networks.build(networks.configure(args.network, dataset), args.seed, i).to(device).train()
            for i, role in enumerate(config.networks())
        }
        x, y = dataset.train.pixels()[: args.batch].to(device), dataset.train.all_labels()[: args.batch].to(device)
    step = plain.METHODS[name](made)

    def in_float32() -> None:
        with arithmetic("fp32"):
            step(x, y)

    return in_float32


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Wall time of one step."""
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak(precision: str, batch: int, device: torch.device) -> float:
    """GFLOP/s of the fastest 3x3 convolution of a ResNet-18."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    with torch.no_grad(), arithmetic(precision):
        for channels, side in PEAKS:
            conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device, dtype)
            conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            x = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
            x = x.to(memory_format=torch.channels_last)

            def run(conv: torch.nn.Module = conv, x: torch.Tensor = x) -> None:
                for _ in range(10):
                    conv(x)

            took = min(seconds(run, device) for _ in range(6))
            best = max(best, 10 * 2 * batch * side**2 * channels**2 * 9 / took / 1e9)
    return best


class Flops(TorchDispatchMode):
    """Counts what torch's counter counts. That one also names modules, for which it hooks into every gradient's nodes."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def line(found: dict[str, Any], variants: list[str]) -> str:
    """One line of a method's result."""
    parts = [f"plain {found['plain']['ms']:.0f} ms"]
    return ", ".join([*parts, *(f"{v} {found[v]['ms']:.0f} ms ({found[f'{v}_ratio']:.2f}x)" for v in variants)])


if __name__ == "__main__":
    main()
