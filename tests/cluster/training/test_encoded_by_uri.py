"""Runs and evaluations whose images lie at a URI: what they see, how other nodes get the index, what is said of a place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs

from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import DataError, Infrastructure
from sparring.cluster.models.target import Elsewhere
from sparring.cluster.runs import images
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.trainers import datasets
from sparring.trainers.batches import Batches
from sparring.trainers.config import DataConfig
from sparring.trainers.datasets import cache
from sparring.trainers.encoded import checked
from sparring.trainers.encoded.decoding import Undecodable
from tests.cluster.runs.s3 import buckets
from tests.cluster.runs.s3.proxy import Proxy
from tests.cluster.training.test_encoded_runs import QUIET, config, weights
from tests.conftest import Command
from tests.helpers import small
from tests.trainers.encoded import layouts


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """24 training and 6 test images as folders, tar shards, Parquet and ImageNet's archives."""
    splits = layouts.images()
    layouts.folders(tmp_path / "folder", splits)
    layouts.shards(tmp_path / "tar", splits)
    layouts.parquet(tmp_path / "parquet", splits)
    layouts.official_tars(tmp_path / "imagenet", splits)
    (tmp_path / "imagenet" / "ILSVRC2012_validation_ground_truth.txt").write_bytes(layouts.ground_truth(splits))
    numbers = "".join(f"{synset} {n} some_name\n" for synset, n in layouts.IDS.items())
    (tmp_path / "imagenet" / "map_clsloc.txt").write_text(numbers)
    return tmp_path


def asked(made: Path, name: str, root: str | None = None, **changes: object) -> RunConfig:
    plain = {"max_steps": 4, "batch_size": 4, "data__transforms__brightness": 0.0, **changes}
    return config(made, name, **plain, **({} if root is None else {"data__root": root}))


def test_a_run_from_a_uri_is_that_from_the_folder(made: Path, sparring: Command) -> None:
    here = launch.train(asked(made, "tar"), runs_dir=made / "a", name="a", how=QUIET)
    there = launch.train(asked(made, "tar", (made / "tar").as_uri()), runs_dir=made / "b", name="a", how=QUIET)
    assert weights(here.path) == weights(there.path)
    assert RunFolder(there.path).config.data.root == (made / "tar").as_uri()
    for root in ([], [f"--data.root={(made / 'tar').as_uri()}"]):
        done = sparring("evaluate", f"{there.path}@peer0", "--attacks=clean", "--masking=0", "--json", *root)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["agents"]["peer0"]["n"] == 6


def test_uris_stay_as_they_are() -> None:
    for root, kept in (("s3://b/x?region=y", "s3://b/x?region=y"), ("x", str(Path("x").resolve()))):
        assert small(data__root=root).absolute().data.root == kept
        assert Elsewhere(root=Path(root)).images.root == kept
    with pytest.raises(ValueError, match=r"^data\.root with a secret in the URI is refused"):
        DataConfig(root="s3://key:hidden@b/x")


def test_what_is_decoded_once_is_not_read_by_uri(tmp_path: Path) -> None:
    for name in ("cifar10", "folder"):
        with pytest.raises(
            DataError, match=rf"'s3://b/x': {name} is decoded from a folder of this machine; copy it there"
        ):
            images.prepare(DataConfig(name=name, root="s3://b/x", cache=str(tmp_path)))
    with pytest.raises(DataError, match=r"'nothing://b/x' is not a place to read from: .*nothing://b/x"):
        images.prepare(DataConfig(name="tar", root="nothing://b/x", cache=str(tmp_path)))
    with pytest.raises(DataError, match=r"file:///nowhere is not there: .*--data.root URI"):
        images.prepare(DataConfig(name="tar", root="file:///nowhere", cache=str(tmp_path)))


def test_other_nodes_get_the_index_what_was_measured_and_what_is_left_out(made: Path, tmp_path: Path) -> None:
    bad = made / "folder" / "train" / layouts.SYNSETS[1] / f"{layouts.SYNSETS[1]}_1.JPEG"
    bad.write_bytes(b"no image")
    data = asked(made, "folder", (made / "folder").as_uri(), data__bad="skip").data
    found = datasets.encoded.opened(data)
    record = checked.Record(found)
    for split, rows in list(record.left()):
        record.add(split, rows, *checked.look(found.splits[split], rows))
    assert len(record.close()) == 1
    prepared = images.prepare(data)
    assert prepared.stored is not None
    other = replace(
        prepared, cache=str(tmp_path / "other"), stored=replace(prepared.stored, cache=str(tmp_path / "other"))
    )
    assert images.missing(other) == [prepared.key]
    images.receive(other, prepared.key, dict(cache.pack(Path(prepared.cache) / prepared.key)))
    assert images.missing(other) == []
    measured = list((tmp_path / "other").glob(f"{prepared.key}.*.json"))
    assert len(measured) == 1
    before = measured[0].stat().st_mtime_ns
    a, b = prepared.load(), other.load()
    assert measured[0].stat().st_mtime_ns == before
    assert a.train.sha256 == b.train.sha256
    assert len(b.train) == 8
    assert images.prepare(asked(made, "tar").data).keys == []  # of a folder every node makes its own


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of S3."""
    yield from buckets.serving()


@pytest.fixture
def s3(server: int, made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The images in a bucket behind a proxy."""
    for proxy in buckets.emptied(server, made / "home", monkeypatch):
        bucket, _ = fs.FileSystem.from_uri("s3://bucket")
        for name in ("folder", "tar", "parquet", "imagenet"):
            fs.copy_files(str(made / name), f"bucket/{name}", destination_filesystem=bucket)
        yield proxy


