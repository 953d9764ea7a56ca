"""How well the disagreement of an ensemble's members tells attacked images from clean ones: three attackers, three figures.

    one       PGD on the first member alone; the others have not seen it
    all       PGD on the ensemble, through the mean of probabilities
    adaptive  that; PGD towards each of the three likeliest wrong classes, on all members at once, so that they agree on it; and PGD that
              holds the ensemble a little wrong and lowers the disagreement itself. Of what succeeds, that about which members disagree least

Positive examples are those that succeed: the attacked network is right on the image and wrong after the attack. Negative: clean images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparring.agents.ensemble import Ensemble
from sparring.agents.fast import faster
from sparring.agents.robustness import judged
from sparring.trainers.attacks import run
from sparring.trainers.config import Attack, Threat
from sparring.trainers.losses import cross_entropy, margin
from sparring.trainers.rng import generator

STEPS, LONG = 20, 60  # of PGD; of what lowers the disagreement
TARGETS = 3  # wrong classes that the adaptive attacker tries
WRONG = 0.1  # margin of a wrong class beyond which no more is gained
WEIGHTS = (10.0, 100.0)  # of the disagreement against that margin
IMAGES = 256  # that are worth the time
ENOUGH = 10  # successful attacks below which nothing is said


def detector(ensemble: Ensemble, x: Tensor, y: Tensor, threat: Threat, *, seed: int) -> dict[str, Any] | None:
    """``clean_mean`` and ``clean_variance`` of the disagreement on clean images, ``auroc`` by attacker (None: too few of its attacks
    succeed), ``succeeded`` by attacker, ``n`` images; None where an answer to a clean image is no number.

    Args:
        x: [n, C, H, W] in [0, 1], where the ensemble is; ``IMAGES`` are enough.
        y: [n] labels.
    """
    with judged(ensemble):
        with torch.no_grad():
            clean = ensemble.decide(x)[1]
        if not bool(clean.isfinite().all()):
            return None
        attacked = {
            "one": _one(ensemble, x, y, threat, seed),
            "all": _all(ensemble, x, y, threat, seed),
            "adaptive": _adaptive(ensemble, x, y, threat, seed),
        }
    enough = {name: scores for name, scores in attacked.items() if len(scores) >= ENOUGH}
    return {
        "threat": str(threat),
        "steps": STEPS,
        "n": len(x),
        "clean_mean": clean.mean().item(),
        "clean_variance": clean.var(correction=0).item(),
        "auroc": {name: auroc(enough[name], clean) if name in enough else None for name in attacked},
        "succeeded": {name: len(scores) for name, scores in attacked.items()},
    }


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive score lies above a negative one; equal ones count half (Mann and Whitney, 1947)."""
    above = (positive[:, None] > negative[None]).double() + 0.5 * (positive[:, None] == negative[None]).double()
    return above.mean().item()


def _one(ensemble: Ensemble, x: Tensor, y: Tensor, threat: Threat, seed: int) -> Tensor:
    member = ensemble.members[0]
    by = faster(member, x)
    adv = _pgd(lambda z: cross_entropy(by(z), y), x, threat, seed, "one")
    with torch.no_grad():
        fooled = (member(x).argmax(1) == y) & (member(adv).argmax(1) != y)
        return ensemble.decide(adv)[1][fooled]


def _all(ensemble: Ensemble, x: Tensor, y: Tensor, threat: Threat, seed: int) -> Tensor:
    fooled, scores = _judged(ensemble, x, _on_all(ensemble, x, y, threat, seed), y)
    return scores[fooled]


def _adaptive(ensemble: Ensemble, x: Tensor, y: Tensor, threat: Threat, seed: int) -> Tensor:
    fooled, least = _judged(ensemble, x, _on_all(ensemble, x, y, threat, seed), y)
    by = Ensemble([faster(member, x) for member in ensemble.members]).eval()
    with torch.no_grad():
        others = ensemble(x).scatter(1, y[:, None], -torch.inf)
        likely = others.topk(min(TARGETS, others.shape[1] - 1), dim=1).indices

    def towards(z: Tensor, target: Tensor) -> Tensor:
        return -torch.stack([cross_entropy(member(z), target) for member in by.members]).sum(0)

    def quietly(z: Tensor, weight: float) -> Tensor:
        logits, apart = by.decide(z)
        return margin(logits, y).clamp(max=WRONG) - weight * apart

    tried = [(lambda z, t=target: towards(z, t), STEPS) for target in likely.unbind(1)]
    tried += [(lambda z, w=weight: quietly(z, w), LONG) for weight in WEIGHTS]
    for place, (loss, steps) in enumerate(tried):
        found, scores = _judged(ensemble, x, _pgd(loss, x, threat, seed, f"adaptive-{place}", steps=steps), y)
        better = found & (~fooled | (scores < least))
        least, fooled = torch.where(better, scores, least), fooled | found
    return least[fooled]


def _on_all(ensemble: Ensemble, x: Tensor, y: Tensor, threat: Threat, seed: int) -> Tensor:
    by = faster(ensemble, x)
    return _pgd(lambda z: cross_entropy(by(z), y), x, threat, seed, "all")


def _judged(ensemble: Ensemble, x: Tensor, adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each attack succeeded, and the disagreement about it."""
    with torch.no_grad():
        logits, apart = ensemble.decide(adv)
        return (ensemble(x).argmax(1) == y) & (logits.argmax(1) != y), apart


def _pgd(
    loss: Callable[[Tensor], Tensor], x: Tensor, threat: Threat, seed: int, name: str, *, steps: int = STEPS
) -> Tensor:
    rng = generator(seed, "detector", name, device=x.device)
    return run(Attack(norm=threat.norm, eps=threat.eps, steps=steps), loss, x, rng=rng)
