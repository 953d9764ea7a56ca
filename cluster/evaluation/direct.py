"""A network evaluated in this process, without any file: the numbers that ``evaluation.py`` writes down."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from sparring.agents.robustness import fitting_threads
from sparring.cluster.errors import UsageError
from sparring.cluster.evaluation import attacking, named_attacks
from sparring.cluster.evaluation.attacking import Attacking, Job, Seconds, jobs_of, read_all
from sparring.cluster.evaluation.masking import flagged
from sparring.cluster.evaluation.results import Result, summarise
from sparring.cluster.evaluation.subjects import check, pixels
from sparring.trainers.config import Threat
from sparring.trainers.data import Split

T = TypeVar("T")
BLOCK = 64  # examples; part of an evaluation's settings, since AutoAttack draws for a whole block
SMALL, OF_SMALL = (
    1024,
    128,
)  # values of an image up to which a network's time is mostly overhead, and examples in a block of such


def parse_attacks(names: Sequence[str], threat: Threat) -> list[str]:
    """The names without ``clean``, each checked.

    Raises:
        UsageError: no such attack.
    """
    chosen = [name for name in once([canonical(name) for name in names]) if name != "clean"]
    try:
        for name in chosen:
            named_attacks.parse(name, threat)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return chosen


def canonical(name: str) -> str:
    """An attack's name as people write it, ``PGD20``, ``pgd-20``, ``aa``, as ours: ``pgd-20``, ``autoattack``; what it does not know
    stays as it is."""
    plain = name.strip()
    if plain.startswith("transfer:"):
        return plain
    plain = plain.lower().replace("_", "-")
    plain = {"aa": "autoattack", "auto-attack": "autoattack", "standard": "autoattack", "natural": "clean"}.get(
        plain, plain
    )
    return re.sub(r"^((?:margin-|scaled-)?pgd|square)(\d)", r"\1-\2", plain)


def listed(names: Sequence[str] | str) -> list[str]:
    """``"clean, pgd-20"`` and ``["clean", "pgd-20"]`` mean the same."""
    return [n.strip() for n in names.split(",") if n.strip()] if isinstance(names, str) else list(names)


def once(values: Sequence[T]) -> tuple[T, ...]:
    """Equal values count once, in the order in which they came."""
    return tuple(dict.fromkeys(values))


def block_for(split: Split) -> int:
    """Examples per block where nobody says how many."""
    return OF_SMALL if split.images[0].numel() <= SMALL else BLOCK


def evaluate_model(
    model: nn.Module,
    split: Split,
    *,
    attacks: Sequence[str],
    threats: Sequence[Threat],
    seed: int = 0,
    block: int | None = None,
    masking: int = 0,
    workers: int = 0,
) -> Result:
    """Evaluate ``model`` (images in [0, 1] -> logits) on ``split``; its mode and gradients stay as they were.

    Args:
        block: examples per block; default :func:`block_for`.
        workers: Ray actors that attack at the same time; 0: this process. The numbers do not depend on it.

    Raises:
        UsageError: unknown attack.
        ValueError: the model returns probabilities or the wrong shape.
    """
    chosen = parse_attacks(attacks, threats[0])
    classes = check(model, split)
    columns = {}
    for threat in once(threats):
        how = Attacking({"model": model}, {}, tuple(chosen), seed)
        columns[str(threat)] = _columns(how, split, threat, block or block_for(split), workers)
    notes = named_attacks.left_out(chosen, once(threats), tuple(split.images.shape[1:3]))
    result = summarise(
        columns,
        attacks=chosen,
        with_clean="clean" in map(canonical, attacks),
        classes=classes,
        notes=notes,
    )
    return flagged(result, model, split, threats[0], seed=seed, masking=masking if chosen else 0)


def _columns(how: Attacking, split: Split, threat: Threat, block: int, workers: int) -> dict[str, Tensor]:
    """Per example, what ``summarise`` counts; the blocks' files lie in a folder that is removed."""
    with tempfile.TemporaryDirectory() as scratch, fitting_threads(*how.models.values()):
        jobs = jobs_of(Path(scratch), list(how.models), [threat], len(split), block)

        def images(job: Job) -> tuple[Tensor, Tensor]:
            return pixels(split, job.start, job.stop)

        if workers == 0:
            attacking.run(how, jobs, images, _unsaid)
        else:
            from sparring.cluster.evaluation import workers as actors  # late: this process alone needs no ray

            actors.run(how, jobs, images, _unsaid, workers=min(workers, len(jobs)))
        return read_all(jobs)


def _unsaid(job: Job, seconds: Seconds) -> None:
    """Nobody has asked to be told."""
