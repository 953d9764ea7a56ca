"""Attacks by the names that papers and tables use, on one block of examples.

``fgsm``, ``pgd-20`` (cross entropy, uniform start, step 2.5 eps / steps), ``pgd-20x5`` (5 restarts), ``margin-pgd-30`` (the
Carlini-Wagner margin), ``scaled-pgd-20`` (the cross entropy of logits at one scale), ``square-1000`` (queries), ``autoattack``,
``autoattack-plus``, ``autoattack-rand`` (the authors' own code), ``transfer:RUN[@AGENT]`` (PGD-20 crafted on another network).
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparring.agents.precision import arithmetic
from sparring.agents.robustness import judged
from sparring.trainers.attacks import run
from sparring.trainers.config import Attack, Threat
from sparring.trainers.losses import RAISED, cross_entropy
from sparring.trainers.rng import generator, seed_of

NAMES = (
    "clean, fgsm, pgd-K, pgd-KxR (R restarts), margin-pgd-K, scaled-pgd-K, square-Q (Q queries), autoattack, autoattack-plus, "
    "autoattack-rand, transfer:RUN"
)
_PGD = re.compile(r"(?P<kind>(margin-|scaled-)?pgd)-(?P<steps>[1-9]\d*)(x(?P<restarts>[1-9]\d*))?")
_SQUARE = re.compile(r"square-([1-9]\d*)")
_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
VERSIONS = {"autoattack": "standard", "autoattack-plus": "plus", "autoattack-rand": "rand"}
DLR_CLASSES = 4  # the targeted DLR loss compares four logits


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive examples and what makes their draws."""

    x: Tensor  # [n, C, H, W] in [0, 1]
    y: Tensor  # [n]
    index: int  # number of the block
    seed: int  # of the evaluation

    def seed_for(self, attack: str) -> int:
        """The seed of an attack on this block: a function of (seed, attack, block)."""
        return seed_of(self.seed, attack, self.index) % 2**31


Sources = Mapping[str, nn.Module]  # networks of transfer attacks, by name
Crafter = Callable[[nn.Module, Block], Tensor]


def parse(name: str, threat: Threat, sources: Sources | None = None, *, draws: str | None = None) -> Crafter:
    """The attack of a name under a threat: (model in eval mode, block) -> examples in ball and box.

    Args:
        sources: for ``transfer:X``, the network X by that name.
        draws: of a gradient attack, the name of another one whose random starts it takes; by default its own.

    Raises:
        ValueError: no such attack, or one that does not suit the norm.
    """
    if name in VERSIONS:
        return lambda model, block: autoattack(model, block, threat, name)[0]
    square = _SQUARE.fullmatch(name)
    if square is not None:
        return lambda model, block: _square(model, block, threat, name, queries=int(square[1]))
    if name.startswith("transfer:"):
        return _transfer(name, threat, sources)
    return _gradient_attack(draws or name, *gradient_attack(name, threat))


def gradient_attack(name: str, threat: Threat) -> tuple[Attack, Callable[[Tensor, Tensor], Tensor]]:
    """``"pgd-20"`` under a threat -> the attack, and the loss of (logits, labels) that it raises.

    Raises:
        ValueError: no such attack.
    """
    if name == "fgsm":
        return Attack(kind="fgsm", norm=threat.norm, eps=threat.eps), cross_entropy
    match = _PGD.fullmatch(name)
    if match is None:
        raise ValueError(f"attack {name!r} is unknown; allowed: {NAMES}")
    attack = Attack(norm=threat.norm, eps=threat.eps, steps=int(match["steps"]), restarts=int(match["restarts"] or 1))
    return attack, RAISED[match["kind"]]


def _gradient_attack(draws: str, attack: Attack, loss: Callable[[Tensor, Tensor], Tensor]) -> Crafter:
    def craft(model: nn.Module, block: Block) -> Tensor:
        """With restarts, the first that succeeds for each example."""
        adv = block.x
        right = torch.ones(len(block.y), dtype=torch.bool, device=block.y.device)
        for restart in range(attack.restarts):
            once = replace(attack, restarts=1)
            rng = generator(block.seed, draws, block.index, restart, device=block.x.device)
            found = run(once, lambda x: loss(model(x), block.y), block.x, rng=rng)
            adv = torch.where(right.view(-1, 1, 1, 1), found, adv)
            right &= _right(model, found, block.y)
        return adv

    return craft


def _transfer(name: str, threat: Threat, sources: Sources | None) -> Crafter:
    def craft(model: nn.Module, block: Block) -> Tensor:
        source = (sources or {})[name.removeprefix("transfer:")]
        with judged(source):
            return parse("pgd-20", threat)(source, block)

    return craft


