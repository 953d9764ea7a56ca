"""Files that power failures, other versions and bad copies leave: named by file and line, and a whole checkpoint goes on."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sparring.cluster.evaluation import verify
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.runs import lock
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers import datasets, decoder
from sparring.trainers.config import DataConfig
from sparring.trainers.datasets import corruptions
from sparring.trainers.datasets.decode import reading
from tests.conftest import Command
from tests.helpers import damaged, small

TEST = datasets.load(DataConfig()).test


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with an evaluation."""
    config = small("at", team="local", max_steps=6, checkpoint__every=2)
    run = launch.train(config, runs_dir=tmp_path_factory.mktemp("runs"), name="r", how=Circumstances(quiet=True))
    evaluate_run(RunFolder(run.path), attacks=["clean", "fgsm"], examples=40, block=16, name="e", masking=0)
    return run.path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "runs" / "r")


def resumed(run: Path) -> str:
    """Go on with the run; what it says."""
    launch.resume(run, how=Circumstances(quiet=True))
    return (run / "log.txt").read_text()


def interrupted(run: Path) -> None:
    """As if the run had been stopped after its fourth step."""
    shutil.rmtree(run / "checkpoints" / "step-000006")


def zeros(path: Path, line: int) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[line] = bytes(len(lines[line]))
    path.write_bytes(b"\n".join(lines))


@pytest.mark.parametrize("name", ["metrics.jsonl", "validation.jsonl"])
def test_a_line_of_zeros(name: str, run: Path, sparring: Command) -> None:
    zeros(run / name, 1)
    done = sparring("report", "runs/r", "--examples=8")
    assert done.returncode == 5, done.stderr
    assert f"{name} cannot be read: line 2 is b'\\x00" in done.stderr
    assert "sparring resume runs/r" in done.stderr
    interrupted(run)
    assert f"{name}: line 2 cannot be read and is left out" in resumed(run)
    assert (run / "checkpoints" / "step-000006" / "COMMITTED").is_file()


@pytest.mark.parametrize("content", [b"", b'{"agents": {"model"', b"\x00" * 50, b"[1]", b"{}"])
def test_a_damaged_env_json(content: bytes, run: Path, finished: Path, sparring: Command) -> None:
    interrupted(run)
    (run / "env.json").write_bytes(content)
    for command in (("report", "runs/r"), ("publish", "runs/r", "--as=m"), ("evaluate", "runs/r")):
        done = sparring(*command)
        assert done.returncode == 5, (command, done.stderr)
        assert "env.json cannot be read" in done.stderr
    assert "env.json cannot be read and is written anew" in resumed(run)
    assert (run / "env.json.damaged").read_bytes() == content
    assert json.loads((run / "env.json").read_text())["agents"]["model"]["total_steps"] == 6
    whole, again = (p / "checkpoints" / "step-000006" / "MANIFEST.json" for p in (finished, run))
    assert whole.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("content", ["[]", "3", '"x"', "", "{", "\x00"])
def test_a_lock_of_another_form(content: str, run: Path, sparring: Command) -> None:
    interrupted(run)
    (run / "run.lock").write_text(content)
    assert not lock.is_running(run)
    assert sparring("runs").returncode == 0
    resumed(run)


def test_a_lock_that_is_a_folder(run: Path, sparring: Command) -> None:
    (run / "run.lock").mkdir()
    assert sparring("runs").returncode == 0
    done = sparring("resume", "runs/r")
    assert done.returncode == 3, done.stderr
    assert "run.lock is a folder" in done.stderr


def sealed(step: Path, manifest: Any) -> None:
    content = json.dumps(manifest).encode()
    (step / "MANIFEST.json").write_bytes(content)
    (step / "COMMITTED").write_text(hashlib.sha256(content).hexdigest() + "\n")


@pytest.mark.parametrize("manifest", [{}, [], {"files": []}, {"files": {}, "validation": {}}])
def test_a_sealed_manifest_of_another_form(manifest: Any, run: Path, sparring: Command) -> None:
    sealed(run / "checkpoints" / "step-000006", manifest)
    found = sparring("fsck", "runs/r")
    assert found.returncode == 5
    assert "step-000006/MANIFEST.json: it " in found.stdout
    assert "the newest whole checkpoint is step 4" in found.stdout
    assert sparring("evaluate", "runs/r").returncode == 5
    assert sparring("runs").returncode == 0
    resumed(run)


