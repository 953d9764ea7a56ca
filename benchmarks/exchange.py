"""Two agents of one host that hand each other 1.5 MiB a step, and compute nothing: what each way of exchange costs.

    python benchmarks/exchange.py [--monarch FOLDER] [--rounds 5] [--save]

The object store and the direct exchange as training uses them; Ray's own transport (``tensor_transport="gloo"``) between two plain
actors; torchmonarch's ports, when a folder is named into which it was installed (pip install --target FOLDER torchmonarch). Rounds are
interleaved, milliseconds a step, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import ray
import torch
from common import CLONE, circumstances, save
from stand_ins import StandInSpec, configured

from sparring.cluster.machines import session
from sparring.cluster.team import assemble
from sparring.cluster.training.pace import Pace

METHOD = CLONE / "benchmarks" / "exchange_methods.py"
VERBS = 2  # of each agent
WARM_UP = 20  # steps
Round = Callable[[], float]  # milliseconds a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--monarch", type=Path, help="folder into which torchmonarch was installed")
    parser.add_argument("--shape", default="3x32x32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/exchange.json")
    args = parser.parse_args()
    session.start(num_cpus=8, object_store_memory=256 * 2**20)
    versions = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Round] = {
            exchange: stack.enter_context(ours(exchange, args, Path(folder))) for exchange in ("store", "direct")
        }
        ways["ray gloo"] = stack.enter_context(rays(args))
        if args.monarch is not None:
            ways["torchmonarch"] = stack.enter_context(monarchs(args))
            versions["torchmonarch"] = next(
                metadata.distributions(name="torchmonarch", path=[str(args.monarch)])
            ).version
        samples: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, one in ways.items():
                samples[name].append(one())
    result = circumstances(seed=args.seed) | {"n": args.rounds, "steps": args.steps}
    result["versions"] |= versions
    size = 4 * args.batch_size * torch.Size(int(n) for n in args.shape.split("x")).numel()
    result |= {"bytes": size, "samples": samples, "ms": {name: median(each) for name, each in samples.items()}}
    result["ratio"] = {
        name: median(b / a for a, b in zip(samples["direct"], samples[name], strict=True)) for name in ways
    }
    if args.save:
        save("exchange", result)
    print(json.dumps(result, indent=None if args.json else 1))


@contextmanager
def ours(exchange: str, args: Namespace, folder: Path) -> Iterator[Round]:
    """A team of stand-ins that wait for nothing."""
    asked = Namespace(**vars(args), network="small_cnn:width=4", address=None, cache=None)
    config = configured(str(METHOD), asked, folder).replace({"exchange": exchange})
    made = [
        StandInSpec(**{f.name: getattr(spec, f.name) for f in fields(spec)}, waits=(0.0,) * VERBS)
        for spec in assemble.specs(config, quiet=True)
    ]
    with assemble.team_of(config, made=made) as team:
        pace, t = Pace(config, 10**9), 0

        def steps(count: int) -> float:
            nonlocal t
            pending, began, end = [], time.perf_counter(), t + count
            while t < end or pending:
                while t < end and len(pending) < config.window:
                    pending.append(pace.submitted(team, config.method, t))
                    t += pending[-1].steps
                oldest = pending.pop(0)
                found = team.collect(oldest, timeout=600)
                pace.seen(found if oldest.kind == "step" else found[-1])
            return 1e3 * (time.perf_counter() - began) / (t - end + count)

        steps(WARM_UP)
        yield lambda: steps(args.steps)


@ray.remote(num_cpus=0)
class _Peer:
    """What Ray's transport passes on is the tensor itself, so each step makes one."""

    def __init__(self, shape: list[int]) -> None:
        torch.set_num_threads(1)
        self._images = torch.rand(shape)

    @ray.method(tensor_transport="gloo")
    def give(self) -> Any:
        return self._images.clone()

    def take(self, images: Any) -> int:
        return len(images)


@contextmanager
def rays(args: Namespace) -> Iterator[Round]:
    """Ray's own transport, two steps under way."""
    from ray.experimental.collective import create_collective_group, destroy_collective_group

    shape = [args.batch_size, *(int(n) for n in args.shape.split("x"))]
    left, right = (_Peer.remote(shape) for _ in range(2))
    group = create_collective_group([left, right], backend="gloo")

    def steps(count: int) -> float:
        pending: list[Any] = []
        began = time.perf_counter()
        for _ in range(count):
            from_left, from_right = left.give.remote(), right.give.remote()
            pending.append([left.take.remote(from_right), right.take.remote(from_left)])
            if len(pending) == 2:
                ray.get(pending.pop(0))
        ray.get(pending.pop(0))
        return 1e3 * (time.perf_counter() - began) / count

    steps(WARM_UP)
    yield lambda: steps(args.steps)
    destroy_collective_group(group)
    for actor in (left, right):
        ray.kill(actor)


@contextmanager
def monarchs(args: Namespace) -> Iterator[Round]:
    """torchmonarch in processes of its own."""
    command = [sys.executable, str(CLONE / "benchmarks" / "exchange_monarch.py"), f"--shape={args.shape}"]
    command += [f"--batch-size={args.batch_size}", f"--steps={args.steps}"]
    environment = os.environ | {"PYTHONPATH": str(args.monarch)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def steps() -> float:
            print(file=process.stdin, flush=True)
            while line := process.stdout.readline():
                if line[:1].isdigit():
                    return float(line)
            raise RuntimeError("torchmonarch ended")

        steps()
        yield steps
        process.stdin.close()


if __name__ == "__main__":
    main()
