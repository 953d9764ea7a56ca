"""Data sets: real files in every supported layout, the cache and its damage, users' own data."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.trainers import datasets
from sparring.trainers.batches import Batches
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Dataset
from sparring.trainers.datasets import cache, cifar
from tests.helpers import CLONE

REAL = CLONE.parent / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real images in {REAL}")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Dataset]:
    """Load with a cache of the test's own."""

    def run(name: str, root: Path, **options: Any) -> Dataset:
        return datasets.load(DataConfig(name=name, root=str(root), cache=str(tmp_path / "cache"), **options))

    return run


def same(a: Dataset, b: Dataset) -> bool:
    pairs = [
        (x, y)
        for s in ("train", "test")
        for x, y in zip(getattr(a, s).take(slice(None)), getattr(b, s).take(slice(None)), strict=True)
    ]
    return all(torch.equal(x, y) for x, y in pairs)


def torchvision_layout(data: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a data set as the official cifar-10-batches-py, and make torchvision expect these files' sums."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import calculate_md5

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, labels = (a.numpy() for a in data.train.take(slice(None)))
    n = len(labels) // 5
    parts = {f"data_batch_{i + 1}": (images[i * n : (i + 1) * n], labels[i * n : (i + 1) * n]) for i in range(5)}
    parts["test_batch"] = tuple(a.numpy() for a in data.test.take(slice(None)))
    for name, (x, y) in parts.items():
        rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": y.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(data.classes)}))
    sums = {name: calculate_md5(str(folder / name)) for name in (*parts, "batches.meta")}
    monkeypatch.setattr(CIFAR10, "train_list", [[k, sums[k]] for k in parts if k != "test_batch"])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    )


@needs_real
@pytest.mark.soak
def test_all_of_cifar10_from_both_layouts(real_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60,000 real images: Parquet shards and torchvision's files give identical arrays; the second start is quick."""

    def load(root: Path) -> Dataset:
        return datasets.load(DataConfig(name="cifar10", root=str(root), cache=str(real_cache)))

    data = load(REAL)
    assert (len(data.train), len(data.test), data.shape, len(data.classes)) == (50000, 10000, (3, 32, 32), 10)
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert data.classes[:2] == ("airplane", "automobile")
    mean, std = data.statistics
    assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)  # the figures that papers print
    assert std == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-4)
    started = time.perf_counter()
    again = load(REAL)
    assert time.perf_counter() - started < 1
    assert again.train.sha256 == data.train.sha256
    torchvision_layout(data, tmp_path / "official", monkeypatch)
    other = load(tmp_path / "official")
    assert same(data, other)
    assert other.classes == data.classes


