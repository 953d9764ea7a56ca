"""Data sets laid out as people have them: sorted by scripts, in subfolders, with paths in place of bytes."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sparring.trainers import datasets
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Dataset

WNIDS = ("n01", "n02")


def load(name: str, root: Path, tmp_path: Path) -> Dataset:
    return datasets.load(DataConfig(name=name, root=str(root), cache=str(tmp_path / "cache"), download=False))


def picture(value: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (value,) * 3).save(file, kind)
    return file.getvalue()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The official layout, with two classes of twelve training images and three test images."""
    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tsnail\n")
    lines = []
    for k, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        names = [f"{wnid}_{i}.JPEG" for i in range(12)]
        for i, name in enumerate(names):
            (folder / name).write_bytes(picture(100 * k + 5 * i))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(f"{n}\t0\t0\t9\t9\n" for n in names))
        for i in range(3):
            (root / "val" / "images" / f"val_{3 * k + i}.JPEG").write_bytes(picture(100 * k + 50 + i))
            lines.append(f"val_{3 * k + i}.JPEG\t{wnid}\t0\t0\t9\t9\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def sort_val(root: Path, *, images: bool, keep: bool) -> None:
    """What people's scripts do with val/: a folder per class, the annotations gone or not."""
    for line in (root / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        folder = root / "val" / wnid / "images" if images else root / "val" / wnid
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(root / "val" / "images" / name, folder / name)
    (root / "val" / "images").rmdir()
    if not keep:
        (root / "val" / "val_annotations.txt").unlink()


@pytest.mark.parametrize("keep", [True, False], ids=["annotations-left", "annotations-gone"])
@pytest.mark.parametrize("images", [True, False], ids=["with-images", "plain"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "folder"])
def test_tiny_imagenet_with_a_sorted_val(tiny: Path, images: bool, keep: bool, zipped: bool, tmp_path: Path) -> None:
    right = load("tiny-imagenet", tiny, tmp_path)
    assert right.classes == ("goldfish", "snail")
    assert len(right.train) == 24
    assert right.train.take(slice(None))[0][:12, 0, 0, 0].tolist() == [5 * i for i in range(12)]  # by number
    sort_val(tiny, images=images, keep=keep)
    for junk in (".DS_Store", "val/n01/._val_0.JPEG"):
        (tiny / junk).write_bytes(b"x")
    root = tiny
    if zipped:
        root = Path(shutil.make_archive(str(tmp_path / "z" / "tiny-imagenet-200"), "zip", tmp_path, tiny.name)).parent
    found = load("tiny-imagenet", root, tmp_path)
    assert found.test.sha256 == right.test.sha256
    assert found.train.sha256 == right.train.sha256


@pytest.mark.parametrize(
    ("lost", "words"),
    [("val/images/val_0.JPEG", "names val_0.JPEG, which is not in val/"), ("wnids.txt", "tiny-imagenet is not at")],
)
def test_what_is_lost_is_named(tiny: Path, lost: str, words: str, tmp_path: Path) -> None:
    (tiny / lost).unlink()
    with pytest.raises(ValueError, match=words):
        load("tiny-imagenet", tiny, tmp_path)


def shards(folder: Path, *, column: pa.Array | None = None, labels: tuple[int | None, ...] = (0, 1, 1)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = [picture(10 * i, "PNG") for i in range(3)]
    rows = column if column is not None else pa.array([{"bytes": c, "path": None} for c in content])
    for split in ("train", "test"):
        values = labels if split == "test" else (0, 1, 1)
        pq.write_table(pa.table({"img": rows, "label": pa.array(values)}), folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("where", ["", "cifar10", "plain_text", "cifar10/plain_text"])
def test_shards_in_a_subfolder(where: str, tmp_path: Path) -> None:
    shards(tmp_path / "data" / where)
    assert load("cifar10", tmp_path / "data", tmp_path).train.images[:, 0, 0, 0].tolist() == [0, 10, 20]


def test_plain_bytes_and_paths_in_place_of_bytes(tmp_path: Path) -> None:
    right = [0, 10, 20]
    shards(tmp_path / "plain", column=pa.array([picture(v, "PNG") for v in right], pa.binary()))
    assert load("cifar10", tmp_path / "plain", tmp_path).train.images[:, 0, 0, 0].tolist() == right
    folder = tmp_path / "paths"
    folder.mkdir()
    for v in right:
        (folder / f"{v}.png").write_bytes(picture(v, "PNG"))
    shards(folder, column=pa.array([{"bytes": None, "path": f"{v}.png"} for v in right]))
    assert load("cifar10", folder, tmp_path).train.images[:, 0, 0, 0].tolist() == right
    (folder / "10.png").unlink()
    with pytest.raises(ValueError, match=r"row 1 names the file '10\.png', which is not beside it"):
        load("cifar10", folder, tmp_path)
    shards(tmp_path / "none", column=pa.array([None, None, None], pa.binary()))
    with pytest.raises(ValueError, match="row 0 holds no image"):
        load("cifar10", tmp_path / "none", tmp_path)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((-1, -1, -1), "hidden test labels, all -1"),
        ((0, None, 1), "row 1 of test has label None"),
        ((0, 1, 7), "label 7"),
    ],
)
def test_labels_that_cannot_be_used(labels: tuple[int | None, ...], words: str, tmp_path: Path) -> None:
    shards(tmp_path / "data", labels=labels)
    with pytest.raises(ValueError, match=words):
        load("cifar10", tmp_path / "data", tmp_path)


def test_a_table_of_mini_imagenet_without_filenames(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(picture(3))
    (tmp_path / "train.csv").write_text("file,label\na.jpg,n01\n")
    with pytest.raises(ValueError, match=r"train\.csv has columns file, label; expected filename and label"):
        load("mini-imagenet", tmp_path, tmp_path)
    (tmp_path / "train.csv").write_text("filename,label\nb.jpg,n01\n")
    with pytest.raises(ValueError, match=r"train\.csv names .*b\.jpg, which is not there"):
        load("mini-imagenet", tmp_path, tmp_path)


def test_values_are_bytes(tmp_path: Path) -> None:
    shards(tmp_path / "data")
    assert load("cifar10", tmp_path / "data", tmp_path).train.images.numpy().dtype == np.uint8


def test_another_data_set_beside_is_not_taken(tmp_path: Path) -> None:
    """Shards of CIFAR-100, or of anything, in a folder beside: not those of the name that was asked for."""
    shards(tmp_path / "data" / "cifar100")
    with pytest.raises(ValueError, match="cifar10 is not under"):
        load("cifar10", tmp_path / "data", tmp_path)
    shards(tmp_path / "data" / "cifar10" / "plain_text", labels=(1, 1, 1))
    assert load("cifar10", tmp_path / "data", tmp_path).test.labels.tolist() == [1, 1, 1]
