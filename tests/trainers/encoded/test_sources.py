"""Every layout gives the same images, labels and classes; what is not there or cannot be trained on is said."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from sparring.trainers import datasets, encoded
from sparring.trainers.config import DataConfig
from sparring.trainers.encoded import EncodedDataset, generated
from tests.trainers.encoded import layouts
from tests.trainers.encoded.layouts import SYNSETS, opened

SPLITS = layouts.images()


def sorted_folders(root: Path) -> None:
    layouts.folders(root, SPLITS)


def kaggle(root: Path) -> None:
    base = root / "ILSVRC" / "Data" / "CLS-LOC"
    layouts.folders(base, {"train": SPLITS["train"]})
    layouts.flat_val(base, SPLITS["val"])
    rows = [f"{name.removesuffix('.JPEG')},{of} 1 2 3 4 {of} 5 6 7 8" for of, name, _ in SPLITS["val"]]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))


def val_txt_of_synsets(root: Path) -> None:
    layouts.folders(root, {"train": SPLITS["train"]})
    layouts.flat_val(root, SPLITS["val"])
    (root / "val.txt").write_text("".join(f"{name} {of}\n" for of, name, _ in SPLITS["val"]))


def val_txt_of_numbers(root: Path) -> None:
    layouts.folders(root, {"train": SPLITS["train"]})
    layouts.flat_val(root, SPLITS["val"])
    (root / "val.txt").write_text("".join(f"{name} {SYNSETS.index(of)}\n" for of, name, _ in SPLITS["val"]))


def tars_and_devkit(root: Path) -> None:
    layouts.official_tars(root, SPLITS)
    data = "ILSVRC2012_devkit_t12/data"
    truth = layouts.ground_truth(SPLITS)
    members = [(f"{data}/meta.mat", layouts.meta_mat()), (f"{data}/ILSVRC2012_validation_ground_truth.txt", truth)]
    plain = io.BytesIO()
    layouts.tar(plain, members)
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(plain.getvalue()))


def tars_and_map(root: Path) -> None:
    layouts.official_tars(root, SPLITS)
    (root / "ILSVRC2012_validation_ground_truth.txt").write_bytes(layouts.ground_truth(SPLITS))
    (root / "map_clsloc.txt").write_text("".join(f"{synset} {n} some_name\n" for synset, n in layouts.IDS.items()))


LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "sorted": ("imagenet", sorted_folders),
    "kaggle": ("imagenet", kaggle),
    "val.txt, synsets": ("imagenet", val_txt_of_synsets),
    "val.txt, numbers": ("imagenet", val_txt_of_numbers),
    "tars, devkit": ("imagenet", tars_and_devkit),
    "tars, map": ("imagenet", tars_and_map),
    "folder": ("folder", sorted_folders),
    "tar": ("tar", lambda root: layouts.shards(root, SPLITS)),
    "parquet": ("parquet", lambda root: layouts.parquet(root, SPLITS)),
}


def contents(data: EncodedDataset) -> dict[str, list[tuple[int, bytes]]]:
    return {
        name: [(int(split.labels[i]), split.read(i)) for i in range(len(split))] for name, split in data.splits.items()
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_in_the_same_order(layout: str, tmp_path: Path) -> None:
    name, make = LAYOUTS[layout]
    make(tmp_path / "data")
    data = opened(name, tmp_path / "data")
    wanted = {
        split: [(SYNSETS.index(of), content) for of, _, content in SPLITS[where]]
        for split, where in (("train", "train"), ("test", "val"))
    }
    assert contents(data) == wanted
    assert data.classes == SYNSETS
    assert data.train.labels.dtype == np.int64
    assert SYNSETS[0] in data.train.name(1)


def test_a_folder_is_read_as_when_it_is_decoded(tmp_path: Path) -> None:
    """Names of any kind, what tools leave behind, and the order, are those of data.name = folder."""
    root = tmp_path / "data"
    splits = {
        "train": [
            *[("blue tit", f"a {i} é.png", layouts.file("PNG", seed=i)) for i in range(3)],
            *[("Zoë", f"sub.{i}.JPG", layouts.file(seed=5 + i)) for i in range(2)],
        ],
        "test": [("Zoë", "日本.webp", layouts.file("WEBP", seed=9))],
    }
    layouts.folders(root, splits)
    for junk in ("train/.hidden/a.png", "train/blue tit/._a.png", "train/empty/readme.txt", "train/__MACOSX/a.png"):
        (root / junk).parent.mkdir(parents=True, exist_ok=True)
        (root / junk).write_bytes(b"x")
    (root / "train" / "Zoë" / "a").mkdir()
    (root / "train" / "Zoë" / "a" / "b.png").write_bytes(layouts.file("PNG", seed=20))
    told: list[str] = []
    data = opened("folder", root, notice=told.append)
    config = DataConfig(name="folder", root=str(root), cache=str(tmp_path / "decoded"))
    decoded = datasets.load(config)
    from sparring.trainers import decoder

    for split in ("train", "test"):
        ours, theirs = data.splits[split], getattr(decoded, split)
        assert ours.labels.tolist() == theirs.all_labels().tolist()
        for i in range(len(ours)):
            assert np.array_equal(decoder.pixels(ours.read(i)), theirs.images[i].numpy())
    assert data.classes == decoded.classes == ("Zoë", "blue tit")
    assert data.test.name(0) == "test/Zoë/日本.webp"
    assert "hold no image: .hidden, __MACOSX, empty" in told[0]


def test_names_of_any_kind_in_shards(tmp_path: Path) -> None:
    root = tmp_path / "data"
    content = layouts.file()
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        long = "x" * 120  # beyond what the plain header of a tar holds
        members = [(f"a b/é {long}.PNG", content), (f"a b/é {long}.cls", b"0\n"), ("notes.txt", b"no sample")]
        layouts.tar(root / split / "0.tar", members)
    data = opened("tar", root)
    assert data.train.read(0) == content
    assert data.train.name(0) == f"train/0.tar: a b/é {long}.PNG"


def test_names_of_classes(tmp_path: Path) -> None:
    sorted_folders(tmp_path / "data")
    words = "n01440764\ttench, Tinca\nn02102040\tcrane, a bird\nn03000684\tcrane\n"
    (tmp_path / "data" / "words.txt").write_text(words)
    assert opened("imagenet", tmp_path / "data").classes == ("tench", "crane (n02102040)", "crane (n03000684)")


@pytest.mark.parametrize("layout", ["tars, map", "tar", "parquet"])
def test_other_file_systems_are_read_by_ranges(layout: str, tmp_path: Path) -> None:
    """As S3 is: through any file system of pyarrow whose root is the data set, with large reads for headers."""
    import fsspec

    name, make = LAYOUTS[layout]
    make(tmp_path / "data" / "deep")
    whole = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("file")))
    config = DataConfig(name=name, root="s3://bucket/deep", cache=str(tmp_path / "cache"))
    data = encoded.opened(config, there=fs.SubTreeFileSystem(str(tmp_path / "data" / "deep"), whole))
    assert [data.train.read(i) for i in range(9)] == [content for *_, content in SPLITS["train"]]


def without(root: Path, pattern: str) -> None:
    for path in root.glob(pattern):
        path.unlink()


@pytest.mark.parametrize(
    ("name", "make", "spoil", "said"),
    [
        ("imagenet", lambda root: root.mkdir(), lambda root: None, "expected train/nXXXXXXXX"),
        (
            "imagenet",
            tars_and_map,
            lambda root: without(root, "*_truth.txt"),
            "nothing says their labels: expected LOC",
        ),
        ("imagenet", tars_and_map, lambda root: without(root, "map*"), "in the devkit's own order, not in that of the"),
        (
            "imagenet",
            kaggle,
            lambda root: without(root, "ILSVRC/**/*_00000003.JPEG"),
            "ILSVRC2012_val_00000003 is missing",
        ),
        ("imagenet", val_txt_of_synsets, lambda root: (root / "val.txt").write_text("a n09999999"), "(a: n09999999)"),
        ("imagenet", tars_and_map, lambda root: cut(root / "ILSVRC2012_img_train.tar"), "train.tar is damaged"),
        ("folder", lambda root: root.mkdir(), lambda root: None, "is not a folder data set"),
        ("tar", lambda root: root.mkdir(), lambda root: None, "no shards of both splits"),
        ("tar", LAYOUTS["tar"][1], lambda root: without(root, "*train-000001.tar"), "some-train-000001.tar is missing"),
        ("tar", LAYOUTS["tar"][1], lambda root: cut(root / "some-val-000001.tar"), "some-val-000001.tar is damaged"),
        (
            "tar",
            LAYOUTS["tar"][1],
            lambda root: (root / "classes.txt").write_text("one"),
            "label of the train split is 2",
        ),
        ("parquet", lambda root: root.mkdir(), lambda root: None, "no Parquet files of both splits"),
        (
            "parquet",
            LAYOUTS["parquet"][1],
            lambda root: without(root, "data/train-00001*"),
            "train-00001-of-00002.parquet is",
        ),
        (
            "parquet",
            LAYOUTS["parquet"][1],
            lambda root: cut(root / "data/train-00001-of-00002.parquet"),
            "00001-of-00002.parquet",
        ),
        (
            "cifar10",
            lambda root: root.mkdir(),
            lambda root: None,
            "allowed: imagenet, folder, tar, parquet, generated:N",
        ),
        ("generated:5", lambda root: root.mkdir(), lambda root: None, "N >= 10"),
    ],
)
def test_what_is_missing_is_said(
    name: str, make: Callable[[Path], None], spoil: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    make(tmp_path / "data")
    spoil(tmp_path / "data")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        opened(name, tmp_path / "data")
    assert said in str(error.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("img.0001.jpg", b"a"), ("img.0002.jpg", b"b"), ("img.cls", b"0")], "ends a key at the first dot"),
        ([("a.jpg", b"a")], "a.jpg has no label beside it: expected a.cls"),
        ([("a.jpg", b"a"), ("a.cls", b"dog")], "holds b'dog'; expected a whole number"),
        ([("a.jpg", b"a"), ("a.json", b'{"class": 1}')], "a.jpg has no label"),
        ([("a.jpg", b"a"), ("b.jpg", b"b"), ("a.cls", b"0"), ("b.cls", b"0")], "a.jpg has no label"),
        ([("a.jpg", b"a"), ("a.cls", b"-1")], "label of the train split is -1"),
        ([("readme.txt", b"a")], "no image is found for the train split"),
    ],
)
def test_shards_against_the_convention(members: list[tuple[str, bytes]], said: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    layouts.shards(root, SPLITS)
    without(root, "*")
    layouts.shards(root, {"val": SPLITS["val"][:1]})
    (root / "classes.txt").unlink()
    layouts.tar(root / "a-train-0.tar", members)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        opened("tar", root)
    assert said in str(error.value)


@pytest.mark.parametrize("left", [1024, 1024 + 100, 1024 + 512 + 3])
def test_an_archive_cut_between_members_is_damaged_too(left: int, tmp_path: Path) -> None:
    """There Python's tarfile stops without a word."""
    root = tmp_path / "data"
    layouts.shards(root, SPLITS)
    members = [("a.cls", b"0"), ("a.jpg", layouts.file())]
    layouts.tar(root / "some-train-000002.tar", members)
    whole = (root / "some-train-000002.tar").read_bytes()
    (root / "some-train-000002.tar").write_bytes(whole[:left])
    with pytest.raises(ValueError, match=r"some-train-000002\.tar is damaged"):
        opened("tar", root)


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    layouts.shards(root, SPLITS)
    with tarfile.open(root / "some-train-000000.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ValueError, match="a compressed one cannot be read in place"):
        opened("tar", root)


def test_generated_images(tmp_path: Path) -> None:
    """Each is a file of its own, its pixels those of its class; a larger size is as asked."""
    from sparring.trainers import decoder

    data = opened("generated:100", tmp_path)
    files = [data.train.read(i) for i in range(100)]
    assert len(set(files)) == 100
    assert len(data.test) == 10
    assert data.test.read(3) not in files
    assert data.train.labels.tolist() == [i % 10 for i in range(100)]
    assert decoder.pixels(files[7]).shape == (64, 64, 3)
    assert np.array_equal(decoder.pixels(files[7]), decoder.pixels(files[87]))  # eight pictures of a class
    assert not np.array_equal(decoder.pixels(files[7]), decoder.pixels(files[17]))
    assert decoder.pixels(generated.Generated("train", 10, (50, 37)).read(0)).shape == (37, 50, 3)
    assert data.train.sha256 != opened("generated:101", tmp_path).train.sha256
    with pytest.raises(IndexError):
        data.train.read(100)
