"""AutoAttack: attacks without a parameter to choose, one after the other on what still resists.

    standard    APGD on the cross entropy, APGD and FAB on nine targets, Square
    plus        with five restarts, on the DLR loss too, FAB also without targets
    rand        APGD with gradients averaged over 20 passes, for networks that answer at random

Source: Croce and Hein, arXiv 2003.01690; for l1: Croce and Hein, arXiv 2103.01208. The same random starts, the same steps and so
the same verdicts as the authors' code (pyautoattack 0.2) called on these images with this seed; what differs is how often the network
is asked, and stands at the top of each attack's file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from sparring.trainers.autoattack.apgd import Apgd
from sparring.trainers.autoattack.fab import Fab
from sparring.trainers.autoattack.passes import Passes
from sparring.trainers.autoattack.square import Square
from sparring.trainers.config import Threat

__all__ = ["VERSIONS", "Apgd", "Fab", "Passes", "Square", "autoattack", "stages"]

Stage = Callable[[Passes, Tensor, Tensor, Generator], Tensor]
VERSIONS = ("standard", "plus", "rand")
TARGETS = 9
DLR_CLASSES, TARGETED_DLR_CLASSES = 3, 4  # the DLR loss compares three logits, the targeted one four
EOT = 20


def stages(version: str, threat: Threat, classes: int) -> Mapping[str, Stage]:
    """The attacks of a version by their names, in order.

    Args:
        classes: how many the network tells apart: with fewer than 10 there are fewer targets, with fewer than 4 no DLR loss, and the
            result is not comparable with published ones.

    Raises:
        ValueError: no such version.
    """
    if version not in VERSIONS:
        raise ValueError(f"AutoAttack's version {version!r} is not allowed; use one of: {', '.join(VERSIONS)}")
    l1, targets = threat.norm == "l1" and version == "standard", min(TARGETS, classes - 1)
    restarts = 5 if version == "plus" or l1 else 1
    eot = EOT if version == "rand" else 1
    dlr_targets = min(5, targets) if l1 else targets
    known: dict[str, Stage] = {
        "apgd-ce": Apgd(threat=threat, restarts=restarts, eot=eot, radii=l1),
        "apgd-dlr": Apgd(threat=threat, loss="dlr", restarts=restarts, eot=eot),
        "fab": Fab(threat=threat, restarts=5),
        "square": Square(threat=threat),
        "apgd-t": Apgd(threat=threat, loss="dlr-targeted", targets=dlr_targets, radii=l1),
        "fab-t": Fab(threat=threat, targets=targets),
    }
    order = {
        "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
        "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
        "rand": ("apgd-ce", "apgd-dlr"),
    }[version]
    lacking = {"apgd-dlr"} if classes < DLR_CLASSES else set[str]()
    lacking |= {"apgd-t"} if classes < TARGETED_DLR_CLASSES else set()
    return {name: known[name] for name in order if name not in lacking}


def autoattack(
    network: Callable[[Tensor], Tensor] | Passes,
    x: Tensor,
    y: Tensor,
    wrong: Callable[[Tensor], Tensor],
    *,
    threat: Threat,
    seed: int,
    version: str = "standard",
) -> Tensor:
    """Examples [n, C, H, W] in ball and box: a misclassified one where one was found, else the image.

    Args:
        network: images [n, C, H, W] in [0, 1] -> logits [n, K], differentiable; may be a faster form of the one that is judged.
        x: [n, C, H, W] float32 in [0, 1].
        y: [n] labels.
        wrong: [n, C, H, W] -> [n] bool, the judge: what it does not call wrong breaks nothing, and is attacked further.
        seed: of the random draws, begun anew for each attack.
        version: ``standard``, ``plus`` or ``rand``.

    Raises:
        ValueError: no such version.
    """
    passes = network if isinstance(network, Passes) else Passes(network)
    adv, broken = x.clone(), wrong(x)
    for stage in stages(version, threat, passes.logits(x[:1]).shape[1]).values():
        left = (~broken).nonzero().squeeze(1)
        if not len(left):
            break
        found = adv.clone()
        found[left] = stage(passes, x[left], y[left], torch.Generator().manual_seed(seed))
        broken = broken | wrong(found)
        adv[broken] = found[broken]
    return adv
