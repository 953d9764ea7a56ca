"""The run's images: decoded into the cache of this node with a progress bar, and brought to nodes that lack them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from cluster.errors import DataError
from trainers import datasets
from trainers.config import DataConfig
from trainers.datasets import Prepared

SLOW = 2000  # images; fewer are decoded before a bar could be read


def prepare(config: DataConfig, *, quiet: bool = False, notice: Callable[[str], None] | None = None) -> Prepared:
    """Decode the images unless the cache has them.

    Raises:
        DataError: unknown data set, missing or damaged files; the text says what is expected where.
    """

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    told = notice or (say if not quiet else lambda text: None)
    try:
        if quiet:
            return datasets.prepare(config, notice=told)
        return _with_bar(config, told)
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error


def _with_bar(config: DataConfig, notice: Callable[[str], None]) -> Prepared:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if total >= SLOW:
                if what not in tasks:
                    tasks[what] = bar.add_task(f"decoding {what}, once", total=total)
                bar.update(tasks[what], completed=done)

        return datasets.prepare(config, progress=progress, notice=notice)


def missing(images: Prepared) -> list[str]:
    """Cache entries that this node lacks or has damaged."""
    from trainers.datasets import cache

    return [key for key in images.keys if cache.problems(Path(images.cache) / key)]


def receive(images: Prepared, key: str, files: dict[str, object]) -> None:
    """Write an entry that came through the object store into this node's cache."""
    from trainers.datasets import cache

    cache.unpack(Path(images.cache), key, files)  # type: ignore[arg-type]
