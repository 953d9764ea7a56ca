"""One block of an evaluation: which examples each attack breaks, and for every broken one a witness that anyone can check.

evaluate_block ---> Outcome ---> to_parquet: one row per example ---> read, by whoever counts or checks
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.agents.cascade import forms
from sparring.agents.robustness import check_finite, judged, predicted
from sparring.cluster.errors import DataError
from sparring.cluster.evaluation.named_attacks import Block, Crafter, follows, parse
from sparring.trainers.attacks import BALLS
from sparring.trainers.columns import numbers, tensor, texts
from sparring.trainers.config import Threat
from sparring.trainers.losses import margin

BROKEN = "broken:"  # prefix of the columns that say whether an attack broke the example
SLACK = 1e-5  # relative room for float32 in sums of distances


@dataclass(slots=True)
class Outcome:
    """What happened to the examples of one block, as plain tensors and bytes."""

    label: Tensor  # [n] int64
    clean_prediction: Tensor  # [n] int64
    broken: dict[str, Tensor]  # attack -> [n] bool: right when clean, wrong after the attack
    witness: list[bytes | None]  # pixels of the first attack's example that broke it, [C, H, W] in row order
    witness_type: list[str | None]  # uint8: survives rounding to 8 bits; float32
    witness_attack: list[str | None]
    distance: Tensor  # [n] float32, of the witness in the norm; NaN without one
    margin: Tensor  # [n] float32: largest wrong logit minus the right one, on the witness, else on the clean image
    seconds: dict[str, float] = field(default_factory=dict)


def evaluate_block(
    model: nn.Module,
    block: Block,
    *,
    attacks: Sequence[str],
    threat: Threat,
    sources: Mapping[str, nn.Module] | None = None,
) -> Outcome:
    """Attack one block with every named attack. Each attack sees all examples, so its number is its own.

    An example counts as broken if its witness, in 8 bits where that suffices, is wrong in this very block. The model's modes and
    gradients come back as they were; random draws depend on (seed, attack, block) only.
    """
    with judged(model):
        with torch.no_grad():
            clean = model(block.x)
            classes = predicted(model, block.x)
        check_finite(clean, of=f" of block {block.index}")
        followed = forms(model, block.x) if attacks else ()
        right, examples = classes == block.y, dict[str, Tensor]()
        outcome = Outcome(
            block.y.cpu(),
            classes.cpu(),
            {},
            [None] * len(block.y),
            [None] * len(block.y),
            [None] * len(block.y),
            torch.full((len(block.y),), torch.nan),
            margin(clean, block.y).float().cpu(),
        )
        for name in attacks:
            started = time.perf_counter()
            adv = _crafted(parse(name, threat, sources), model, block, followed if follows(name) else followed[:1])
            with torch.no_grad():
                check_finite(model(adv), of=f" of block {block.index} after {name}")
                wrong = right & (predicted(model, adv) != block.y)
            wrong &= inside(adv, block.x, threat)  # an example outside ball or box proves nothing
            outcome.broken[name], examples[name] = wrong.cpu(), adv
            outcome.seconds[name] = time.perf_counter() - started
        _settle(model, block, examples, threat, outcome)
    return outcome


def _crafted(craft: Crafter, model: nn.Module, block: Block, followed: Sequence[nn.Module]) -> Tensor:
    """An attack that follows each of several forms of the network, the later ones where the earlier ones have not broken it."""
    adv = craft(model, block, followed[0])
    for form in followed[1:]:
        with torch.no_grad():
            left = predicted(model, adv) == block.y
        if not bool(left.any()):
            break
        adv = adv.clone()
        adv[left] = craft(model, replace(block, x=block.x[left], y=block.y[left]), form)
    return adv


def inside(adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Per example, whether it lies in the ball around ``x`` (float32 rounding apart) and in the box."""
    near = BALLS[threat.norm].length(adv.float() - x.float()) <= threat.eps * (1 + SLACK) + 1e-6
    flat = adv.flatten(1)
    return near & (flat.amin(1) >= 0) & (flat.amax(1) <= 1)


