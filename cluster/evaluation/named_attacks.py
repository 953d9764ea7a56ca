"""Attacks by the names that papers and tables use, on one block of examples.

``fgsm``, ``pgd-20`` (cross entropy, uniform start, step 2.5 eps / steps), ``pgd-20x5`` (5 restarts), ``margin-pgd-30`` (the
Carlini-Wagner margin), ``scaled-pgd-20`` (the cross entropy of logits at one scale), ``square-1000`` (queries), ``autoattack``,
``autoattack-plus``, ``autoattack-rand`` (ours, with the verdicts of its authors' code), ``autoattack-reference`` (their code),
``transfer:RUN[@AGENT]`` (PGD-20 crafted on another network).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparring.agents.fast import faster
from sparring.agents.robustness import judged, predicted
from sparring.trainers.attacks import run
from sparring.trainers.autoattack import Passes, Square, autoattack
from sparring.trainers.autoattack.reference import reference, squares_laid
from sparring.trainers.config import Attack, Threat
from sparring.trainers.losses import RAISED, cross_entropy
from sparring.trainers.rng import generator, seed_of

NAMES = (
    "clean, fgsm, pgd-K, pgd-KxR (R restarts), margin-pgd-K, scaled-pgd-K, square-Q (Q queries), autoattack, autoattack-plus, "
    "autoattack-rand, autoattack-reference, transfer:RUN"
)
_PGD = re.compile(r"(?P<kind>(margin-|scaled-)?pgd)-(?P<steps>[1-9]\d*)(x(?P<restarts>[1-9]\d*))?")
_SQUARE = re.compile(r"square-([1-9]\d*)")
REFERENCE = "autoattack-reference"
VERSIONS = {"autoattack": "standard", "autoattack-plus": "plus", "autoattack-rand": "rand", REFERENCE: "standard"}


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive examples and what makes their draws."""

    x: Tensor  # [n, C, H, W] in [0, 1]
    y: Tensor  # [n]
    index: int  # number of the block
    seed: int  # of the evaluation

    def seed_for(self, attack: str) -> int:
        """The seed of an attack on this block: a function of (seed, attack, block); the authors' code has that of ours."""
        return seed_of(self.seed, "autoattack" if attack == REFERENCE else attack, self.index) % 2**31


Sources = Mapping[str, nn.Module]  # networks of transfer attacks, by name
# (network that is judged, block, network that is attacked: the same, or a faster form of it) -> examples in ball and box
Crafter = Callable[[nn.Module, Block, nn.Module], Tensor]


def parse(name: str, threat: Threat, sources: Sources | None = None, *, draws: str | None = None) -> Crafter:
    """The attack of a name under a threat; networks are in eval mode, with float32 products (:func:`judged`).

    Args:
        sources: for ``transfer:X``, the network X by that name.
        draws: of a gradient attack, the name of another one whose random starts it takes; by default its own.

    Raises:
        ValueError: no such attack, or one that does not suit the norm.
    """
    if name == REFERENCE:
        return lambda model, block, by: reference(model, block.x, block.y, threat=threat, seed=block.seed_for(name))[0]
    if name in VERSIONS:
        return lambda model, block, by: autoattack(
            *(by, block.x, block.y, lambda adv: predicted(model, adv) != block.y),
            threat=threat,
            seed=block.seed_for(name),
            version=VERSIONS[name],
        )
    square = _SQUARE.fullmatch(name)
    if square is not None:
        return lambda model, block, by: _square(by, block, threat, name, queries=int(square[1]))
    if name.startswith("transfer:"):
        return _transfer(name, threat, sources)
    return _gradient_attack(draws or name, *gradient_attack(name, threat))


def follows(name: str) -> bool:
    """Whether an attack runs on the form of the network that it is given; others look at the network itself, or at another one."""
    return name != REFERENCE and not name.startswith("transfer:")


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
    def craft(model: nn.Module, block: Block, by: nn.Module) -> Tensor:
        """With restarts, the first that succeeds for each example."""
        adv = block.x
        right = torch.ones(len(block.y), dtype=torch.bool, device=block.y.device)
        for restart in range(attack.restarts):
            once = replace(attack, restarts=1)
            rng = generator(block.seed, draws, block.index, restart, device=block.x.device)
            found = run(once, lambda x: loss(by(x), block.y), block.x, rng=rng)
            adv = torch.where(right.view(-1, 1, 1, 1), found, adv)
            right &= _right(model, found, block.y)
        return adv

    return craft


def _transfer(name: str, threat: Threat, sources: Sources | None) -> Crafter:
    def craft(model: nn.Module, block: Block, by: nn.Module) -> Tensor:
        source = (sources or {})[name.removeprefix("transfer:")]
        with judged(source):
            return parse("pgd-20", threat)(source, block, faster(source, block.x))

    return craft


def _square(by: nn.Module, block: Block, threat: Threat, name: str, *, queries: int) -> Tensor:
    right = _right(by, block.x, block.y)
    found, draws = block.x.clone(), torch.Generator().manual_seed(block.seed_for(name))
    if bool(right.any()):
        found[right] = Square(threat=threat, queries=queries)(Passes(by), block.x[right], block.y[right], draws)
    return found


def left_out(attacks: Sequence[str], threats: Sequence[Threat], size: tuple[int, ...]) -> list[str]:
    """One sentence per norm under which the authors' code cannot run in all its parts on images of (height, width)."""
    norms = dict.fromkeys(t.norm for t in threats if squares_laid(t.norm, size) is None)
    where = f"on images of {size[0]}x{size[1]}: its squares do not fit there; not comparable"
    return [
        f"{name} runs without Square under {norm} {where}" for norm in norms for name in attacks if name == REFERENCE
    ]


def comparable(name: str, classes: int) -> bool:
    """Whether an AutoAttack number means what published ones mean: all parts ran with the published number of targets."""
    return name not in VERSIONS or classes >= 10  # nine target classes


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        right: Tensor = model(x).argmax(1) == y
    return right
