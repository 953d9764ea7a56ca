"""Counter-based randomness: every draw comes from a generator named by what it is for, so no random state is ever saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from a key such as ``(seed, t, agent, "start")``; equal on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose: ``generator(seed, t, agent, "start")``."""
    return torch.Generator(device).manual_seed(seed_of(*key))


def on_cpu(rng: torch.Generator) -> torch.Generator:
    """A generator for numbers that Python needs: ``rng`` itself, or for one of a GPU, which each of them would wait for, another."""
    return rng if rng.device.type == "cpu" else torch.Generator().manual_seed(rng.initial_seed())


@contextmanager
def seeded(*key: int | str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run code that draws from torch's global generators (initialisation, dropout) from a key; the caller's states return."""
    gpu = torch.device(device)
    with torch.random.fork_rng(devices=[gpu] if gpu.type == "cuda" else []):
        torch.default_generator.manual_seed(
            seed_of(*key)
        )  # torch.manual_seed notes a stack per call for absent devices
        if gpu.type == "cuda":
            torch.cuda.manual_seed(seed_of(*key))
        yield