@pytest.mark.parametrize("field", ["lr_factor", "network", "t", "method", "extra"])
def test_a_state_with_a_field_less(field: str, run: Path, sparring: Command) -> None:
    step = run / "checkpoints" / "step-000004"
    interrupted(run)
    path = step / "agents" / "model" / "state.json"
    facts = json.loads(path.read_text())
    del facts[field]
    path.write_text(json.dumps(facts))
    manifest = json.loads((step / "MANIFEST.json").read_text())
    manifest["files"]["agents/model/state.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    sealed(step, manifest)
    done = sparring("resume", "runs/r")
    assert done.returncode == 5, done.stderr
    assert f"state.json has no {field}" in done.stderr


def edited(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a block, and seal it: its sha256 in the report is the new one's."""
    pq.write_table(change(pq.read_table(path)), path)
    report = path.parents[3] / "report.json"
    facts = json.loads(report.read_text())
    facts["blocks"][str(path.relative_to(path.parents[3]))] = hashlib.sha256(path.read_bytes()).hexdigest()
    report.write_text(json.dumps(facts))


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


BLOCKS: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "a column less": (lambda t: t.drop_columns(["index"]), "column index is missing; expected int64"),
    "texts": (lambda t: with_column(t, "label", pa.array(["x"] * len(t))), "column label is of string; expected int64"),
    "lists": (lambda t: with_column(t, "margin", pa.array([[1.0]] * len(t))), "column margin is of list"),
    "nulls": (
        lambda t: with_column(t, "label", pa.array([None, *range(len(t) - 1)], pa.int64())),
        "column label has 1 rows without a value",
    ),
    "rows": (lambda t: pa.concat_tables([t] * 2000), "has 32000 rows; expected 16"),
    "a witness as text": (lambda t: with_column(t, "witness", pa.array(["x"] * len(t))), "column witness is of string"),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_of_another_form(kind: str, run: Path) -> None:
    change, words = BLOCKS[kind]
    path = sorted((run / "evaluation" / "e" / "blocks").rglob("*.parquet"))[0]
    edited(path, change)
    problems = verify.evaluation(run / "evaluation" / "e").problems
    assert any(path.name in p and words in p for p in problems), problems


DOCUMENTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "block 0": ("settings.json", lambda d: d | {"block": 0}, "block = 0 is not allowed"),
    "n 1e9": ("settings.json", lambda d: d | {"n": 10**9}, "n is 1000000000, its examples are 40"),
    "no threats": ("settings.json", lambda d: d | {"threats": [], "eps": []}, "do not belong together"),
    "a threat of another kind": ("settings.json", lambda d: d | {"threats": [3]}, "do not belong together"),
    "agents a list": ("settings.json", lambda d: d | {"agents": ["model"]}, "agents is ['model']; expected dict"),
    "agent a text": ("settings.json", lambda d: d | {"agents": {"model": "x"}}, "agents.model is 'x'"),
    "agent without weights": ("settings.json", lambda d: d | {"agents": {"model": {}}}, "expected weights or members"),
    "no data": ("settings.json", lambda d: d | {"data": {}}, "data.sha256 is missing"),
    "settings a list": ("settings.json", lambda d: [d], "holds a list; expected a mapping"),
    "report a list": ("report.json", lambda d: [d], "holds a list; expected a mapping"),
    "report without agents": ("report.json", lambda d: {"blocks": {}}, "agents is None; expected dict"),
    "report's agent a number": ("report.json", lambda d: d | {"agents": {"model": 3}}, "agents.model is 3"),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_document_of_another_form(kind: str, run: Path, sparring: Command) -> None:
    name, change, words = DOCUMENTS[kind]
    path = run / "evaluation" / "e" / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    done = sparring("verify", "runs/r/evaluation/e")
    assert done.returncode == 5, done.stderr
    assert words in done.stdout


def test_verify_writes_nothing(run: Path) -> None:
    def files() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in sorted(run.rglob("*"))}

    shutil.rmtree(run / "evaluation" / "e" / "blocks")
    before = files()
    assert verify.evaluation(run / "evaluation" / "e").problems
    assert files() == before


def png(size: int = 12) -> bytes:
    rng, file = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def jpeg(size: int = 48, **options: Any) -> bytes:
    rng, file = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"quality": 30}], ids=str)
def test_a_jpeg_whose_end_was_put_back(options: dict[str, Any]) -> None:
    """Pillow fills what is missing with the last colour, and says nothing."""
    whole = jpeg(**options)
    assert decoder.pixels(whole).shape == (48, 48, 3)
    for share in (0.5, 0.7, 0.9):
        with pytest.raises(decoder.Refused, match="damaged image"):
            decoder.pixels(whole[: int(len(whole) * share)] + b"\xff\xd9")


