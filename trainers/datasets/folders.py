"""Data sets of image files: Tiny-ImageNet, mini-ImageNet, and any folder with one subfolder per class."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sparring.trainers.config import DataConfig, require
from sparring.trainers.datasets import decode
from sparring.trainers.datasets.cache import Decoded, Progress, fingerprint
from sparring.trainers.rng import generator

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
MINI_SIZE, MINI_TRAIN = 84, 500  # pixels; images per class that train, the other 100 test


def tiny_imagenet(config: DataConfig) -> tuple[object, Callable[[Progress], Decoded]]:
    """The official folder, or its zip: class id = line of wnids.txt, ``val`` is the test split, 64x64."""
    root = Path(config.root)
    holders = [p for p in (root, root / "tiny-imagenet-200") if (p / "wnids.txt").is_file()]
    if holders:
        base = holders[0]
        files = [base / "wnids.txt", *base.rglob("*.JPEG")]
        return fingerprint(files, base, config.cache), lambda progress: _tiny(
            lambda n: (base / n).read_bytes(), progress
        )
    zips = [root] if root.suffix == ".zip" and root.is_file() else sorted(root.glob("tiny-imagenet*.zip"))
    require(
        bool(zips),
        f"tiny-imagenet is not at {root.resolve()}: expected tiny-imagenet-200/ (with wnids.txt) or tiny-imagenet-200.zip there; "
        "get it from http://cs231n.stanford.edu/tiny-imagenet-200.zip and name its folder: --data.root FOLDER",
    )
    path = zips[0]

    def from_zip(progress: Progress) -> Decoded:
        with zipfile.ZipFile(path) as archive:
            top = next(n for n in archive.namelist() if n.endswith("wnids.txt")).removesuffix("wnids.txt")
            return _tiny(lambda n: archive.read(f"{top}{n}"), progress)

    return fingerprint([path], path.parent, config.cache), from_zip


def _tiny(read: Callable[[str], bytes], progress: Progress) -> Decoded:
    wnids = read("wnids.txt").decode().split()
    words = dict(line.split("\t", 1) for line in read("words.txt").decode().splitlines() if "\t" in line)
    train = []
    for label, wnid in enumerate(wnids):
        boxes = read(f"train/{wnid}/{wnid}_boxes.txt").decode().splitlines()
        train += [(f"train/{wnid}/images/{line.split()[0]}", label) for line in boxes if line.strip()]
    index = {wnid: label for label, wnid in enumerate(wnids)}
    annotations = [line.split("\t") for line in read("val/val_annotations.txt").decode().splitlines() if line.strip()]
    test = [(f"val/images/{name}", index[wnid]) for name, wnid, *_ in annotations if wnid in index]
    names = tuple(words.get(w, w).split(",")[0] for w in wnids)
    splits = [
        decode.files(rows, read=read, what=f"tiny-imagenet {what}", progress=progress)
        for what, rows in (("train", train), ("test", test))
    ]
    return Decoded(names, *splits)


def mini_imagenet(config: DataConfig) -> tuple[object, Callable[[Progress], Decoded]]:
    """84x84; folders per wnid, or images/ and CSV files with filename and label; 500 of a class train, drawn by a fixed seed."""
    root = Path(config.root)
    tables = sorted(root.glob("*.csv"))
    if tables and (root / "images").is_dir():
        rows = [row for table in tables for row in csv.DictReader(table.open())]
        pairs = [(root / "images" / row["filename"], row["label"]) for row in rows]
        files = [*tables, *(path for path, _ in pairs)]
    else:
        pairs = [(f, folder.name) for folder in _folders(root) for f in _images(folder)]
        files = [path for path, _ in pairs]
    require(
        bool(pairs),
        f"mini-imagenet is not at {root.resolve()}: expected one folder per wnid, or images/ and CSV files (filename, label); "
        "name its folder: --data.root FOLDER",
    )
    return fingerprint(files, root, config.cache), lambda progress: _mini(pairs, progress)


def _mini(pairs: list[tuple[Path, str]], progress: Progress) -> Decoded:
    classes = sorted({name for _, name in pairs})
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        paths = sorted(path for path, of in pairs if of == name)
        cut = len(paths) * MINI_TRAIN // 600  # 500 of the official 600
        order = torch.randperm(len(paths), generator=generator("mini-imagenet", name)).tolist()
        train += [(paths[i], label) for i in sorted(order[:cut])]
        test += [(paths[i], label) for i in sorted(order[cut:])]
    return Decoded(
        tuple(classes),
        *(_decode(rows, f"mini-imagenet {w}", MINI_SIZE, progress) for w, rows in (("train", train), ("test", test))),
    )


def folder(config: DataConfig) -> tuple[object, Callable[[Progress], Decoded]]:
    """``train/CLASS/*`` and ``test/CLASS/*`` (or ``val``), resized to data.size when given."""
    root = Path(config.root)
    train = root / "train"
    test = next((p for p in (root / "test", root / "val") if p.is_dir()), None)
    if not train.is_dir() or test is None:
        raise ValueError(
            f"{root.resolve()} is not a folder data set: expected train/CLASS/ and test/CLASS/ (or val/CLASS/) with images"
        )
    classes = [p.name for p in _folders(train)]
    require(bool(classes), f"{train.resolve()} has no folder with images: expected one folder per class")
    unknown = [p.name for p in _folders(test) if p.name not in classes]
    require(not unknown, f"{test} has classes that {train} has no images of: {', '.join(unknown)}")
    rows = {
        split: [(f, label) for label, name in enumerate(classes) for f in _images(base / name)]
        for split, base in (("train", train), ("test", test))
    }
    files = [f for split in rows.values() for f, _ in split]

    def decode_all(progress: Progress) -> Decoded:
        return Decoded(
            tuple(classes), *(_decode(r, f"{root.name} {s}", config.size, progress) for s, r in rows.items())
        )

    return (fingerprint(files, root, config.cache), config.size), decode_all


def _decode(
    rows: list[tuple[Path, int]], what: str, size: int | None, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    named = [(str(path), label) for path, label in rows]
    return decode.files(named, read=lambda name: Path(name).read_bytes(), what=what, progress=progress, size=size)


def _folders(root: Path) -> list[Path]:
    """Folders of classes: those with images. What tools leave beside them is none: hidden ones, ``__MACOSX``."""
    return sorted(p for p in root.iterdir() if p.is_dir() and _named(p) and _images(p)) if root.is_dir() else []


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(p for p in found if all(map(_named, (Path(part) for part in p.relative_to(folder).parts))))


def _named(path: Path) -> bool:
    """Whether a person gave the name: not ``.ipynb_checkpoints``, ``._photo.jpg``, ``__MACOSX``."""
    return not path.name.startswith(".") and path.name != "__MACOSX"


def left_out(root: Path) -> list[str]:
    """Folders beside those of classes in which there is nothing to train on; a user is told once."""
    inside = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    return [p.name for p in inside if p not in _folders(root)]
