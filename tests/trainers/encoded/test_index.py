"""The index: made once, by one process, mapped in every other; made again where a file changes or it is damaged."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from array import array
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from sparring.trainers.encoded import images
from sparring.trainers.encoded.index import Places
from tests.helpers import CLONE
from tests.trainers.encoded import layouts
from tests.trainers.encoded.layouts import opened

SPLITS = layouts.images()
MAKE = {
    "imagenet": lambda root: layouts.official_tars(root, SPLITS) or val_txt(root),
    "folder": lambda root: layouts.folders(root, SPLITS),
    "tar": lambda root: layouts.shards(root, SPLITS),
    "parquet": lambda root: layouts.parquet(root, SPLITS),
}
ONE = {  # a file of each
    "imagenet": "ILSVRC2012_img_train.tar",
    "folder": "train/n01440764/n01440764_1.JPEG",
    "tar": "some-train-000001.tar",
    "parquet": "data/train-00000-of-00002.parquet",
}


def val_txt(root: Path) -> None:
    (root / "val.txt").write_text("".join(f"{name} {of}\n" for of, name, _ in SPLITS["val"]))


@pytest.mark.parametrize("name", MAKE)
def test_made_again_when_a_file_changes_and_only_then(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    MAKE[name](root)
    told: list[str] = []
    first = opened(name, root, notice=told.append)
    assert told == [f"data: index of {name} made, once: 9 + 6 images"]
    again = opened(name, root, notice=told.append)
    assert len(told) == 1
    assert (again.train.sha256, again.place) == (first.train.sha256, first.place)
    assert first.train.sha256 != first.test.sha256
    changed = root / ONE[name]
    os.utime(changed, ns=(1, changed.stat().st_mtime_ns + 1))
    other = opened(name, root, notice=told.append)
    assert len(told) == 2
    assert other.place != first.place
    assert other.train.sha256 == first.train.sha256  # a copy on another machine has other times, and is the same
    if name == "folder":
        changed.write_bytes(changed.read_bytes() + b"\0")
        assert opened(name, root).train.sha256 != first.train.sha256


def test_another_list_of_labels_is_another_index(tmp_path: Path) -> None:
    root = tmp_path / "data"
    MAKE["imagenet"](root)
    first = opened("imagenet", root)
    lines = (root / "val.txt").read_text().replace("n02102040", "n01440764")
    (root / "val.txt").write_text(lines)
    assert opened("imagenet", root).test.labels.tolist() != first.test.labels.tolist()


def test_a_damaged_index_is_noticed_and_made_again(tmp_path: Path) -> None:
    root, told = tmp_path / "data", []
    MAKE["tar"](root)
    place = opened("tar", root).place
    content = bytearray((place / "train.arrow").read_bytes())
    content[len(content) // 2] ^= 1
    (place / "train.arrow").write_bytes(content)
    data = opened("tar", root, notice=told.append)
    assert told[-1] == f"cache: {place / 'train.arrow'} is damaged; made again"
    assert data.train.read(0) == SPLITS["train"][0][2]


def test_what_changed_behind_the_index_is_not_trained_on(tmp_path: Path) -> None:
    root = tmp_path / "data"
    MAKE["folder"](root)
    data = opened("folder", root)
    (root / ONE["folder"]).write_bytes(b"shorter")
    with pytest.raises(ValueError, match=r"n01440764_1\.JPEG has 7 bytes; \d+ were indexed"):
        data.train.read(1)
    (root / ONE["folder"]).unlink()
    with pytest.raises(FileNotFoundError, match="n01440764_1"):
        data.train.read(1)


READER = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
splits = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps([[s.read(i) for i in range(len(s))] for s in splits]))
assert not {"torch", "pandas"} & set(sys.modules), "a process that reads is to stay small"
"""


def test_another_process_opens_the_files_anew(tmp_path: Path) -> None:
    splits = list(opened("generated:20", tmp_path / "none").splits.values())
    for name, make in MAKE.items():
        make(tmp_path / name)
        splits += opened(name, tmp_path / name).splits.values()
    here = [[split.read(i) for i in range(len(split))] for split in splits]  # their files are open
    done = subprocess.run(
        [sys.executable, "-c", READER, str(CLONE)], input=pickle.dumps(splits), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert pickle.loads(done.stdout) == here


def test_a_fork_shares_no_open_file(tmp_path: Path) -> None:
    MAKE["tar"](tmp_path / "data")
    train = opened("tar", tmp_path / "data").train
    train.read(0)
    before = train._files.get(0)  # type: ignore[attr-defined]
    assert train._files.get(0) is before  # type: ignore[attr-defined]
    child = os.fork()
    if child == 0:
        os._exit(0 if train._files.get(0) is not before and train.read(8) == SPLITS["train"][8][2] else 1)  # type: ignore[attr-defined]
    assert os.waitpid(child, 0)[1] == 0


def test_no_more_files_are_open_than_a_system_allows() -> None:
    made: list[int] = []
    kept = images.Kept(lambda key: made.append(key) or key, 3)
    for key in (0, 1, 2, 0, 3, 0, 1):
        assert kept.get(key) == key
    assert made == [0, 1, 2, 3, 1]  # 1 was the longest unused when 3 came


def _open(root: Path, ready: Barrier, told: Any) -> None:
    ready.wait()
    opened("tar", root, notice=told.put)


def test_two_processes_make_one_index(tmp_path: Path) -> None:
    root, fresh = tmp_path / "data", multiprocessing.get_context("fork")
    MAKE["tar"](root)
    ready, told = fresh.Barrier(2), fresh.Queue()
    both = [fresh.Process(target=_open, args=(root, ready, told)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert told.get(timeout=10).startswith("data: index of tar made")
    assert told.empty()


MILLION = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
def own():  # bytes of this process's own memory: pages of mapped files are the system's
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024
from pyarrow import fs
import pyarrow.parquet
from sparring.trainers.encoded.generated import Generated
from sparring.trainers.encoded.images import Stored
before = own()
split = eval(sys.argv[2])
assert len(split) == 10**6
assert split.labels[999_999] == 999_999 % 10
assert "999999" in split.name(999_999)
total = sum(len(split.name(i)) for i in range(0, 10**6, 1000))
print(own() - before)
"""


@pytest.mark.parametrize("kind", ["generated", "indexed"])
def test_a_million_images_cost_a_process_next_to_nothing(kind: str, tmp_path: Path) -> None:
    code = "Generated('train', 10**6, (64, 64))"
    if kind == "indexed":
        places, n = Places(), 10**6
        places.container, places.offset = array("i", [-1]) * n, array("q", [0]) * n
        places.size, places.label = array("q", [1]) * n, array("q", range(10)) * (n // 10)
        places.names = bytearray(b"".join(b"n01440764/n01440764_%06d.JPEG" % i for i in range(n)))
        places.ends = array("q", range(0, len(places.names) + 1, len("n01440764/n01440764_999999.JPEG")))
        places.write(tmp_path / "train.arrow")
        size = (tmp_path / "train.arrow").stat().st_size
        assert size / 10**6 < 36 + len("n01440764/n01440764_999999.JPEG") + 1
        code = f"Stored(Path({str(tmp_path / 'train.arrow')!r}), (), fs.LocalFileSystem(), '')"
    done = subprocess.run(
        [sys.executable, "-c", MILLION, str(CLONE), code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50 * 2**20
