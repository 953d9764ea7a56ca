"""``sparring data check`` as a user runs it: what is bad, exit codes, sizes, duplicates, going on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparring.cluster.datasets import check
from sparring.trainers import encoded
from sparring.trainers.config import DataConfig
from sparring.trainers.encoded import checked
from tests.conftest import Command
from tests.trainers.encoded import layouts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Good images, one of them twice in train and once in test."""
    splits = layouts.images()
    name, _, content = splits["train"][0]
    splits["train"].append((name, "z.JPEG", content))
    splits["val"].append((name, "z.JPEG", content))
    splits["train"].append((name, "large.png", layouts.file("PNG", size=(40, 30))))
    layouts.folders(tmp_path / "data", splits)
    return tmp_path / "data"


def test_good_images(sparring: Command, root: Path) -> None:
    where = ("--data.root", root, "--data.cache", "cache", "--workers", 2)
    done = sparring("data", "check", "folder", *where, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bad"] == []
    assert result["images"] == {"train": 11, "test": 7}
    assert result["looked_at"] == 18
    assert result["sizes"] == {"smallest": [12, 9], "median": [12, 9], "largest": [40, 30], "different": 2}
    twice = result["duplicates"]
    assert (twice["train"], twice["test"], twice["across"]) == (1, 0, 1)
    assert twice["names"] == [["train/n01440764/n01440764_0.JPEG", "val/n01440764/z.JPEG"]]
    assert result["classes"]["most"] == {"class": "n01440764", "images": 5}
    assert "looked at 18 of 18 images" in done.stderr
    again = json.loads(sparring("data", "check", "folder", *where[:-1], 1, "--again", "--json", "--quiet").stdout)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}  # however many workers look
    done = sparring("data", "check", "folder", *where)
    assert done.returncode == 0, done.stderr
    assert "looked at" not in done.stderr  # all of it is known
    assert "val/n01440764/z.JPEG is train/n01440764/n01440764_0.JPEG" in done.stdout
    assert "every image can be decoded" in done.stdout


def test_bad_images_exit_4_and_are_kept_for_runs(sparring: Command, root: Path, tmp_path: Path) -> None:
    (root / "train" / "n02102040" / "bad one.jpg").write_bytes(b"")
    done = sparring("data", "check", "folder", f"--data.root=file://{root}", "--data.cache", "cache", "--workers", 1)
    assert done.returncode == 4
    assert "bad: train/n02102040/bad one.jpg: a file of 0 bytes" in done.stderr
    assert "bad         1: a file of 0 bytes" in done.stdout
    config = DataConfig(name="folder", root=str(root), cache=str(tmp_path / "cache"))
    known = checked.known_bad(check.opened(replace(config, root=f"file://{root}")))
    assert known is not None
    assert known[0].name == "train/n02102040/bad one.jpg"
    assert checked.known_bad(encoded.opened(config)) == known  # the same files by another name


def test_what_cannot_be_opened(sparring: Command, tmp_path: Path) -> None:
    done = sparring("data", "check", "imagenet", "--data.root", "nowhere", "--data.cache", "cache")
    assert done.returncode == 4
    assert "imagenet is not at nowhere: expected train/nXXXXXXXX" in done.stderr
    done = sparring("data", "check", "imagnet", "--data.cache", "cache")
    assert done.returncode == 4
    assert "did you mean 'imagenet'?" in done.stderr
    done = sparring("data", "check", "tar", "--data.root", "s3://key:secret@bucket/x")
    assert done.returncode == 2
    assert "secret@" not in done.stderr
