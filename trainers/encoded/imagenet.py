"""ImageNet (ILSVRC 2012) as it is given out: folders or the official archives, which are read where they lie.

    train/nXXXXXXXX/*.JPEG           or  ILSVRC2012_img_train.tar, a tar of one tar for each class
    val/nXXXXXXXX/*.JPEG, or val/*.JPEG  or  ILSVRC2012_img_val.tar

under the folder, or under Kaggle's ``ILSVRC/Data/CLS-LOC``. Classes are the synsets, sorted; images are ordered by class and name, whatever
the layout. What a flat ``val`` needs to be told its labels is in ``synsets.py``.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from sparring.trainers.config import DataConfig, require
from sparring.trainers.datasets.folders import is_image
from sparring.trainers.encoded import listing, synsets, tars
from sparring.trainers.encoded.index import Found, Places, Source
from sparring.trainers.encoded.synsets import SYNSET

if TYPE_CHECKING:
    from pyarrow import fs

BASES = ("", "ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/")
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"

Images = list[tuple[str, int, int, int]]  # path of an image, container, offset, size
Train = tuple[object, Callable[[], tuple[Places, list[str]]]]  # what names it, and what finds its images
Val = tuple[object, Callable[[], tuple[Images, list[str]]]]


def source(there: fs.FileSystem, config: DataConfig) -> Source:
    """The images of both splits, wherever each lies.

    Raises:
        ValueError: a split is not there.
    """
    small = synsets.small(there)
    labels: dict[str, int] = {}
    base, train = _train(there, labels)
    val, sorted_val = _val(there, base)
    require(
        train is not None and val is not None,
        f"imagenet is not at {config.root}: expected train/nXXXXXXXX/*.JPEG or {TRAIN_TAR}, and val/ or {VAL_TAR}; "
        "name its folder: --data.root FOLDER",
    )
    assert train is not None
    assert val is not None

    def find() -> Found:
        places, containers = train[1]()
        images = val[1]()
        truth = None if sorted_val else synsets.truth(small, list(labels))
        held, held_containers = _labelled(images, labels, truth)
        return Found(synsets.names(small, list(labels)), places, held, containers, held_containers)

    return Source((train[0], val[0], sorted(small.items())), find)


def _train(there: fs.FileSystem, labels: dict[str, int]) -> tuple[str, Train | None]:
    """Where the training images lie; ``labels`` is filled with the synsets in order, from folders at once, else when they are found."""
    for base in BASES:
        names = [name for name in listing.folders(there, f"{base}train") if SYNSET.fullmatch(name)]
        if names:
            return base, _of_folders(there, f"{base}train", names, labels)
    path = _file(there, TRAIN_TAR)
    return "", None if path is None else (
        listing.stamp([there.get_file_info(path)]),
        lambda: _of_tars(there, path, labels),
    )


def _of_folders(there: fs.FileSystem, folder: str, names: list[str], labels: dict[str, int]) -> Train:
    places, seen = listing.by_class(there, folder, names, labels)
    return seen, lambda: (places, [])


def _of_tars(there: fs.FileSystem, path: str, labels: dict[str, int]) -> tuple[Places, list[str]]:
    """The images of a tar of tars, by offsets into the outer one."""
    classes: dict[str, Images] = {}
    with tars.archive(there, path) as outer:
        for member in tars.members(outer):
            synset = member.name.rpartition("/")[2].removesuffix(".tar")
            if SYNSET.fullmatch(synset):
                with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
                    start = member.offset_data
                    found = [(m.name, 0, start + m.offset_data, m.size) for m in tars.members(inner)]
                classes[synset] = found
    places = Places()
    for synset in sorted(classes):
        label = labels.setdefault(synset, len(labels))
        for name, container, offset, size in sorted(classes[synset]):
            places.add(f"{synset}/{name}", label, container=container, offset=offset, size=size)
    return places, [path]


def _val(there: fs.FileSystem, base: str) -> tuple[Val | None, bool]:
    """Where the validation images lie, and whether they are sorted into folders of synsets."""
    top = listing.inside(there, f"{base}val")
    folders = [i.base_name for i in top if not i.is_file and SYNSET.fullmatch(i.base_name)]
    in_folders = [i for name in folders for i in listing.images(there, f"{base}val/{name}")]
    files = in_folders or [i for i in top if i.is_file and is_image(i.base_name)]
    if files:
        images = [(i.path, -1, 0, i.size) for i in files]
        return (listing.stamp(files), lambda: (images, [])), bool(in_folders)
    path = _file(there, VAL_TAR)
    if path is None:
        return None, False

    def find() -> tuple[Images, list[str]]:
        with tars.archive(there, path) as opened:
            return [(m.name, 0, m.offset_data, m.size) for m in tars.members(opened)], [path]

    return (listing.stamp([there.get_file_info(path)]), find), False


def _file(there: fs.FileSystem, name: str) -> str | None:
    return next((f"{base}{name}" for base in BASES if there.get_file_info(f"{base}{name}").is_file), None)


def _labelled(
    found: tuple[Images, list[str]], labels: dict[str, int], truth: dict[str, int] | None
) -> tuple[Places, list[str]]:
    """Validation images by class and name.

    Args:
        truth: label by name without folder and ending; None: the folder says the class.
    """
    images, containers = found
    rows = []
    for path, container, offset, size in images:
        folder, _, name = path.rpartition("/")
        name, synset = name.partition(".")[0], folder.rpartition("/")[2]
        label = labels.get(synset) if truth is None else truth.get(name)
        if label is None:
            why = f"train/ has no class {synset}" if truth is None else "the list of labels does not name it"
            raise ValueError(f"{path}: {why}")
        rows.append((label, path, container, offset, size))
    if truth is not None and len(rows) != len(truth):
        there = {path.rpartition("/")[2].partition(".")[0] for _, path, *_ in rows}
        raise ValueError(
            f"val has {len(rows)} images, of {len(truth)} that the list of labels names: {min(set(truth) - there)} is missing"
        )
    places = Places()
    for label, path, container, offset, size in sorted(rows, key=lambda row: (row[0], row[1].rpartition("/")[2])):
        places.add(path, label, container=container, offset=offset, size=size)
    return places, containers
