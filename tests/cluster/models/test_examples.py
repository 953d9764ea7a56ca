"""Test images that a list of file names chooses: whatever holds them, in whatever order; every name means one image or ends it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from sparring.cluster.errors import UsageError
from sparring.cluster.models.examples import Listed, load_test
from sparring.trainers.config import DataConfig
from tests.conftest import Command
from tests.trainers.encoded import layouts

NET = """
import torch
from torch import nn

def make(dataset=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
"""


def listed(*names: str) -> Listed:
    return Listed("\n".join(names).encode(), names)


def data(root: Path, name: str = "imagenet") -> DataConfig:
    return DataConfig(name=name, root=str(root), cache=str(root.parent / "cache"), size=8, encoded=True)


@pytest.mark.parametrize("layout", ["archives", "folders", "flat"])
def test_of_imagenet_in_every_layout(layout: str, tmp_path: Path) -> None:
    """RobustBench's names, SYNSET/FILE.JPEG, and others that end in the same."""
    splits = layouts.images()
    if layout == "archives":
        layouts.official_tars(tmp_path / "in", splits)
    elif layout == "folders":
        layouts.folders(tmp_path / "in", splits)
    else:
        layouts.folders(tmp_path / "in", {"train": splits["train"]})
        layouts.flat_val(tmp_path / "in", splits["val"])
    (tmp_path / "in" / "val.txt").write_text("".join(f"{name} {synset}\n" for synset, name, _ in splits["val"]))
    wanted = [splits["val"][i] for i in (5, 0, 3)]
    found = load_test(data(tmp_path / "in"), listed(*(f"{synset}/{name}" for synset, name, _ in wanted)))
    assert [found.images.images.read(i) for i in found.rows.tolist()] == [splits["val"][i][2] for i in (0, 3, 5)]
    assert found.all_labels().tolist() == [0, 1, 2]
    other = load_test(data(tmp_path / "in"), listed(*(f"val/x/{Path(name).stem}" for _, name, _ in reversed(wanted))))
    assert other.sha256 == found.sha256


def test_a_name_that_several_have_is_told_apart_by_its_folders(tmp_path: Path) -> None:
    found = [(name, f"{i}.png", layouts.file("PNG", seed=i)) for name in ("ant", "bee") for i in range(2)]
    layouts.folders(tmp_path / "in", {"train": found, "val": [*found, ("bee", "7.png", found[0][2])]})
    of = data(tmp_path / "in", "folder")
    assert load_test(of, listed("bee/1.png", "0/ant/0.png", "7.png")).rows.tolist() == [0, 3, 4]
    with pytest.raises(
        UsageError,
        match=r"2 names are names of several images: 0.png, cat/1.png; .* has 5 test images, such as val/ant/0.png",
    ):
        load_test(of, listed("ant/0.png", "0.png", "cat/1.png"))
    with pytest.raises(UsageError, match=r"4 names have no image: 11, 12, 13, \.\.\.;"):
        load_test(of, listed("11", "12", "13", "14", "7.png"))
    with pytest.raises(UsageError, match=r"2 names are images that come twice: 7.png, bee/7.png;"):
        load_test(of, listed("7.png", "bee/7.png", "ant/0.png"))


def test_images_without_names() -> None:
    with pytest.raises(
        UsageError, match=r"were decoded once and have no names; .* imagenet, tar, parquet, folder with --data.encoded"
    ):
        load_test(DataConfig(), listed("a"))


def test_an_evaluation_of_listed_images(tmp_path: Path, sparring: Command) -> None:
    Path("net.py").write_text(NET)
    names = [f"generated test image {i}" for i in np.random.default_rng(0).permutation(40)[:25]]
    Path("a.txt").write_text("\n".join(names) + "\n\n")
    Path("b.txt").write_text("\r\n".join(sorted(names)))
    flags = ("--data.name=generated:400", "--data.size=16", f"--data.cache={tmp_path / 'c'}", "--threat=linf:0.1")
    reports = []
    for file in ("a.txt", "b.txt"):
        done = sparring("evaluate", "net.py:make", *flags, "--attacks=clean,pgd-1", f"--examples-from={file}", "--json")
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    first, second = reports
    sha256 = hashlib.sha256(Path("a.txt").read_bytes()).hexdigest()
    assert first["examples"] == {"sha256": sha256, "n": 25}
    assert first["blocks"] == second["blocks"]  # the same images in the same order
    place = Path(first["report"]).parent
    assert sparring("verify", place).returncode == 0
    (place / "examples.txt").write_text("generated test image 0")
    done = sparring("verify", place)
    assert done.returncode == 4
    assert f"examples.txt is not the list of images of the evaluation (sha256 {sha256})" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--examples=3", "--examples-from=a.txt"),
            "--examples 3 and --examples-from a.txt both say which test images",
        ),
        (("--examples-from=b.txt",), "the list of images b.txt cannot be read"),
        (("--examples-from=empty.txt",), "the list of images empty.txt is empty"),
    ],
)
def test_lists_that_say_nothing(flags: tuple[str, ...], words: str, sparring: Command) -> None:
    Path("net.py").write_text(NET)
    Path("a.txt").write_text("a\n")
    Path("empty.txt").write_text("\n \n")
    done = sparring("evaluate", "net.py:make", "--threat=linf:0.1", *flags)
    assert done.returncode == 2
    assert words in done.stderr
