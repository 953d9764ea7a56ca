"""The same exchange between two actors of torchmonarch, through its ports: for every line on stdin a round, whose milliseconds a step are said.

python benchmarks/exchange_monarch.py --shape 3x32x32 --batch-size 128 --steps 100
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch
from monarch.actor import Actor, Channel, endpoint, this_host


class Peer(Actor):
    """Sends its images and waits for the other's, step by step."""

    def __init__(self, shape: list[int]) -> None:
        self.images = torch.rand(shape)
        self.own, self.arriving = Channel.open()

    @endpoint
    async def address(self) -> Any:
        return self.own

    @endpoint
    async def meet(self, other: Any) -> None:
        self.other = other

    @endpoint
    async def run(self, steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            self.other.send(self.images)
            got = await self.arriving.recv()
            assert got.shape == self.images.shape
        return 1e3 * (time.perf_counter() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="3x32x32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    shape = [args.batch_size, *(int(n) for n in args.shape.split("x"))]
    peers = [this_host().spawn_procs({"gpus": 1}).spawn(name, Peer, shape) for name in ("left", "right")]
    ports = [peer.address.call_one().get() for peer in peers]
    for peer, port in zip(peers, reversed(ports), strict=True):
        peer.meet.call_one(port).get()
    for _ in sys.stdin:
        rounds = [peer.run.call_one(args.steps) for peer in peers]
        print(max(asked.get() for asked in rounds), flush=True)


if __name__ == "__main__":
    main()
