"""The run's images: decoded into the cache of this node with a progress bar, and brought to nodes that lack them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparring.agents.spec import Facts
from sparring.cluster.errors import DataError, Infrastructure
from sparring.cluster.runs import places
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.terminal import is_terminal
from sparring.trainers import datasets
from sparring.trainers.config import DataConfig
from sparring.trainers.datasets import Prepared
from sparring.trainers.datasets.cache import silent
from sparring.trainers.encoded.decoding import Unanswered

SLOW = 2000  # images; fewer are decoded before a bar could be read


def prepare(config: DataConfig, *, quiet: bool = False, notice: Callable[[str], None] | None = None) -> Prepared:
    """Decode the images unless the cache has them.

    Raises:
        DataError: unknown data set, missing or damaged files; the text says what is expected where.
        Infrastructure: a URI did not answer.
    """

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    told = notice or (say if not quiet else lambda text: None)
    bar = _Bar()
    try:
        return datasets.prepare(config, progress=silent if quiet else bar, notice=told)
    except Unanswered as error:
        raise Infrastructure(str(error)) from error
    except OSError as error:
        cache, file = Path(config.cache).expanduser(), Path(str(error.filename))
        if error.filename and (file.is_relative_to(cache) or cache.is_relative_to(file)):
            raise DataError(
                f"decoded images cannot be kept in {cache} ({error.strerror}); choose another folder: --data.cache DIR"
            ) from error
        uri = places.uri_of(config.root)
        if uri is not None and error.errno is None:
            raise places.unanswered(uri, error) from error
        raise DataError(str(error)) from error
    except ValueError as error:
        raise DataError(str(error)) from error
    finally:
        bar.close()


class _Bar:
    """A progress bar that appears when there is something slow to show; plain lines where there is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._said: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if total < SLOW:
            return
        if not is_terminal():
            fifth = 5 * done // total
            if fifth > self._said.get(what, -1):
                self._said[what] = fifth
                print(f"decoding {what}, once: {done:,} of {total:,} images", file=sys.stderr, flush=True)
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(f"decoding {what}, once", total=total)
        self._bar.update(self._tasks[what], completed=done)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


def hashes(images: Prepared, config: DataConfig, *, seed: int) -> dict[str, str]:
    """What env.json notes of the images of a run: their place in the cache, sha256 of train, held-out, test and extra images."""
    dataset, extra = images.load(), images.load_extra()
    train, held_out = dataset.held_out(config.validation, seed=seed, fraction=config.fraction)
    splits = {"train": train, "held_out": held_out, "test": dataset.test, "extra": extra}
    return {"cache": images.key} | {name: split.sha256 for name, split in splits.items() if split is not None}


def agreed(facts: dict[str, Facts]) -> int:
    """The run's length, on which all agents agree as they do on the data.

    Raises:
        DataError: they see different images.
    """
    if len({f.data_sha256 for f in facts.values()}) > 1:
        seen = ", ".join(f"{a} on {f.host}: {f.data_sha256[:12]}" for a, f in facts.items())
        raise DataError(f"the agents do not see the same training images ({seen}); give every node the same data")
    return next(iter(facts.values())).total_steps


def check_same(folder: RunFolder, t: int, sha256: str) -> None:
    """Refuse to go on with other images than those until step ``t``.

    Raises:
        DataError: they differ.
    """
    before = folder.checkpoints.manifest(t)["origin"].get("data", sha256)
    if before != sha256:
        raise DataError(
            f"{folder} was trained on other images until step {t} (sha256 {before[:12]}) than are found now ({sha256[:12]}). Bring "
            "the same images back (--data.root), or start a new run"
        )


def missing(images: Prepared) -> list[str]:
    """Cache entries that this node lacks or has damaged."""
    from sparring.trainers.datasets import cache

    return [key for key in images.keys if cache.problems(Path(images.cache) / key)]


def receive(images: Prepared, key: str, files: dict[str, object]) -> None:
    """Write an entry that came through the object store into this node's cache."""
    from sparring.trainers.datasets import cache

    cache.unpack(Path(images.cache), key, files)  # type: ignore[arg-type]
