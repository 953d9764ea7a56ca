"""``sparring data check``: each image once through the decoder of training, in processes; what was seen is kept, so that it goes on.

opened -> Record (blocks not seen yet) -> workers: read, sha256, decode -> Record -> known_bad for runs, and a summary
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np

from sparring.cluster.errors import DataError, Infrastructure
from sparring.cluster.machines import cores
from sparring.cluster.runs import places
from sparring.trainers import encoded
from sparring.trainers.config import DataConfig
from sparring.trainers.encoded import checked
from sparring.trainers.encoded.checked import Record

EVERY = 10.0  # seconds between two lines of progress
SHOWN = 20  # bad images, and duplicates, that are shown to a person
Seen = tuple[str, range, np.ndarray, list[tuple[int, str]]]


def opened(config: DataConfig, say: Callable[[str], None] = lambda text: None) -> encoded.EncodedDataset:
    """The data set of a configuration, whose root may be a URI.

    Raises:
        DataError: it is not there, or its archives or labels cannot be used.
        Infrastructure: a URI did not answer.
    """
    uri = places.uri_of(config.root)
    try:
        with places.asking(uri) if uri else nullcontext():
            return encoded.opened(config, notice=say)
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error


def check(
    config: DataConfig,
    *,
    workers: int | None = None,
    again: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Decode every image that was not decoded before, and sum up.

    Args:
        workers: processes; default one for each core.
        again: also those that were seen and whose files are as they were.

    Raises:
        DataError: as :func:`opened`.
        Infrastructure: a process died; the same command goes on.
    """
    started, dataset = time.monotonic(), opened(config, say)
    record = Record(dataset, again=again)
    left = [] if record.complete else list(record.left())
    total = sum(len(rows) for _, rows in left)
    done, bad, said = 0, 0, started
    for split, rows, records, wrong in _looked(dataset, left, workers or cores.usable()):
        for one in record.add(split, rows, records, wrong):
            bad += 1
            if bad <= SHOWN:
                say(f"bad: {one.name}: {one.reason}")
        done += len(rows)
        if time.monotonic() - said >= EVERY or (done == total and total):
            said = time.monotonic()
            say(f"looked at {done:,} of {total:,} images, {done / (said - started):,.0f}/s; {bad} bad")
    found = record.close()
    return {
        "data": config.name,
        "root": config.root,
        "images": {split: len(images) for split, images in dataset.splits.items()},
        "looked_at": done,
        "bad": [asdict(one) for one in found],
        "classes": _classes(dataset),
        "sizes": _sizes(record),
        "duplicates": _duplicates(record),
        "sha256": _contents(record),
        "seconds": round(time.monotonic() - started, 1),
    }


_images: encoded.EncodedDataset | None = None  # of a worker's process


def _begin(dataset: encoded.EncodedDataset) -> None:
    global _images
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's own to answer
    _images = dataset


def _look(split: str, rows: range) -> Seen:
    assert _images is not None
    return split, rows, *checked.look(_images.splits[split], rows)


def _looked(dataset: encoded.EncodedDataset, left: list[tuple[str, range]], workers: int) -> Iterator[Seen]:
    """What workers saw of each block, in the order in which they end."""
    if not left:
        return
    fresh = multiprocessing.get_context("spawn")  # clients of object stores do not survive a fork
    blocks = iter(left)
    pool = ProcessPoolExecutor(min(workers, len(left)), fresh, _begin, (dataset,))
    try:
        running = {pool.submit(_look, *block) for block in islice(blocks, 2 * workers)}
        while running:
            ended: set[Future[Seen]]
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                yield future.result()
            running |= {pool.submit(_look, *block) for block in islice(blocks, len(ended))}
    except BrokenProcessPool as error:
        raise Infrastructure(
            "a process that decoded images died, as the system ends one when memory is short; the same command goes on where it was, "
            "with --workers 1 it needs least"
        ) from error
    except OSError as error:
        raise Infrastructure(
            f"images could not be read: {places.line(error)}; the same command goes on where it was"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _classes(dataset: encoded.EncodedDataset) -> dict[str, Any]:
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    few, many = int(counts.argmin()), int(counts.argmax())
    return {
        "count": len(dataset.classes),
        "fewest": {"class": dataset.classes[few], "images": int(counts[few])},
        "most": {"class": dataset.classes[many], "images": int(counts[many])},
    }


def _sizes(record: Record) -> dict[str, Any]:
    """Of the good images: width and height of the smallest, the middle one by pixels, and the largest; None without any."""
    good = np.concatenate([r[r["state"] == checked.GOOD][["width", "height"]] for r in record.splits.values()])
    pixels = good["width"].astype(np.int64) * good["height"]
    order = np.argsort(pixels, kind="stable")
    at = {"smallest": 0, "median": len(order) // 2, "largest": -1}
    shown = {what: [int(v) for v in good[order[i]]] if len(order) else None for what, i in at.items()}
    return {**shown, "different": len(np.unique(good))}


def _duplicates(record: Record) -> dict[str, Any]:
    """Files that are there more than once, by their sha256: how many too many in a split, and which of test are in train too."""
    rows = {split: np.flatnonzero(records["state"] == checked.GOOD) for split, records in record.splits.items()}
    hashes = {
        split: np.ascontiguousarray(record.splits[split]["sha256"][at]).view("S32").ravel()
        for split, at in rows.items()
    }
    common, train, test = np.intersect1d(hashes["train"], hashes["test"], return_indices=True)
    names = [
        [record.dataset.train.name(rows["train"][a]), record.dataset.test.name(rows["test"][b])]
        for a, b in zip(train[:SHOWN], test[:SHOWN], strict=True)
    ]
    repeated = {split: len(h) - len(np.unique(h)) for split, h in hashes.items()}
    return {**repeated, "across": len(common), "names": names}


def _contents(record: Record) -> dict[str, str]:
    """A hash of every byte of a split's images, in their order, and of their labels."""
    found = {}
    for split, records in record.splits.items():
        h = hashlib.sha256(np.ascontiguousarray(records["sha256"]).data)
        h.update(np.ascontiguousarray(record.dataset.splits[split].labels).data)
        found[split] = h.hexdigest()
    return found


def show(result: dict[str, Any]) -> None:
    """Print what was seen."""
    images, classes, sizes, twice = (result[k] for k in ("images", "classes", "sizes", "duplicates"))
    few, many = classes["fewest"], classes["most"]
    print(f"{result['data']} at {result['root']}: {images['train']:,} training and {images['test']:,} test images")
    print(
        f"classes     {classes['count']}, of {few['images']:,} ({few['class']}) to {many['images']:,} ({many['class']})"
    )
    if sizes["median"] is not None:
        shown = "  ".join(f"{what} {sizes[what][0]}x{sizes[what][1]}" for what in ("smallest", "median", "largest"))
        print(f"sizes       {shown}  ({sizes['different']} different)")
    print(
        f"duplicates  {twice['train']} in train, {twice['test']} in test; {twice['across']} test images are in train too"
    )
    for train, test in twice["names"]:
        print(f"            {test} is {train}")
    print(f"sha256      train {result['sha256']['train'][:16]}  test {result['sha256']['test'][:16]}")
    for reason, count in Counter(bad["reason"] for bad in result["bad"]).most_common():
        print(f"bad         {count:,}: {reason}")
    for bad in result["bad"][:SHOWN]:
        print(f"            {bad['name']}: {bad['reason']}")
    if len(result["bad"]) > SHOWN:
        print(f"            and {len(result['bad']) - SHOWN} more: --json names all")
    if not result["bad"]:
        print("every image can be decoded")