def to_8_bits(adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The nearest multiples of 1/255, for linf those within the ball."""
    k = (adv * 255).round()
    if threat.norm == "linf":
        k = k.clamp(((x - threat.eps) * 255 - 1e-4).ceil(), ((x + threat.eps) * 255 + 1e-4).floor())
    return k.clamp(0, 255) / 255


def _settle(model: nn.Module, block: Block, examples: Mapping[str, Tensor], threat: Threat, outcome: Outcome) -> None:
    """Judge once more, in this block as ``verify`` will: what is wrong in another batch alone breaks nothing.

    Of examples on the boundary every third changes sides with the batch that it is judged in: sums are rounded otherwise. Where
    the first attack's example does not hold, the next one's that broke the same image is tried.
    """
    while True:
        by = [next((a for a in examples if outcome.broken[a][i]), None) for i in range(len(block.y))]
        has = torch.tensor([name is not None for name in by], device=block.x.device)
        first = torch.stack([block.x[i] if a is None else examples[a][i] for i, a in enumerate(by)])
        rounded = to_8_bits(first, block.x, threat)
        with torch.no_grad():
            survives = (predicted(model, _shown(has, rounded, block.x)) != block.y) & inside(rounded, block.x, threat)
            kept = _shown(has, _shown(survives, rounded, first), block.x)
            logits = model(kept)
            holds = has & (predicted(model, kept) != block.y)
        fallen = (has & ~holds).nonzero().flatten().tolist()
        for i in fallen:
            outcome.broken[str(by[i])][i] = False
        if not fallen:
            break
    margins = margin(logits, block.y).float().cpu()
    distances = BALLS[threat.norm].length(kept - block.x).float().cpu()
    for i in holds.nonzero().flatten().tolist():
        outcome.witness_attack[i] = by[i]
        outcome.distance[i], outcome.margin[i] = distances[i], margins[i]
        pixels = (kept[i] * 255).round().to(torch.uint8) if survives[i] else kept[i].float()
        outcome.witness[i] = pixels.cpu().numpy().tobytes()
        outcome.witness_type[i] = "uint8" if survives[i] else "float32"


def _shown(which: Tensor, these: Tensor, others: Tensor) -> Tensor:
    return torch.where(which.view(-1, 1, 1, 1), these, others)


def to_parquet(outcome: Outcome, start: int) -> bytes:
    """One row per example."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "index": numbers(np.arange(start, start + len(outcome.label))),
        "label": numbers(outcome.label.numpy()),
        "clean_prediction": numbers(outcome.clean_prediction.numpy()),
        **{f"{BROKEN}{name}": numbers(flags.numpy()) for name, flags in outcome.broken.items()},
        "distance": numbers(outcome.distance.numpy()),
        "margin": numbers(outcome.margin.numpy()),
        "witness_attack": texts(outcome.witness_attack, pa.string()),
        "witness_type": texts(outcome.witness_type, pa.string()),
        "witness": texts(outcome.witness, pa.binary()),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(list(columns.values()), list(columns)), buffer)
    return buffer.getvalue()


LISTS = {"witness": "binary", "witness_type": "string", "witness_attack": "string"}
NUMBERS = {"index": "int64", "label": "int64", "clean_prediction": "int64", "distance": "float", "margin": "float"}


def read(path: Path, *, rows: int | None = None) -> dict[str, Any]:
    """The columns of a block file: tensors, and lists for the witness.

    Args:
        rows: how many there must be; counted in the footer, before any is read.

    Raises:
        DataError: it cannot be read, or has another form; names the column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(path.read_bytes()))
        _check(file, path, rows)
        table = file.read()
        wanted = [name for name in table.column_names if name not in LISTS]
        for name in wanted:
            if table[name].null_count:
                raise DataError(f"block {path}: column {name} has {table[name].null_count} rows without a value")
        return {name: tensor(table[name]) for name in wanted} | {name: table[name].to_pylist() for name in LISTS}
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"block {path} cannot be read: {error}. Remove it and repeat the same evaluate command"
        ) from error


def _check(file: Any, path: Path, rows: int | None) -> None:
    """Refuse a file of another form, from its footer and schema alone."""
    if rows is not None and file.metadata.num_rows != rows:
        raise DataError(f"block {path} has {file.metadata.num_rows} rows; expected {rows}")
    types = {field.name: str(field.type) for field in file.schema_arrow}
    wanted = NUMBERS | LISTS | {name: "bool" for name in types if name.startswith(BROKEN)}
    for name, kind in wanted.items():
        if types.get(name) != kind:
            seen = f"is of {types[name]}" if name in types else "is missing"
            raise DataError(f"block {path}: column {name} {seen}; expected {kind}")
