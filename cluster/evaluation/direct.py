"""A network evaluated in this process, without any file: the numbers that ``evaluation.py`` writes down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from sparring.agents.robustness import fitting_threads
from sparring.cluster.errors import UsageError
from sparring.cluster.evaluation import named_attacks
from sparring.cluster.evaluation.block import BROKEN, evaluate_block
from sparring.cluster.evaluation.masking import flagged
from sparring.cluster.evaluation.named_attacks import Block
from sparring.cluster.evaluation.results import Result, summarise
from sparring.cluster.evaluation.subjects import check, device_of, pixels
from sparring.trainers.config import Threat
from sparring.trainers.data import Split

T = TypeVar("T")
BLOCK = 64  # examples; part of an evaluation's settings, since the authors' code draws for a whole block


def parse_attacks(names: Sequence[str], threat: Threat) -> list[str]:
    """The names without ``clean``, each checked.

    Raises:
        UsageError: no such attack.
    """
    chosen = [name for name in once([name.strip() for name in names]) if name != "clean"]
    try:
        for name in chosen:
            named_attacks.parse(name, threat)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return chosen


def once(values: Sequence[T]) -> tuple[T, ...]:
    """Equal values count once, in the order in which they came."""
    return tuple(dict.fromkeys(values))


def evaluate_model(
    model: nn.Module,
    split: Split,
    *,
    attacks: Sequence[str],
    threats: Sequence[Threat],
    seed: int = 0,
    block: int = BLOCK,
    masking: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Result:
    """Evaluate ``model`` (images in [0, 1] -> logits) on ``split``; its mode and gradients stay as they were.

    Raises:
        UsageError: unknown attack.
        ValueError: the model returns probabilities or the wrong shape.
    """
    device = device_of(model)
    chosen = parse_attacks(attacks, threats[0])
    classes = check(model, split)
    columns: dict[str, dict[str, Tensor]] = {}
    for threat in once(threats):
        started, parts = time.perf_counter(), []
        for index, start in enumerate(range(0, len(split), block)):
            x, y = (a.to(device) for a in pixels(split, start, start + block))
            with fitting_threads(model):
                here = Block(x, y, index, seed)
                out = evaluate_block(model, here, attacks=chosen, threat=threat)
            flags = {f"{BROKEN}{name}": broken for name, broken in out.broken.items()}
            parts.append({"label": out.label, "clean_prediction": out.clean_prediction, **flags})
        columns[str(threat)] = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
        progress(f"{threat} done ({time.perf_counter() - started:.1f} s)")
    notes = named_attacks.left_out(chosen, once(threats), tuple(split.images.shape[1:3]))
    result = summarise(columns, attacks=chosen, with_clean="clean" in attacks, classes=classes, notes=notes)
    return flagged(result, model, split, threats[0], seed=seed, masking=masking if chosen else 0)
