"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): torchvision's files, or Parquet shards with an image struct column.

Looked for under ``data.root``, itself, its folder of the data set's name, ``plain_text/``, and folders of the former:
``train-*.parquet`` and ``test-*.parquet`` as the Hugging Face hub lays them out, or ``cifar-10-batches-py`` / ``cifar-100-python``. What is missing is downloaded by torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from sparring.trainers.config import DataConfig
from sparring.trainers.datasets import decode
from sparring.trainers.datasets.arrays import check_labels
from sparring.trainers.datasets.cache import Decoded, Progress, fingerprint

CLASSES = {"cifar10": 10, "cifar100": 100}
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def source(config: DataConfig) -> tuple[object, Callable[[Progress], Decoded]]:
    """The fingerprint of the files and what decodes them."""
    root = Path(config.root)
    for folder in (root, root / config.name, root / "plain_text", *_below(root / config.name)):
        shards = {split: sorted(folder.glob(f"{split}-*.parquet")) for split in ("train", "test")}
        if all(shards.values()):
            files = [*shards["train"], *shards["test"]]
            files += [named for shard in files for named in _named_files(shard) if named.is_relative_to(folder)]
            return fingerprint(files, folder, config.cache), partial(_parquet, config.name, shards)
    inside = root / config.name
    holder = inside if (inside / FOLDERS[config.name]).is_dir() else root
    if not (holder / FOLDERS[config.name]).is_dir():
        _download(config, root)
    batches = [f for f in (holder / FOLDERS[config.name]).iterdir() if f.is_file()]
    return fingerprint(batches, holder, config.cache), lambda progress: _torchvision(config.name, holder)


def _parquet(name: str, shards: dict[str, list[Path]], progress: Progress) -> Decoded:
    """Shards whose rows hold an encoded image in a struct column and a label."""
    import pyarrow.parquet as pq

    splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    classes: tuple[str, ...] = ()
    for split, paths in shards.items():
        contents: dict[str, bytes] = {}
        labels: list[int] = []
        for path in paths:
            with decode.reading(path):
                table = pq.read_table(path)
            columns = set(table.column_names)
            image = next((c for c in ("img", "image") if c in columns), None)
            label = next((c for c in ("label", "fine_label") if c in columns), None)
            if image is None or label is None:
                raise ValueError(
                    f"{path} has columns {sorted(columns)}; expected img or image, and label or fine_label"
                )
            with decode.reading(path):
                rows = table.column(image).to_pylist()
            contents |= {f"{path}, row {i}": _encoded(row, path, i) for i, row in enumerate(rows)}
            labels += table.column(label).to_pylist()
            classes = classes or class_names(table.schema.metadata, label)
        wrong = next((i for i, label in enumerate(labels) if not isinstance(label, int) or label < 0), None)
        if wrong is not None:
            raise ValueError(
                f"{paths[0].parent}: row {wrong} of {split} has label {labels[wrong]!r}; expected whole numbers from 0"
                + (" (hidden test labels, all -1, cannot be evaluated on)" if set(labels) == {-1} else "")
            )
        named = list(zip(contents, labels, strict=True))
        splits[split] = decode.files(named, read=contents.__getitem__, what=f"{name} {split}", progress=progress)
    names = classes or tuple(map(str, range(int(splits["train"][1].max()) + 1)))
    if len(names) > CLASSES[name]:
        raise ValueError(
            f"{shards['train'][0].parent} holds {len(names)} classes; {name} has {CLASSES[name]}: it is another data set"
        )
    for split, (_, seen) in splits.items():
        check_labels(seen, len(names), where=f"{shards[split][0].parent} ({split})")
    return Decoded(names, splits["train"], splits["test"])


def _below(folder: Path) -> list[Path]:
    """Where the hub's repositories keep the shards of a configuration: ``plain_text/``, ``cifar100/``."""
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _named_files(shard: Path) -> list[Path]:
    """Image files beside a shard that its rows name: where a row holds no bytes, the data set is made of these too."""
    import pyarrow.parquet as pq

    with decode.reading(shard):
        file = pq.ParquetFile(shard)
        column = next((c for c in ("img", "image") if c in file.schema_arrow.names), None)
        parts = [] if column is None else file.schema_arrow.field(column).flatten()
        if f"{column}.path" not in [part.name for part in parts]:
            return []
        rows = file.read(columns=[f"{column}.path"]).column(column).to_pylist()
    named = dict.fromkeys(shard.parent / row["path"] for row in rows if row and row["path"])
    return [path for path in named if path.is_file()]


def _encoded(row: object, path: Path, number: int) -> bytes:
    """The image file of a row: a struct of bytes and path, where either may be missing, or plain bytes."""
    if isinstance(row, bytes):
        return row
    if isinstance(row, dict) and isinstance(row.get("bytes"), bytes):
        return bytes(row["bytes"])
    beside = row.get("path") if isinstance(row, dict) else None
    if isinstance(beside, str) and (path.parent / beside).is_file():
        return (path.parent / beside).read_bytes()
    missing = f"names the file {beside!r}, which is not beside it" if isinstance(beside, str) else "holds no image"
    raise ValueError(f"{path}: row {number} {missing}; expected the encoded image: bytes, or a struct with bytes")


def class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...]:
    """Names out of the schema metadata that the ``datasets`` library writes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[label]["names"])
    except (KeyError, ValueError):
        return ()


def _torchvision(name: str, root: Path) -> Decoded:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        train, test = (kind(str(root), train=train) for train in (True, False))
    except Exception as error:  # RuntimeError for another checksum; pickled files raise what they like
        raise ValueError(
            f"{root / FOLDERS[name]} is incomplete or damaged ({error}); remove it to download it again"
        ) from error
    return Decoded(
        tuple(train.classes),
        (np.asarray(train.data), np.asarray(train.targets, np.int64)),
        (np.asarray(test.data), np.asarray(test.targets, np.int64)),
    )


def _download(config: DataConfig, root: Path) -> None:
    from torchvision import datasets

    absent = f"{config.name} is not under {root.resolve()}"
    advice = (
        f"Put {FOLDERS[config.name]}/ or Parquet shards (train-*.parquet, test-*.parquet) there, or name their folder: "
        "--data.root FOLDER"
    )
    if not config.download:
        raise ValueError(f"{absent}, and nothing is downloaded here (a run would, about 170 MB). {advice}")
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.name]
    existed = root.exists()
    try:
        kind(str(root), train=True, download=True)
    except Exception as error:  # torchvision lets every kind of network error through
        if not existed and root.is_dir() and not any(root.iterdir()):
            root.rmdir()
        raise ValueError(f"{absent} and could not be downloaded ({error}). {advice}") from error
