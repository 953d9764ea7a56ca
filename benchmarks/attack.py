"""``sparring.attack`` beside torchattacks' PGD: CPU seconds of PGD-20 in interleaved rounds, one thread each.

    python benchmarks/attack.py [--against CLONE] [--torchattacks FOLDER] [--rounds 5] [--save]

small_cnn and ResNet-18 with random weights on random images of 3x32x32, linf 8/255. ``--torchattacks``: where
``pip install --no-deps --target FOLDER torchattacks`` has put it; ``--against``: another clone of Sparring. Each way has a process of its
own that waits until it is its turn; the loss of its examples is told too: all climb alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from common import CLONE, circumstances, save

EPS, STEPS = 8 / 255, 20
IMAGES = {"small_cnn": 128, "resnet18": 16}
WORKER = """
import json, sys, time
clone, folder, network, images, eps, steps = sys.argv[1:]
sys.path[:0] = [p for p in (clone, folder) if p]
import torch, sparring
from sparring.agents import networks
torch.set_num_threads(1)
torch.manual_seed(0)
config = networks.NetworkConfig(network, 3, 32, 32, 10, (0.5,) * 3, (0.25,) * 3)
model = networks.build(config, 0).eval()
x, y = torch.rand(int(images), 3, 32, 32), torch.arange(int(images)) % 10
eps, steps = float(eps), int(steps)
if folder:
    import torchattacks
    attack = torchattacks.PGD(model, eps=eps, alpha=2.5 * eps / steps, steps=steps)
    run = lambda: attack(x, y)
else:
    run = lambda: sparring.attack(model, x, y, eps=eps, steps=steps)
for line in sys.stdin:
    began = time.process_time()
    adv = run()
    seconds = time.process_time() - began
    loss = torch.nn.functional.cross_entropy(model(adv.detach()), y)
    assert float((adv - x).abs().max()) <= eps + 1e-6
    print(json.dumps({"seconds": seconds, "loss": float(loss.detach())}), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another clone, to compare with")
    parser.add_argument("--torchattacks", type=Path, help="the folder that it was installed into")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=list(IMAGES))
    parser.add_argument("--images", type=int, help="fewer images, to try the script")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/attack.json")
    args = parser.parse_args()
    ways = {"ours": (CLONE, None)}
    if args.against:
        ways["other"] = (args.against.resolve(), None)
    if args.torchattacks:
        ways["torchattacks"] = (CLONE, args.torchattacks.resolve())
    found = {}
    for network in args.networks:
        found[network] = speed(network, args.images or IMAGES[network], ways, args.rounds)
        print(network, json.dumps(found[network]), file=sys.stderr, flush=True)
    result = circumstances(seed=0) | {"n": args.rounds, "threads": 1, "steps": STEPS, "networks": found}
    print(save("attack", result) if args.save else json.dumps(result))


def speed(network: str, images: int, ways: dict[str, tuple[Path, Path | None]], rounds: int) -> dict[str, Any]:
    """Rounds in which each way has its turn; the first one, in which memory and kernels are found, does not count."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with workers(network, images, ways) as processes:
        for i in range(rounds + 1):
            for name in sorted(ways, reverse=i % 2 == 1):
                answer = asked(processes[name])
                if i:
                    samples[name].append(answer)
    ratios = {
        name: median(a["seconds"] / b["seconds"] for a, b in zip(samples["ours"], samples[name], strict=True))
        for name in ways
        if name != "ours"
    }
    return {"images": images, "ratios": ratios, "samples": samples}


@contextmanager
def workers(
    network: str, images: int, ways: dict[str, tuple[Path, Path | None]]
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process per way, ready to be asked."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    given = [network, str(images), str(EPS), str(STEPS)]
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", WORKER, str(clone), str(folder or ""), *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            cwd=clone,
        )
        for name, (clone, folder) in ways.items()
    }
    try:
        yield processes
    finally:
        for process in processes.values():
            process.communicate()


def asked(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    answer: dict[str, float] = json.loads(process.stdout.readline())
    return answer


if __name__ == "__main__":
    main()
