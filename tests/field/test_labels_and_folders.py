"""Labels and folders as other people have them: what is no class, and labels that no class has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparring.trainers import datasets
from sparring.trainers.config import DataConfig
from tests.conftest import Command
from tests.helpers import small_flags


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("ant", "bee", "cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "images"


def loaded(root: Path, said: list[str] | None = None) -> datasets.Dataset:
    config = DataConfig(name="folder", root=str(root), cache=str(root.parent / "cache"))
    return datasets.prepare(config, notice=(said if said is not None else []).append).load()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "empty"])
def test_what_tools_leave_beside_is_no_class(split: str, name: str, images: Path) -> None:
    """open-mmlab/mmpretrain#507: a notebook's hidden folder became class 0 and moved all labels."""
    before = loaded(images)
    beside = images / split / name
    beside.mkdir()
    if name != "empty":
        (beside / "x.png").write_bytes((images / "train" / "ant" / "0.png").read_bytes())
    (images / split / "ant" / "._0.png").write_bytes(b"a resource fork")
    (images / split / "ant" / "Thumbs.db").write_bytes(b"thumbnails")
    said: list[str] = []
    after = loaded(images, said)
    assert after.classes == before.classes == ("ant", "bee", "cat", "dog")
    assert (len(after.train), len(after.test)) == (16, 16)
    assert (split == "test") or said in ([f"data: no classes, since they are hidden or hold no image: {name}"], [])


def test_labels_of_extra_images(tmp_path: Path, sparring: Command) -> None:
    """The same report: labels up to 19 for ten classes; said before any process starts."""
    np.savez(tmp_path / "x.npz", image=np.zeros((20, 8, 8, 1), np.uint8), label=np.arange(20))
    flags = [*small_flags(max_steps=2), "--data.extra=x.npz", "--data.extra-fraction=0.5"]
    done = sparring("train", "at", *flags)
    assert done.returncode == 4
    assert "x.npz: row 10 has label 10, and 10 of 20 are not among the data set's 10 classes, 0 to 9" in done.stderr
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


USERS = """
import numpy as np

def made():
    x = np.zeros((6, 8, 8, 1), np.uint8)
    return x, np.array({train}), x, np.array({test})
"""


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ([0, 1, 2, 0, 1, -1], [0] * 6, r"row 5 has label -1"),
        ([0, 1, 3, 0, 1, 3], [0] * 6, r"labels run to 3, but class 2 has no training image"),
        ([1, 2, 3, 1, 2, 3], [1] * 6, r"but class 0 has no training image; count from 0"),
        ([0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 0, 1], r"test label 3 has no training image"),
        ([0.5, 1, 2, 0, 1, 2], [0] * 6, r"labels are float64"),
    ],
)
def test_labels_of_a_users_function(train: list[float], test: list[int], words: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(USERS.format(train=train, test=test))
    with pytest.raises(ValueError, match=words):
        datasets.prepare(DataConfig(name=f"{tmp_path}/own.py:made", cache=str(tmp_path / "cache")))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, None, 1], "row 2 of test has label None"),
        ([-1, -1, -1, -1], "hidden test labels, all -1, cannot be evaluated on"),
        ([0, 1, 2, 1], r"row 2 has label 2, and 1 of 4 are not among the data set's 2 classes"),
    ],
)
def test_labels_of_tables(labels: list[int | None], words: str, tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(file, "PNG")
    rows = [{"bytes": file.getvalue(), "path": None}] * 4
    for split, values in (("train", [0, 1, 0, 1]), ("test", labels)):
        pq.write_table(pa.table({"img": rows, "label": values}), tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=words):
        datasets.prepare(DataConfig(name="cifar10", root=str(tmp_path), cache=str(tmp_path / "cache")))
