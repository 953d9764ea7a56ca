"""Which examples a network gets right, clean or under attack: the one evaluation loop of validation and ``evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor, nn

from sparring.agents.inputs import check_images
from sparring.agents.parts import cut
from sparring.agents.precision import arithmetic
from sparring.trainers.attacks import frozen, run
from sparring.trainers.config import Attack, Measure
from sparring.trainers.data import Split, evaluation_order, to_pixels
from sparring.trainers.losses import RAISED, cross_entropy
from sparring.trainers.rng import generator
from sparring.trainers.types import HeldOut

SMALL = 500_000  # parameters up to which one thread is as fast as several when idle, and far faster on a busy machine
BLOCK = 256  # held-out examples that share a random generator
ExampleLoss = Callable[[Tensor, Tensor], Tensor]  # logits [B, K], y [B] -> [B], raised by the attack


@contextmanager
def judged(model: nn.Module) -> Iterator[None]:
    """``model`` as every figure sees it: eval mode, no gradients of weights, float32 products also on an NVIDIA GPU."""
    with frozen(model), arithmetic("fp32"):
        yield


class Lenient(nn.Module):
    """A network whose answers that are no numbers count as wrong, since somebody asked for that; attacks see equal logits there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.training = network, network.training

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return torch.where(logits.isfinite().all(1, keepdim=True), logits, torch.zeros_like(logits))


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    """[B] classes; -1, which is no label, where the answer is no number."""
    logits = (model.network if isinstance(model, Lenient) else model)(x)
    classes: Tensor = logits.argmax(1)
    return torch.where(logits.isfinite().all(1), classes, torch.full_like(classes, -1))


@dataclass(frozen=True, slots=True)
class Judging:
    """How examples are judged."""

    seed: int
    loss: ExampleLoss = cross_entropy  # raised by the attack
    block: int = BLOCK  # examples that share a random generator
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    at_once: int | None = None  # images that go through the network together, at most; default a block


def correct(model: nn.Module, split: Split, attack: Attack | None, how: Judging) -> Tensor:
    """Per example of ``split`` whether ``model`` (in eval mode) is right on it after ``attack``; None is the clean image.

    With restarts an example counts only if it is right after every one of them. Examples go in blocks of fixed size, each
    with a random generator of its own, so the result depends on the seed only.

    Returns:
        [N] bool, on the CPU.
    """
    hits = []
    with judged(model):
        for start in range(0, len(split), how.block):
            images, labels = (a.to(how.device) for a in split.take(slice(start, start + how.block)))
            x = to_pixels(images, how.dtype)
            for part in cut(len(x), how.at_once):
                y = labels[part]
                right = torch.ones(len(y), dtype=torch.bool, device=how.device)
                for restart in range(attack.restarts if attack else 1):
                    adv = x[part]
                    if attack is not None:  # draws for the whole block, in every part
                        rng = generator(how.seed, "evaluate", start, restart, device=how.device)
                        once = replace(attack, restarts=1)
                        adv = run(once, lambda z, y=y: how.loss(model(z), y), x, rng=rng, rows=part)  # type: ignore[misc]
                    with torch.no_grad():
                        right &= predicted(model, adv) == y
                hits.append(right.cpu())
    return torch.cat(hits)


def accuracies(model: nn.Module, split: Split, by: Measure, how: Judging, *, own: Attack) -> HeldOut:
    """Clean accuracy; robust: right after every attack of ``by`` too; and after ``own`` alone, which raises what ``by`` does."""
    how = replace(how, loss=RAISED[by.loss])
    if by.images is not None and by.images < len(split):
        split = split[evaluation_order(split.all_labels())[: by.images].to(split.labels.device)]
    clean, trained = (correct(model, split, a, how) for a in (None, own))
    robust = torch.stack([clean, *(correct(model, split, a, how) for a in by.attacks)]).all(0)
    return HeldOut(
        clean=clean.double().mean().item(),
        robust=robust.double().mean().item(),
        own_attack=(clean & trained).double().mean().item(),
        n=float(len(clean)),
    )


@contextmanager
def fitting_threads(*models: nn.Module) -> Iterator[None]:
    """One CPU thread for small networks: their kernels are so short that several threads mostly wait for each other."""
    before = torch.get_num_threads()
    if all(sum(p.numel() for p in m.parameters()) < SMALL for m in models):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_classifier(model: nn.Module, x: Tensor, *, classes: int | None = None) -> int:
    """Refuse images of another shape or type or outside [0, 1], and a model that does not return one row of logits per image.

    Returns:
        How many classes the model tells apart.

    Raises:
        ValueError: says which, with the values seen.
    """
    check_images(x)
    wanted = next((p.dtype for p in model.parameters()), x.dtype)
    if wanted != x.dtype:
        raise ValueError(f"images are {x.dtype} and the model computes in {wanted}; convert one: x.to({wanted})")
    with judged(model), torch.no_grad():
        out = model(x)
    if out.dim() != 2 or len(out) != len(x) or (classes is not None and out.shape[1] != classes):
        expected = f"[{len(x)}, {classes if classes is not None else 'classes'}]"
        raise ValueError(
            f"the model returned shape {list(out.shape)} for {len(x)} images; expected logits of shape {expected}"
        )
    check_finite(out)
    if bool((out >= 0).all()) and torch.allclose(
        out.sum(1), torch.ones(len(out), dtype=out.dtype, device=out.device), atol=1e-4
    ):
        raise ValueError(
            "the model returns probabilities (rows sum to 1); attacks need logits: remove the softmax at its end"
        )
    return int(out.shape[1])


def check_finite(logits: Tensor, *, of: str = "") -> None:
    """Refuse answers that are no numbers: the largest of a row with NaN is the NaN, wherever it stands.

    Args:
        of: what the images are, for the error.

    Raises:
        ValueError: how many, and the first one.
    """
    wrong = ~torch.isfinite(logits).all(1)
    if bool(wrong.any()):
        raise ValueError(
            f"the model answers NaN or infinity to {int(wrong.sum())} of {len(logits)} images{of}, first to image "
            f"{int(wrong.nonzero()[0])}; a number from such answers would say nothing"
        )


def wilson(hits: float, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927), in [0, 1]."""
    z = 1.959963984540054
    p, d = hits / n, 1 + z * z / n
    middle, half = (p + z * z / (2 * n)) / d, z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return max(0.0, middle - half), min(1.0, middle + half)
