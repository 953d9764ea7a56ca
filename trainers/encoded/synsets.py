"""Synsets of ImageNet: which one each validation image is of, and what they are called.

A flat ``val`` needs to be told its labels, by the first of these that is there:

    LOC_val_solution.csv             Kaggle's: name, synset and boxes
    val.txt                          a name and a synset, or a name and the place of its class among the sorted synsets
    ILSVRC2012_validation_ground_truth.txt   numbers in the devkit's own order, which is NOT that of the sorted synsets: its meta.mat, or
                                     map_clsloc.txt (synset, number, name), must lie beside it; or ILSVRC2012_devkit_t12.tar.gz holds both
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
from typing import TYPE_CHECKING, Any

from sparring.trainers.config import require
from sparring.trainers.datasets import decode

if TYPE_CHECKING:
    from pyarrow import fs

SYNSET = re.compile(r"n\d{8}")
DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
BESIDE = ("", "val/", f"{DEVKIT}/data/", "devkit/data/", "ILSVRC/")  # where these files lie
WORDS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
NEEDED = (
    f"LOC_val_solution.csv, val.txt (a name and a synset a line), or {TRUTH} with meta.mat or map_clsloc.txt beside it "
    f"({DEVKIT}.tar.gz holds both); or sort val/ into a folder per synset"
)

Files = dict[str, bytes]  # the small files that say labels and names, by name without folder


def small(there: fs.FileSystem) -> Files:
    """The small files that lie about, those of the devkit's archive included."""
    wanted = ("LOC_val_solution.csv", "val.txt", TRUTH, "meta.mat", "map_clsloc.txt", *WORDS)
    found: Files = {}
    for name in wanted:
        infos = there.get_file_info([f"{folder}{name}" for folder in BESIDE])
        path = next((info.path for info in infos if info.is_file), None)
        if path is not None:
            found[name] = _content(there, path)
    kit = f"{DEVKIT}.tar.gz"
    if TRUTH not in found and there.get_file_info(kit).is_file:
        with decode.reading(kit), tarfile.open(fileobj=io.BytesIO(_content(there, kit))) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in wanted and member.isreg():
                    found.setdefault(name, archive.extractfile(member).read())  # type: ignore[union-attr]
    return found


def _content(there: fs.FileSystem, path: str) -> bytes:
    with there.open_input_file(path) as file:
        return bytes(file.read())


def truth(small: Files, synsets: list[str]) -> dict[str, int]:
    """Label of every validation image, by its name without ending.

    Raises:
        ValueError: no list of labels, or one that names a class that there is not.
    """
    if "LOC_val_solution.csv" in small:
        rows = csv.DictReader(small["LOC_val_solution.csv"].decode().splitlines())
        said = {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    elif "val.txt" in small:
        pairs = [line.split() for line in small["val.txt"].decode().splitlines() if line.strip()]
        said = {pair[0].rpartition("/")[2].partition(".")[0]: pair[-1] for pair in pairs}
    elif TRUTH in small:
        ids = _devkit(small)
        numbers = small[TRUTH].decode().split()
        said = {f"ILSVRC2012_val_{i:08}": ids.get(int(n), f"number {n}") for i, n in enumerate(numbers, 1)}
    else:
        raise ValueError(
            f"the images in val are in no folders of synsets, and nothing says their labels: expected {NEEDED}"
        )
    known = {synset: label for label, synset in enumerate(synsets)}
    known |= {str(label): label for label in range(len(synsets))}
    strange = next((f"{name}: {value}" for name, value in said.items() if value not in known), None)
    require(strange is None, f"the labels of val name a class that train does not have ({strange})")
    return {name: known[value] for name, value in said.items()}


def _devkit(small: Files) -> dict[int, str]:
    """The devkit's numbers of classes -> synsets."""
    if "map_clsloc.txt" in small:
        lines = [line.split() for line in small["map_clsloc.txt"].decode().splitlines() if line.strip()]
        return {int(number): synset for synset, number, *_ in lines}
    require(
        "meta.mat" in small,
        f"{TRUTH} numbers classes in the devkit's own order, not in that of the sorted synsets: put meta.mat of {DEVKIT}/data, or "
        "map_clsloc.txt, beside it",
    )
    import numpy as np
    from scipy.io import loadmat

    with decode.reading("meta.mat"):
        table: Any = np.atleast_1d(loadmat(io.BytesIO(small["meta.mat"]), squeeze_me=True)["synsets"])
        return {int(n): str(w) for n, w in zip(table["ILSVRC2012_ID"], table["WNID"], strict=True)}


def names(small: Files, synsets: list[str]) -> list[str]:
    """What classes are called: the first of their words, with the synset where two share it; the synset where there are no words."""
    text = next((small[name].decode() for name in WORDS if name in small), "")
    words = dict(re.split(r"[\t ]", line, maxsplit=1) for line in text.splitlines() if SYNSET.match(line) and line[9:])
    first = [words.get(synset, synset).split(",")[0].strip() for synset in synsets]
    return [f"{name} ({s})" if first.count(name) > 1 else name for name, s in zip(first, synsets, strict=True)]
