"""The recorded networks, batches and draws, and agents over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from sparring.agents.agent import Agent
from sparring.agents.base import Makings
from sparring.trainers import attacks
from sparring.trainers.config import Attack, OptimConfig
from sparring.trainers.data import Split
from sparring.trainers.methods.base import Method
from sparring.trainers.types import Batch
from tests.helpers import Handle

EPS, ALPHA = 8 / 255, 2 / 255
TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-5}
Arrays = Mapping[str, np.ndarray]


class Net(nn.Module):
    """The recorded networks: two convolutions of c1 and c2 channels with batch norm, global mean, linear layer."""

    def __init__(self, c1: int, c2: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, c1, 3, padding=1, bias=False), nn.BatchNorm2d(c1)
        self.conv2, self.bn2 = nn.Conv2d(c1, c2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(c2)
        self.fc = nn.Linear(c2, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(h))).mean((2, 3)))


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as z:
        return {k: z[k] for k in z.files}


def first_of(z: Arrays, *names: str) -> np.ndarray:
    """The array under the first of these names that is there."""
    found = next((name for name in names if name in z), None)
    if found is None:
        raise LookupError(f"none of {', '.join(names)} is recorded, but: {', '.join(sorted(z))}")
    return z[found]


def tensor(a: Any) -> Tensor:
    return torch.from_numpy(np.array(a))


def net(z: Arrays, prefix: str) -> Net:
    """A network with the recorded weights behind ``prefix``, in their precision."""
    state = {k.removeprefix(prefix): tensor(v) for k, v in z.items() if k.startswith(prefix)}
    made = Net(len(state["conv1.weight"]), len(state["conv2.weight"]), len(state["fc.bias"]))
    made.to(state["conv1.weight"].dtype).load_state_dict(state)
    return made


class Recorded:
    """Batches that are given, one per step."""

    def __init__(
        self, batches: Sequence[tuple[np.ndarray, np.ndarray]], *, per_epoch: int = 1, epoch: int | None = None
    ) -> None:
        self.given = [(tensor(x), tensor(y)) for x, y in batches]
        self.device, self.dtype, self.sha256 = torch.device("cpu"), self.given[0][0].dtype, ""
        self.steps_per_epoch, self.epoch = per_epoch, epoch

    def batch(self, t: int) -> Batch:
        x, y = self.given[t % len(self.given)]
        return Batch(x, y, epoch=t // self.steps_per_epoch if self.epoch is None else self.epoch)


@dataclass
class Watched(Handle):
    """A handle that keeps what its agent crafted."""

    crafted: list[Tensor] = field(default_factory=list)

    def craft(self, t: int, *, attack: str = "train", **hints: Any) -> Any:
        adv = super().craft(t, attack=attack, **hints)
        self.crafted.append(adv.x)
        return adv


def team(
    method: Method,
    models: Mapping[str, nn.Module],
    batches: Recorded,
    attack: Attack,
    optim: OptimConfig | Mapping[str, OptimConfig],
    *,
    beside: Mapping[str, nn.Module] | None = None,
    total_steps: int = 10**9,
) -> dict[str, Watched]:
    held = Split(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    return {
        role: Watched(
            Agent(
                Makings(
                    me=role,
                    index=i,
                    method=method,
                    model=models[role],
                    batches=batches,  # type: ignore[arg-type]
                    held_out=held,
                    config=optim if isinstance(optim, OptimConfig) else optim[role],
                    attacks={"train": attack},
                    seed=0,
                    total_steps=total_steps,
                    classes=10,
                    beside=beside,
                )
            )
        )
        for i, role in enumerate(method.roles())
    }


@contextmanager
def drawn(noise: Sequence[np.ndarray], *, uniform: bool = False) -> Iterator[None]:
    """The attacks' random starts are the recorded draws, one after the other: N(0, 1), or uniform in the linf ball."""
    draws = iter([tensor(n) for n in noise])
    if uniform:
        ball = replace(attacks.BALLS["linf"], sample=lambda like, eps, rng: next(draws))
        with mock.patch.dict(attacks.BALLS, linf=ball):
            yield
    else:
        with mock.patch.object(torch, "randn", side_effect=draws):
            yield


@contextmanager
def gradients_seen() -> Iterator[list[Tensor]]:
    """The gradient of every attack step, as the attack sees it."""
    seen: list[Tensor] = []
    real = attacks.gradient

    def gradient(objective: Any, x: Tensor, ones: Tensor | None = None) -> Tensor:
        seen.append(real(objective, x, ones))
        return seen[-1]

    with mock.patch.object(attacks, "gradient", gradient):
        yield seen


LISTENING = ContextVar(
    "LISTENING", default=True
)  # whether networks are hooked; then they run as they are, else as runs have them


@contextmanager
def listening(yes: bool) -> Iterator[None]:
    """Check with hooks, pass by pass, or without: batch norm folded into convolutions and equal passes made once."""
    token = LISTENING.set(yes)
    try:
        yield
    finally:
        LISTENING.reset(token)


class Seen:
    """Every input of a network and the mode it was in, if anybody listens."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: list[Tensor] = []
        self.modes: list[int] = []
        if LISTENING.get():
            model.register_forward_pre_hook(self._note)

    def _note(self, model: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.inputs.append(args[0].detach().clone())
        self.modes.append(int(model.training))

    def clear(self) -> None:
        self.inputs.clear()
        self.modes.clear()


def close(a: Any, b: Any, what: str, *, tolerance: float = 1e-9) -> None:
    a, b = (np.asarray(v.detach() if isinstance(v, Tensor) else v, dtype=np.float64) for v in (a, b))
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=what)


def same_gradients(ours: Sequence[Tensor], theirs: np.ndarray, *, tolerance: float = 1e-9) -> None:
    """Attack gradients up to a positive factor: some codes average where others sum, and only signs are used."""
    assert len(ours) == len(theirs), f"{len(ours)} attack steps, recorded {len(theirs)}"
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        scale = float(np.abs(b).max() / a.abs().max())
        close(a / a.abs().max(), b / np.abs(b).max(), f"attack gradient {k} (factor {scale:.3g})", tolerance=tolerance)


def same_state(model: nn.Module, z: Arrays, prefix: str, *, tolerance: float = 1e-9) -> None:
    for name, value in model.state_dict().items():
        close(value, z[f"{prefix}{name}"], f"{prefix}{name}", tolerance=tolerance)


def sgd(**values: Any) -> OptimConfig:
    return OptimConfig(**{"lr": 0.1, "momentum": 0.9, "weight_decay": 2e-4, "schedule": "constant", **values})
