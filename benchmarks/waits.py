"""What users wait for besides a step, done plainly and by us: a pair of seconds each. ``bench.py`` compares their ratios.

attack       PGD-20 on small_cnn as a tutorial writes it, and sparring.attack
autoattack   pyautoattack called directly, and ours, on the robust model of digits that comes along
batch        128 CIFAR-sized images cropped and flipped by an index per pixel, and by windows
exchange     two agents that hand each other 1.5 MiB a step, through Ray's object store and directly
start        the first step of ``sparring train mat`` (plain is torch and Ray alone: the ratio says how much of the wait that is)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import autoattack
import start
import torch
from common import CLONE
from torch import Tensor

from sparring.agents import model_folder, networks
from sparring.agents.attacked import attacked
from sparring.agents.robustness import Judging, correct
from sparring.cluster.models.examples import load_test
from sparring.trainers.augment.shifting import augment
from sparring.trainers.config import Attack, DataConfig, Threat
from sparring.trainers.data import to_pixels
from sparring.trainers.losses import cross_entropy
from sparring.trainers.rng import generator

Pair = tuple[float, float]  # seconds plainly, seconds by us
EPS, STEPS = 8 / 255, 20
BATCHES = 50


def attack(seed: int) -> Pair:
    config = networks.NetworkConfig("small_cnn", 3, 32, 32, 10, (0.5,) * 3, (0.25,) * 3)
    model = networks.build(config, seed).eval()
    x, y = torch.rand(128, 3, 32, 32, generator=generator(seed)), torch.arange(128) % 10

    def plainly() -> Tensor:
        adv = (x + EPS * (2 * torch.rand(x.shape, generator=generator(seed)) - 1)).clamp(0, 1)
        for _ in range(STEPS):
            adv = adv.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(cross_entropy(model(adv), y).sum(), adv)
            adv = adv.detach() + 2.5 * EPS / STEPS * gradient.sign()
            adv = torch.min(torch.max(adv, x - EPS), x + EPS).clamp(0, 1)
        return adv

    return seconds(plainly), seconds(lambda: attacked(model, x, y, Attack(eps=EPS, steps=STEPS), seed=seed))


def aa(seed: int) -> Pair:
    model = model_folder.load(CLONE / "serve" / "demo" / "digits-robust" / "1").eval()
    split = load_test(DataConfig(), 64)
    split = split[correct(model, split, None, Judging(seed=seed)).nonzero().squeeze(1)[:16]]
    x, y, threat = split.pixels().contiguous(), split.all_labels(), Threat("linf", 0.2)
    return seconds(lambda: autoattack.theirs(model, x, y, threat)), seconds(
        lambda: autoattack.ours(model, x, y, threat)
    )


def batch(seed: int) -> Pair:
    images = torch.randint(0, 256, (128, 32, 32, 3), dtype=torch.uint8, generator=generator(seed))
    config = DataConfig(name="cifar10", augment="crop-flip", padding=4)

    def times(crop: Callable[[], Tensor]) -> float:
        return seconds(lambda: [to_pixels(crop()) for _ in range(BATCHES)])

    return times(lambda: indexed(images, 4, seed)), times(lambda: augment(images, config, rng=generator(seed)))


def indexed(images: Tensor, p: int, seed: int) -> Tensor:
    """The crops and flips of ``augment``, by an index per pixel."""
    b, h, w, _ = images.shape
    padded, rng = torch.nn.functional.pad(images, (0, 0, p, p, p, p)), generator(seed)
    top, left = torch.randint(0, 2 * p + 1, (2, b, 1), generator=rng)
    rows, columns = top + torch.arange(h), left + torch.arange(w)
    columns = torch.where(torch.rand(b, 1, generator=rng) < 0.5, columns.flip(1), columns)
    return padded[torch.arange(b)[:, None, None], rows[:, :, None], columns[:, None, :]]


def first_step(seed: int) -> Pair:
    with tempfile.TemporaryDirectory() as folder:
        return start.bare(), start.started(CLONE, Path(folder) / "run")["first step"]


def exchange(seed: int) -> Pair:
    command = [sys.executable, str(CLONE / "benchmarks" / "exchange.py"), "--rounds=1", "--json", f"--seed={seed}"]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(next(line for line in said.splitlines() if line.startswith("{")))["ms"]
    return found["store"] / 1e3, found["direct"] / 1e3


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


WAITS: dict[str, Callable[[int], Pair]] = {
    "attack": attack,
    "autoattack": aa,
    "batch": batch,
    "exchange": exchange,
    "start": first_step,
}
