"""What lies in a data set's folder, through its file system: folders of classes, files of images, shards."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparring.trainers.config import DataConfig, require
from sparring.trainers.datasets.folders import is_image, named
from sparring.trainers.encoded.index import Found, Places, Source

if TYPE_CHECKING:
    from pyarrow import fs

SPLIT = re.compile(r"(?:^|[/._-])(train|training|val|valid|validation|test)(?=[/._-]|\d|$)")
NUMBERED = re.compile(r"(?P<before>.*?)(?P<n>\d+)(?P<after>(?:-of-(?P<count>\d+))?\.\w+)")


def inside(there: fs.FileSystem, folder: str, *, below: bool = False) -> list[Any]:
    """What is in a folder, sorted by name, with size and time of each; [] where there is no such folder.

    Raises:
        ValueError: a name that is not UTF-8.
    """
    from pyarrow import fs

    try:
        found = there.get_file_info(fs.FileSelector(folder, recursive=below, allow_not_found=True))
        return sorted(found, key=lambda info: info.path.split("/"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder}/ holds {error.object!r}, whose name is not UTF-8; rename it") from error


def folders(there: fs.FileSystem, folder: str) -> list[str]:
    """Names of the folders right in one, but those that tools leave behind."""
    return [i.base_name for i in inside(there, folder) if not i.is_file and named(i.base_name)]


def stamp(infos: Sequence[Any]) -> list[tuple[str, int, int]]:
    """Name, size and time of files."""
    return [(info.path, info.size, info.mtime_ns or 0) for info in infos]


def images(there: fs.FileSystem, folder: str) -> list[Any]:
    """All files of images below a folder."""
    return [i for i in inside(there, folder, below=True) if i.is_file and is_image(i.path.removeprefix(f"{folder}/"))]


def by_class(there: fs.FileSystem, folder: str, names: Sequence[str], labels: dict[str, int]) -> tuple[Places, str]:
    """The images of a folder with one folder per class, and a hash of their names, sizes and times.

    Args:
        names: of the folders, in order; those without an image are no classes.
        labels: of classes by name; one that is not in it yet is given the next number.
    """
    places, seen = Places(), hashlib.sha256()
    for name in names:
        files = images(there, f"{folder}/{name}")
        for info in files:
            places.add(info.path, labels.setdefault(name, len(labels)), size=info.size)
        seen.update(repr(stamp(files)).encode())
    return places, seen.hexdigest()


def folder(there: fs.FileSystem, config: DataConfig) -> Source:
    """``train/CLASS/*`` and ``test/CLASS/*`` (or ``val``): the classes are the folders with images, sorted by name.

    Raises:
        ValueError: no such folders, or a class without a training image.
    """
    top = folders(there, "")
    test = next((name for name in ("test", "val") if name in top), None)
    if "train" not in top or test is None:
        raise ValueError(
            f"{config.root} is not a folder data set: expected train/CLASS/ and test/CLASS/ (or val/CLASS/) with images; "
            "name its folder: --data.root FOLDER"
        )
    labels: dict[str, int] = {}
    train, train_hash = by_class(there, "train", folders(there, "train"), labels)
    require(bool(labels), f"{config.root}/train has no folder with images: expected one folder per class")
    classes = tuple(labels)
    held, test_hash = by_class(there, test, folders(there, test), labels)
    unknown = tuple(labels)[len(classes) :]
    require(not unknown, f"{test}/ has classes that train/ has no images of: {', '.join(unknown)}")
    beside = [i.base_name for i in inside(there, "train") if not i.is_file and i.base_name not in labels]
    told = [f"no classes, since they are hidden or hold no image: {', '.join(beside)}"] if beside else []
    return Source((classes, train_hash, test, test_hash), lambda: Found(classes, train, held), notes=told)


def shards(there: fs.FileSystem, suffix: str) -> dict[str, list[Any]]:
    """Files of a suffix in the folder or one further down, by the split that their names, or their folders' names, say.

    Raises:
        ValueError: a number is missing among those of one name: an archive was not copied.
    """
    files = [i for where in ("", *folders(there, "")) for i in inside(there, where) if i.is_file]
    found: dict[str, list[Any]] = {}
    for info in files:
        words = SPLIT.findall(info.path.lower()) if info.path.endswith(suffix) and named(info.base_name) else []
        if words:
            split = {"training": "train", "valid": "val", "validation": "val"}.get(words[-1], words[-1])
            found.setdefault(split, []).append(info)
    _check_numbers([info.path for infos in found.values() for info in infos])
    return found


def _check_numbers(paths: Sequence[str]) -> None:
    """Refuse shards of one name with a gap in their numbers, or, where the names say how many there are, with any missing."""
    kinds: dict[tuple[str, ...], dict[int, str]] = {}
    for match in filter(None, map(NUMBERED.fullmatch, paths)):
        kinds.setdefault((match["before"], match["after"], match["count"] or ""), {})[int(match["n"])] = match["n"]
    for (before, after, count), numbers in kinds.items():
        wanted = range(int(count)) if count else range(min(numbers), max(numbers) + 1)
        width = len(numbers[min(numbers)])
        lost = next((f"{before}{n:0{width}}{after}" for n in wanted if n not in numbers), None)
        require(lost is None, f"{lost} is missing among the shards of its name; copy it again")
