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
    """The official folder, or its zip: class id = line of wnids.txt, ``val`` is the test split, 64x64.

    ``val`` as it comes (``images/`` and val_annotations.txt) or sorted into a folder per class, as many people's scripts do.
    """
    root = Path(config.root)
    holders = [p for p in (root, root / "tiny-imagenet-200") if (p / "wnids.txt").is_file()]
    if holders:
        base = holders[0]
        images = _images(base)
        tables = [p for p in base.rglob("*.txt") if p.is_file()]
        names = [str(p.relative_to(base)) for p in (*images, *tables)]

        def from_folder(progress: Progress) -> Decoded:
            with decode.reading(base):
                return _tiny(names, lambda n: (base / n).read_bytes(), progress)

        return fingerprint([*images, *tables], base, config.cache), from_folder
    zips = [root] if root.suffix == ".zip" and root.is_file() else sorted(root.glob("tiny-imagenet*.zip"))
    require(
        bool(zips),
        f"tiny-imagenet is not at {root.resolve()}: expected tiny-imagenet-200/ (with wnids.txt) or tiny-imagenet-200.zip there; "
        "get it from http://cs231n.stanford.edu/tiny-imagenet-200.zip and name its folder: --data.root FOLDER",
    )
    path = zips[0]

    def from_zip(progress: Progress) -> Decoded:
        with decode.reading(path), zipfile.ZipFile(path) as archive:
            inside = [n for n in archive.namelist() if n.endswith("wnids.txt")]
            require(bool(inside), f"{path} holds no wnids.txt: it is not Tiny-ImageNet")
            top = min(inside, key=len).removesuffix("wnids.txt")
            names = [n.removeprefix(top) for n in archive.namelist() if n.startswith(top) and not n.endswith("/")]
            return _tiny(names, lambda n: archive.read(f"{top}{n}"), progress)

    return fingerprint([path], path.parent, config.cache), from_zip


def _tiny(names: list[str], read: Callable[[str], bytes], progress: Progress) -> Decoded:
    """From the names of all files below the folder with wnids.txt."""
    images = [n for n in names if is_image(n)]
    wnids = read("wnids.txt").decode().split()
    text = read("words.txt").decode() if "words.txt" in names else ""
    words = dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    index = {wnid: label for label, wnid in enumerate(wnids)}
    train = [
        (n, index[n.split("/")[1]])
        for n in sorted(images, key=_number)
        if n.startswith("train/") and n.split("/")[1] in index
    ]
    without = sorted(set(range(len(wnids))) - {label for _, label in train})
    require(not without, f"train/ has no image of class {wnids[without[0]] if without else ''}, which wnids.txt names")
    test = _val(names, [n for n in images if n.startswith("val/")], index, read)
    classes = tuple(words.get(w, w).split(",")[0] for w in wnids)
    train.sort(key=lambda row: row[1])  # by class, within it by number: the order of the boxes' files
    splits = [
        decode.files(rows, read=read, what=f"tiny-imagenet {what}", progress=progress)
        for what, rows in (("train", train), ("test", test))
    ]
    return Decoded(classes, *splits)


def _val(
    names: list[str], images: list[str], index: dict[str, int], read: Callable[[str], bytes]
) -> list[tuple[str, int]]:
    """Image and class of every row of val_annotations.txt, wherever in ``val/`` the image lies; else by the folders' names."""
    if "val/val_annotations.txt" in names:
        at = {n.rpartition("/")[2]: n for n in images}
        rows = [line.split("\t") for line in read("val/val_annotations.txt").decode().splitlines() if line.strip()]
        lost = [name for name, wnid, *_ in rows if wnid in index and name not in at]
        require(not lost, f"val_annotations.txt names {lost[0] if lost else ''}, which is not in val/")
        return [(at[name], index[wnid]) for name, wnid, *_ in rows if wnid in index]
    found = [(n, index[n.split("/")[1]]) for n in sorted(images, key=_number) if n.split("/")[1] in index]
    require(bool(found), "val/ has neither val_annotations.txt nor a folder of images per class")
    return found


def _number(name: str) -> tuple[str, int, str]:
    """For sorting: ``n01443537_2.JPEG`` before ``n01443537_10.JPEG``."""
    stem, _, number = Path(name).stem.rpartition("_")
    return (str(Path(name).parent) + stem, int(number) if number.isdigit() else -1, name)


def mini_imagenet(config: DataConfig) -> tuple[object, Callable[[Progress], Decoded]]:
    """84x84; folders per wnid, or images/ and CSV files with filename and label; 500 of a class train, drawn by a fixed seed."""
    root = Path(config.root)
    tables = sorted(root.glob("*.csv"))
    if tables and (root / "images").is_dir():
        pairs = [pair for table in tables for pair in _listed(table)]
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


def _listed(table: Path) -> list[tuple[Path, str]]:
    """Image and class of every row of a CSV file beside ``images/``."""
    with decode.reading(table), table.open(newline="") as file:
        rows = list(csv.DictReader(file))
        if rows and not {"filename", "label"} <= set(rows[0]):
            raise ValueError(f"{table} has columns {', '.join(map(str, rows[0]))}; expected filename and label")
    pairs = [(table.parent / "images" / row["filename"], row["label"]) for row in rows]
    lost = next((path for path, _ in pairs if not path.is_file()), None)
    require(lost is None, f"{table} names {lost}, which is not there")
    return pairs


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
    return sorted(p for p in root.iterdir() if p.is_dir() and named(p.name) and _images(p)) if root.is_dir() else []


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.rglob("*") if is_image(p.relative_to(folder).as_posix()) and p.is_file())


def is_image(name: str) -> bool:
    """Whether a path below a folder of images is one by its name, and a person gave every part of it."""
    return name.lower().endswith(tuple(SUFFIXES)) and all(map(named, name.split("/")))


def named(name: str) -> bool:
    """Whether a person gave the name: not ``.ipynb_checkpoints``, ``._photo.jpg``, ``__MACOSX``."""
    return not name.startswith(".") and name != "__MACOSX"


def left_out(root: Path) -> list[str]:
    """Folders beside those of classes in which there is nothing to train on; a user is told once."""
    inside = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    return [p.name for p in inside if p not in _folders(root)]