@pytest.mark.soak
def test_every_layout_from_s3(s3: Proxy, made: Path, sparring: Command) -> None:
    """In this process and in a loader's; an evaluation; archives are read by ranges, and nothing is written."""
    local = weights(launch.train(asked(made, "folder"), runs_dir=made / "local", name="a", how=QUIET).path)
    s3.asked.clear()
    for name, workers in (("folder", 0), ("tar", 2), ("parquet", 0), ("imagenet", 2)):
        remote = asked(made, name, f"s3://bucket/{name}", loader__workers=workers)
        run = launch.train(remote, runs_dir=made / name, name="a", how=QUIET)
        assert weights(run.path) == local, name
        done = sparring("evaluate", f"{run.path}@peer0", "--attacks=clean", "--masking=0", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["agents"]["peer0"]["n"] == 6
    assert {request.partition(" ")[0] for request in s3.asked} <= {"GET", "HEAD"}


@pytest.mark.soak
@pytest.mark.usefixtures("pooled")
def test_on_ray_from_s3(s3: Proxy, made: Path, ray_session: str) -> None:
    local = launch.train(asked(made, "tar"), runs_dir=made / "local", name="a", how=QUIET)
    there = {"team": "ray", "address": ray_session, "placement__cpus_per_agent": 0.5, "loader__workers": 1}
    root = f"s3://bucket/tar?endpoint_override=127.0.0.1:{s3.port}&scheme=http"  # actors have another environment
    remote = launch.train(asked(made, "tar", root, **there), runs_dir=made / "ray", name="a", how=QUIET)
    assert weights(local.path) == weights(remote.path)


@pytest.mark.soak
def test_what_is_said_of_a_place(s3: Proxy, made: Path) -> None:
    def said(root: str, kind: type[Exception], text: str) -> None:
        with pytest.raises(kind, match=text) as told:
            launch.train(asked(made, "tar", root), runs_dir=made / "runs", name="a", how=QUIET)
        assert "\n" not in str(told.value)
        assert not (made / "runs" / "a").exists()

    said("s3://no-such-bucket/tar", DataError, "there is no such bucket, or nothing under that prefix.*--data.root URI")
    said("s3://bucket/nothing", DataError, "there is no such bucket, or nothing under that prefix.*--data.root URI")
    said("s3://bucket/folder", DataError, "s3://bucket/folder holds no shards of both splits: expected NAME-train")
    s3.fault = lambda request: "403"
    said(
        "s3://bucket/tar",
        Infrastructure,
        r"s3://bucket/tar could not be read: .*ACCESS_DENIED.*takes your keys .*repeat",
    )


@pytest.mark.soak
@pytest.mark.parametrize("name", ["tar", "parquet", "imagenet"])
def test_an_archive_that_changes_is_noticed(name: str, s3: Proxy, made: Path) -> None:
    data = asked(made, name, f"s3://bucket/{name}").data
    prepared = images.prepare(data)
    Batches(prepared.load().train, data, batch_size=4, seed=0).batch(0)
    bucket, _ = fs.FileSystem.from_uri("s3://bucket")
    for info in bucket.get_file_info(fs.FileSelector(f"bucket/{name}", recursive=True)):
        if info.is_file and "train" in info.path:
            with bucket.open_input_file(info.path) as file:
                content = file.read()
            with bucket.open_output_stream(info.path) as sink:
                sink.write(bytes(content) + bytes(512))
    with pytest.raises(Undecodable, match=r"it changed since this run began.*sparring resume RUN, or begin a new run$"):
        Batches(prepared.load().train, data, batch_size=4, seed=0).batch(0)


@pytest.mark.soak
@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_that_stops_answering_ends_a_run_that_goes_on(workers: int, s3: Proxy, made: Path) -> None:
    remote = asked(made, "folder", "s3://bucket/folder", loader__workers=workers, checkpoint__every=1)
    whole = launch.train(remote, runs_dir=made / "whole", name="a", how=QUIET)
    trained = made / "runs" / "a" / "checkpoints" / "step-000001" / "COMMITTED"
    s3.fault = lambda request: "500" if trained.exists() and "/train/" in request else ""
    with pytest.raises(Infrastructure, match=r"train/.* could not be read: .*sparring resume RUN"):
        launch.train(remote, runs_dir=made / "runs", name="a", how=QUIET)
    s3.fault = lambda request: ""
    launch.resume(made / "runs" / "a", how=QUIET)
    assert weights(made / "runs" / "a") == weights(whole.path)