def _square(model: nn.Module, block: Block, threat: Threat, name: str, *, queries: int) -> Tensor:
    from pyautoattack.square import SquareAttack

    with undisturbed():
        laid = squares_laid(threat.norm, tuple(block.x.shape[-2:]))
        if laid is None:
            return block.x
        attack = SquareAttack(
            model,
            p_init=0.8,
            n_queries=queries,
            eps=threat.eps,
            norm=_NORMS[threat.norm],
            n_restarts=1,
            seed=block.seed_for(name),
            verbose=False,
            device=block.x.device,
            resc_schedule=False,
        )
        if laid == "transposed":
            _transposed(attack, model)
        found: Tensor = attack.perturb(block.x.clone(), block.y.clone())
        kept: Tensor = torch.where(_right(model, block.x, block.y).view(-1, 1, 1, 1), found.detach(), block.x)
        return kept


def autoattack(model: nn.Module, block: Block, threat: Threat, name: str) -> tuple[Tensor, list[str]]:
    """The authors' code on one block with the block's seed; also the warnings that it gave.

    With fewer than 4 classes only what the losses allow runs, with fewer than 10 fewer targets: such numbers are not
    comparable with published ones (see :func:`comparable`).
    """
    from pyautoattack import AutoAttack

    with undisturbed(), _messages() as messages, torch.no_grad():
        classes = model(block.x[:1]).shape[1]
        version = VERSIONS[name]
        made = AutoAttack(
            model,
            norm=_NORMS[threat.norm],
            eps=threat.eps,
            seed=block.seed_for(name),
            version=version,
            device=block.x.device,
        )
        if classes < DLR_CLASSES:
            allowed = {"apgd-ce", "fab", "fab-t", "square"}
            made.attacks_to_run = [a for a in made.attacks_to_run or [] if a in allowed]
        laid = squares_laid(threat.norm, tuple(block.x.shape[-2:]))
        if laid is None:
            made.attacks_to_run = [a for a in made.attacks_to_run or [] if a != "square"]
        elif laid == "transposed":
            _transposed(made.square, model)
        for attack in (made.apgd_targeted, made.fab):
            attack.n_target_classes = min(attack.n_target_classes, classes - 1)
        adv, _ = made.run_standard_evaluation(block.x, block.y, batch_size=len(block.x))
    found: Tensor = adv.detach()
    return found, messages


def squares_laid(norm: str, size: tuple[int, ...]) -> str | None:
    """How Square's first pattern fits images of (height, width): ``as it is``, ``transposed``, or None where it cannot.

    Linf starts with stripes, which fit any image. For l2 and l1 pyautoattack 0.2 lays squares of a fifth of the height, more of
    them where an image is wider: with fewer than 5 rows there is none, and where the last one leaves the image it fails.
    """

    def fits(height: int, width: int) -> bool:
        side = height // 5
        start = (height - 5 * side) // 2
        ends = [start + (length // side) * side for length in (height, width)] if side else []
        return side == 1 or (side > 1 and ends[0] <= height and ends[1] <= width)

    height, width = size
    return "as it is" if norm == "linf" or fits(height, width) else "transposed" if fits(width, height) else None


def left_out(attacks: Sequence[str], threats: Sequence[Threat], size: tuple[int, ...]) -> list[str]:
    """One sentence per attack that cannot be carried out, or not in all its parts, on images of (height, width)."""
    said = []
    for norm in dict.fromkeys(t.norm for t in threats if squares_laid(t.norm, size) is None):
        where = f"under {norm} on images of {size[0]}x{size[1]}: its squares do not fit there"
        said += [f"{name} is left out {where}" for name in attacks if _SQUARE.fullmatch(name)]
        said += [f"{name} runs without Square {where}; not comparable" for name in attacks if name in VERSIONS]
    return said


def _transposed(attack: Any, model: nn.Module) -> None:
    """Let Square see images with rows and columns exchanged."""
    perturb = attack.perturb
    attack.predict = lambda x: model(x.mT)
    attack.perturb = lambda x, y: perturb(x.mT.contiguous(), y).mT.contiguous()


def comparable(name: str, classes: int) -> bool:
    """Whether an AutoAttack number means what published ones mean: all parts ran with the published number of targets."""
    return name not in VERSIONS or classes >= 10  # nine target classes


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        right: Tensor = model(x).argmax(1) == y
    return right


@contextmanager
def undisturbed() -> Iterator[None]:
    """Give back what other people's code sets: random states, the trace function; inside, full float32."""
    trace = sys.gettrace()
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with arithmetic("fp32"), torch.random.fork_rng(devices=gpus):
            yield
    finally:
        sys.settrace(trace)


@contextmanager
def _messages() -> Iterator[list[str]]:
    """What the authors' code has to say, instead of on the screen."""
    logger, seen = logging.getLogger("auto-attack"), []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    handler, propagate = Keep(logging.WARNING), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield seen
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
