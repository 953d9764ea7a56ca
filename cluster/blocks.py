"""The blocks of an evaluation on disk and on workers.

driver                                   worker (actor), or this process
for every block without a file:
  submit(model, pixels, labels)  ------> attack it, witnesses          draws depend on (seed, attack, block) only
  block-0007.parquet  <----------------- columns of the block
a dead worker's block is submitted again; a killed driver finds the finished files and goes on
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agents.checkpoint import write
from cluster.block import Outcome, evaluate_block
from cluster.errors import DataError, Infrastructure
from cluster.named_attacks import Block
from trainers.config import Threat

BROKEN = "broken:"  # prefix of the columns that say whether an attack broke the example
DEATHS = 3  # of workers, after which the block or the machine is at fault


@dataclass(frozen=True, slots=True)
class Job:
    """One block to evaluate."""

    path: Path
    start: int
    stop: int
    index: int
    agent: str
    threat: Threat


def attack_block(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    index: int,
    seed: int,
    start: int,
    attacks: Sequence[str],
    threat: Threat,
    sources: Mapping[str, nn.Module],
) -> tuple[bytes, dict[str, float]]:
    """Evaluate one block; its file as bytes, and seconds per attack."""
    outcome = evaluate_block(model, Block(x, y, index, seed), attacks=attacks, threat=threat, sources=sources)
    return to_parquet(outcome, start), outcome.seconds


def to_parquet(outcome: Outcome, start: int) -> bytes:
    """One row per example."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "index": pa.array(range(start, start + len(outcome.label)), pa.int64()),
        "label": outcome.label.numpy(),
        "clean_prediction": outcome.clean_prediction.numpy(),
        **{f"{BROKEN}{name}": flags.numpy() for name, flags in outcome.broken.items()},
        "distance": outcome.distance.numpy(),
        "margin": outcome.margin.numpy(),
        "witness_attack": pa.array(outcome.witness_attack, pa.string()),
        "witness_type": pa.array(outcome.witness_type, pa.string()),
        "witness": pa.array(outcome.witness, pa.binary()),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def read(path: Path) -> dict[str, Any]:
    """The columns of a block file: tensors, and lists for the witness.

    Raises:
        DataError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()))
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"block {path} cannot be read: {error}. Remove it and repeat the same evaluate command"
        ) from error
    lists = {"witness", "witness_type", "witness_attack"}
    return {
        name: table[name].to_pylist() if name in lists else torch.from_numpy(table[name].to_numpy().copy())
        for name in table.column_names
    }


def run_blocks(
    jobs: Sequence[Job],
    models: Mapping[str, nn.Module],
    images: Callable[[int, int], tuple[Tensor, Tensor]],
    *,
    seed: int,
    attacks: Sequence[str],
    sources: Mapping[str, nn.Module],
    workers: int,
    done: Callable[[Job, dict[str, float]], None],
) -> None:
    """Evaluate every job and write its file; ``workers`` actors, or this process for 0."""

    def options(job: Job) -> dict[str, Any]:
        return {"index": job.index, "seed": seed, "start": job.start, "attacks": list(attacks), "threat": job.threat}

    if workers == 0:
        for job in jobs:
            device = next((p.device for p in models[job.agent].parameters()), torch.device("cpu"))
            x, y = (a.to(device) for a in images(job.start, job.stop))
            content, seconds = attack_block(models[job.agent], x, y, sources=sources, **options(job))
            write(job.path, content)
            done(job, seconds)
        return
    with _pool(workers, models, sources) as pool:
        pool.run(jobs, images, options, done)


@contextmanager
def _pool(workers: int, models: Mapping[str, nn.Module], sources: Mapping[str, nn.Module]) -> Iterator[Any]:
    from cluster import session
    from cluster.eval_workers import Pool

    with session.connected() as runtime_env:
        pool = Pool(workers, dict(models), dict(sources), runtime_env)
        try:
            yield pool
        finally:
            pool.close()


def gave_up(job: Job, error: Exception) -> Infrastructure:
    """What is raised when workers die again and again."""
    return Infrastructure(
        f"{DEATHS} workers died over block {job.index} of {job.agent} under {job.threat} (last: {str(error).splitlines()[0]}). Finished blocks are "
        "kept; repeat the same command to go on, or use --workers 0 to see the error in this process"
    )