@needs_real
def test_parts_of_cifar100_and_tiny_imagenet(load: Callable[..., Dataset], tmp_path: Path) -> None:
    data = load("cifar100", REAL / "cifar100-mini")
    assert (len(data.train), len(data.test), data.shape, len(data.classes)) == (10000, 2000, (3, 32, 32), 100)
    tiny = load("tiny-imagenet", REAL)
    assert (len(tiny.train), len(tiny.test), tiny.shape) == (2000, 400, (3, 64, 64))
    with zipfile.ZipFile(REAL / "tiny-imagenet-mini.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
        wnids = archive.read("tiny-imagenet-200/wnids.txt").decode().split()
    assert same(tiny, load("tiny-imagenet", tmp_path / "unpacked"))
    assert wnids != sorted(wnids)  # a class id is a line of the file, not a rank
    first = tmp_path / "unpacked/tiny-imagenet-200/train" / wnids[3] / "images" / f"{wnids[3]}_0.JPEG"
    with Image.open(first) as image:
        expected = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
    at = (tiny.train.labels == 3).nonzero()[0].item()
    assert torch.equal(tiny.train.images[at], expected)


def pictures(root: Path, layout: dict[str, int], *, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> None:
    """Small image files of random pixels: ``{"train/cat": 5}``."""
    rng = np.random.default_rng(0)
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / folder / f"{i:03}.png")


def test_folder(load: Callable[..., Dataset], tmp_path: Path) -> None:
    root = tmp_path / "mine"
    pictures(root, {"train/cat": 3, "train/dog": 2, "val/dog": 2}, mode="L")
    data = load("folder", root)
    assert (data.classes, data.shape) == (("cat", "dog"), (3, 10, 12))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.test.labels.tolist() == [1, 1]
    grey = data.train.images[0]
    assert torch.equal(grey[..., 0], grey[..., 2])
    assert load("folder", root, size=8).shape == (3, 8, 8)
    (root / "train/cat/zzz.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"zzz\.png: not an image that Pillow can read"):
        load("folder", root)
    (root / "train/cat/zzz.png").unlink()
    pictures(root, {"train/cow": 1}, size=(7, 7))
    with pytest.raises(ValueError, match=r"000\.png has 7x7 pixels, .* has 12x10; set data\.size"):
        load("folder", root)
    pictures(root, {"val/elk": 1})
    with pytest.raises(ValueError, match=r"classes that .*train has no images of: elk"):
        load("folder", root, size=8)


@pytest.mark.parametrize("layout", ["folders", "csv"])
def test_mini_imagenet(layout: str, load: Callable[..., Dataset], tmp_path: Path) -> None:
    root = tmp_path / "mini"
    if layout == "folders":
        pictures(root, {"n01": 12, "n02": 12})
    else:
        pictures(root, {"images": 24})
        for name, of in (("train.csv", range(12)), ("val.csv", range(12, 24))):
            (root / name).write_text("filename,label\n" + "".join(f"{i:03}.png,n{i % 2:02}\n" for i in of))
    data = load("mini-imagenet", root)
    assert (len(data.train), len(data.test), data.shape) == (20, 4, (3, 84, 84))  # five sixths of each class train
    assert torch.bincount(data.train.labels).tolist() == [10, 10]
    assert same(data, load("mini-imagenet", root))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet", "mini-imagenet", "folder"])
def test_missing_data_says_what_is_expected_where(
    name: str, load: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    def offline(*args: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", offline)  # CIFAR100 inherits it
    with pytest.raises(ValueError, match=r"expected|no network") as caught:
        load(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_damaged_official_files_are_named(load: Callable[..., Dataset], tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"x")
    with pytest.raises(ValueError, match="cifar-10-batches-py is incomplete or damaged"):
        load("cifar10", tmp_path)


def parquet(path: Path, images: int, *, column: str = "img", label: str = "label") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, rows = np.random.default_rng(1), []
    for i in range(images):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(buffer, "PNG")
        rows.append({column: {"bytes": buffer.getvalue(), "path": f"{i}.png"}, label: i % 2})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_parquet_shards_in_order_and_bad_columns(load: Callable[..., Dataset], tmp_path: Path) -> None:
    for i in range(2):
        parquet(tmp_path / f"train-0000{i}-of-00002.parquet", 3)
    parquet(tmp_path / "test-00000-of-00001.parquet", 2, column="image", label="fine_label")
    data = load("cifar10", tmp_path)
    assert data.train.labels.tolist() == [0, 1, 0] * 2
    assert torch.equal(data.train.images[:3], data.train.images[3:])
    parquet(tmp_path / "test-00000-of-00001.parquet", 2, column="pixels")
    with pytest.raises(ValueError, match=r"has columns \['label', 'pixels'\]; expected img or image"):
        load("cifar10", tmp_path)


USER = """
import numpy as np
def make():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 6, 6, 1), dtype=np.uint8), np.arange(20) % 3, np.zeros((4, 6, 6, 1), np.uint8), np.zeros(4, int)
def floats():
    return np.zeros((2, 6, 6, 1)), np.zeros(2, int), np.zeros((2, 6, 6, 1)), np.zeros(2, int)
def few():
    return np.zeros((2, 6, 6, 1), np.uint8), np.zeros(3, int), np.zeros((2, 6, 6, 1), np.uint8), np.zeros(2, int)
def nothing():
    return None
"""


def test_users_function(load: Callable[..., Dataset], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(USER)
    data = load(f"{file}:make", tmp_path)
    assert (len(data.train), data.shape, data.classes) == (20, (1, 6, 6), ("0", "1", "2"))
    for name, message in {
        "floats": r"images are float64 \[2, 6, 6, 1\]; expected uint8 \[N, 6, 6, 1\]",
        "few": r"labels are int64 \[3\]; expected 2 whole numbers",
        "nothing": r"must return \(train_images, train_labels, test_images, test_labels\), seen NoneType",
        "absent": "has no function 'absent'",
    }.items():
        with pytest.raises(ValueError, match=message):
            load(f"{file}:{name}", tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        load(f"{tmp_path / 'other.py'}:make", tmp_path)


def test_decoded_once_and_mapped(load: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("digits", tmp_path)
    calls: list[str] = []
    monkeypatch.setattr(cache, "_write", lambda *args: calls.append("write"))
    second = load("digits", tmp_path)
    assert calls == []
    assert same(first, second)
    second.train.images[0] = 7  # a mapping of one's own: the file and the others keep their pixels
    assert not torch.equal(load("digits", tmp_path).train.images[0], second.train.images[0])
    assert "cache" in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "meta"])
def test_damaged_cache_is_noticed_and_made_again(damage: str, tmp_path: Path) -> None:
    config = DataConfig(cache=str(tmp_path / "cache"))
    prepared = datasets.prepare(config)
    good = prepared.load().train.pixels().clone()
    entry = tmp_path / "cache" / prepared.key
    path = entry / ("meta.json" if damage == "meta" else "train.arrow")
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "altered":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2])
    noticed: list[str] = []
    again = datasets.prepare(config, notice=noticed.append)
    assert again == prepared
    assert len(noticed) == 1
    assert path.name in noticed[0]
    assert "made again" in noticed[0]
    assert torch.equal(again.load().train.pixels(), good)


def test_a_changed_source_is_another_entry(load: Callable[..., Dataset], tmp_path: Path) -> None:
    root = tmp_path / "mine"
    pictures(root, {"train/a": 2, "test/a": 1})
    before = load("folder", root)
    pictures(root, {"train/b": 1})
    assert len(load("folder", root).train) == len(before.train) + 1


def test_an_entry_travels(tmp_path: Path) -> None:
    prepared = datasets.prepare(DataConfig(cache=str(tmp_path / "here")))
    files = cache.pack(Path(prepared.cache) / prepared.key)
    cache.unpack(tmp_path / "there", prepared.key, files)
    assert cache.problems(tmp_path / "there" / prepared.key) == []
    assert same(cache.read(tmp_path / "there" / prepared.key), prepared.load())


def test_fraction_is_stratified_and_seeded() -> None:
    data = datasets.load(DataConfig())
    full, held = data.held_out(0.1, seed=0)
    part, same_held = data.held_out(0.1, seed=0, fraction=0.2)
    assert held.sha256 == same_held.sha256
    counts, all_counts = (torch.bincount(s.all_labels(), minlength=10) for s in (part, full))
    assert counts.tolist() == [max(1, round(0.2 * n)) for n in all_counts.tolist()]
    assert (
        part.sha256
        == data.held_out(0.1, seed=0, fraction=0.2)[0].sha256
        != data.held_out(0.1, seed=1, fraction=0.2)[0].sha256
    )


def test_extra_images_take_their_share_of_every_batch(tmp_path: Path) -> None:
    file = tmp_path / "generated.npz"
    np.savez(file, image=np.full((50, 8, 8, 1), 255, np.uint8), label=np.full(50, 9))
    config = DataConfig(cache=str(tmp_path / "cache"), extra=str(file), extra_fraction=0.7)
    prepared = datasets.prepare(config)
    train, _ = prepared.load().held_out(0.1, seed=0)
    batches = Batches(train, config, batch_size=20, seed=0, extra=prepared.load_extra())
    seen = []
    for t in range(200):
        batch = batches.batch(t)
        white = (batch.x == 1).flatten(1).all(1)
        assert white.sum() == 14
        assert (batch.y[white] == 9).all()
        seen.append(batch.x[~white])
    assert batches.steps_per_epoch == -(-len(train) // 20)
    originals = torch.cat(seen).flatten(1).unique(dim=0)
    # 200 steps of 6 originals visit no image twice: they are the first 1200 of a permutation
    assert len(originals) >= 1190
    assert torch.equal(
        batches.batch(5).x, Batches(train, config, batch_size=20, seed=0, extra=prepared.load_extra()).batch(5).x
    )
    for arrays, message in (
        ({"images": np.zeros((1, 8, 8, 1), np.uint8)}, "holds images; expected image"),
        ({"image": np.zeros((1, 9, 9, 1), np.uint8), "label": np.zeros(1, int)}, r"expected uint8 \[N, 8, 8, 1\]"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(ValueError, match=message):
            datasets.prepare(config)


def test_class_names_come_from_the_schema_metadata() -> None:
    info = {"info": {"features": {"label": {"names": ["a", "b"]}}}}
    assert cifar.class_names({b"huggingface": json.dumps(info).encode()}, "label") == ("a", "b")
    assert cifar.class_names(None, "label") == ()


def test_two_processes_decode_once(tmp_path: Path) -> None:
    """The lock of a node: the second one waits and finds the entry."""
    import threading

    calls: list[int] = []

    def decode() -> cache.Decoded:
        calls.append(1)
        time.sleep(0.3)
        arrays = (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64))
        return cache.Decoded(("a",), arrays, arrays)

    threads = [threading.Thread(target=cache.ensure, args=(tmp_path, "key", "x", decode)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    shutil.rmtree(tmp_path / "key")