def test_a_jpeg_whose_header_claims_more_rows() -> None:
    content = bytearray(jpeg())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 2] = (96).to_bytes(2, "big")
    with pytest.raises(decoder.Refused, match="damaged image"):
        decoder.pixels(bytes(content))


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_a_jpeg_of_one_colour_is_whole(colour: int) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (colour,) * 3).save(file, "JPEG")
    assert (decoder.pixels(file.getvalue()) == colour).all()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, image=np.zeros((4, 8, 8, 1), np.uint8), label=np.arange(4))
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((364, 8, 8, 1), np.uint8))
    return file.getvalue()


def shard() -> bytes:
    file = io.BytesIO()
    rows = [{"bytes": png(), "path": None}] * 3
    pq.write_table(pa.table({"img": rows, "label": [0, 1, 1]}), file)
    return file.getvalue()


def tiny() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny-imagenet-200/wnids.txt", "n1\nn2\n")
        for wnid in ("n1", "n2"):
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_0.JPEG", jpeg(16))
        archive.writestr("tiny-imagenet-200/val/images/val_0.JPEG", jpeg(16))
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "val_0.JPEG\tn1\t0\t0\t1\t1\n")
    return file.getvalue()


def _npz(path: Path, root: Path) -> None:
    from sparring.trainers.datasets import arrays

    arrays.extra(path, (8, 8, 1), 10, str(root / "cache"))[1](datasets.silent)


def _npy(path: Path, root: Path) -> None:
    np.save(path.parent / "labels.npy", TEST.all_labels().numpy())
    for _, parts in corruptions.load(path.parent, TEST):
        assert all(len(p) for p in parts)


def _shard(path: Path, root: Path) -> None:
    datasets.prepare(DataConfig(name="cifar10", root=str(path.parent), cache=str(root / "cache"), download=False))


def _tiny(path: Path, root: Path) -> None:
    datasets.prepare(DataConfig(name="tiny-imagenet", root=str(path), cache=str(root / "cache")))


def _image(path: Path, root: Path) -> None:
    with reading(path):
        decoder.pixels(path.read_bytes())


FORMATS: dict[str, tuple[str, bytes, Callable[[Path, Path], None]]] = {
    "png": ("x.png", png(), _image),
    "jpeg": ("x.jpg", jpeg(24), _image),
    "npz": ("x.npz", npz(), _npz),
    "npy": ("dark.npy", npy(), _npy),
    "zip": ("tiny-imagenet-200.zip", tiny(), _tiny),
    "parquet": ("train-0.parquet", shard(), _shard),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_end_in_an_array_or_in_our_error(kind: str, tmp_path: Path) -> None:
    """A few bytes changed, cut out or put in, 2,000 times a format; anything but a ValueError that names the file fails."""
    name, whole, read = FORMATS[kind]
    rng, file = random.Random(0), tmp_path / "files" / name
    file.parent.mkdir()
    (tmp_path / "files" / "test-0.parquet").write_bytes(shard())
    refused = taken = 0
    for _ in range(2000):
        file.write_bytes(damaged(whole, rng))
        try:
            read(file, tmp_path)
            taken += 1
        except ValueError as error:
            refused += str(file) in str(error) or str(file.parent) in str(error)
    assert refused + taken == 2000
    assert refused > 200


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.npz", npy(), "x.npz"),
        ("x.npz", b"", "x.npz"),
        ("x.npz", b"PK\x03\x04", "x.npz"),
        ("tiny-imagenet-200.zip", b"", "tiny-imagenet-200.zip"),
    ],
)
def test_files_of_another_kind_are_named(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        (_npz if name.endswith("npz") else _tiny)(tmp_path / name, tmp_path)


def test_a_header_of_more_than_there_is_memory(tmp_path: Path) -> None:
    """An array that claims 64 TB, and a picture of 400 million pixels: refused by name, in no time."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (70368744177664,), }"
    header += b" " * (64 - (len(header) + 11) % 64) + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("image.npy", array)
        archive.writestr("label.npy", array)
    with pytest.raises(ValueError, match=r"x\.npz"):
        _npz(tmp_path / "x.npz", tmp_path)
    content = bytearray(png())
    content[16:24] = (20_000).to_bytes(4, "big") * 2
    content[29:33] = __import__("zlib").crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(decoder.Refused, match=r"image too large|damaged image"):
        decoder.pixels(bytes(content))
