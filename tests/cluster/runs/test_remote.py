"""Runs and published models by URI: what is read, what is fetched again, what is refused, and that nothing is written there."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import fs

import sparring
from sparring.agents import model_folder
from sparring.cluster.commands.main import main
from sparring.cluster.errors import BrokenCheckpoint, Infrastructure, UsageError
from sparring.cluster.models.initial import resolved
from sparring.cluster.runs import copies, places, remote
from sparring.cluster.runs.checkpoints import Checkpoints
from sparring.cluster.runs.mirror import Mirror
from sparring.cluster.serving import models as served
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.helpers import bytes_of, small

QUIET = Circumstances(quiet=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its mirror, and a published model: ``run``, ``mirror/run``, ``models/robust/1``."""
    base = tmp_path_factory.mktemp("made")
    config = small("mat", team="local", max_steps=10, mirror=(base / "mirror").as_uri())
    launch.train(config, runs_dir=base, name="run", how=QUIET)
    sparring.publish(base / "run", "robust", agent="peer0", models_dir=base / "models")
    return base


@pytest.fixture
def there(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of this test's own with the run and the model; the cache is new."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(made / "mirror", tmp_path / "there" / "runs")
    shutil.copytree(made / "models", tmp_path / "there" / "models")
    return tmp_path / "there"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of all files that are asked for, as they are asked for."""
    seen: list[str] = []
    real = places.Place.chunks

    def chunks(place: places.Place, name: str) -> Iterator[bytes]:
        seen.append(name)
        return real(place, name)

    monkeypatch.setattr(places.Place, "chunks", chunks)
    return seen


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


def leftovers() -> list[str]:
    """What is neither whole nor a copy of something: temporary files, and kept files that are not what their name says."""
    found = [str(p) for p in copies.cache().rglob("*.tmp")]
    kept = [p for p in copies.cache().glob("files/*") if p.is_file()]
    return found + [str(p) for p in kept if hashlib.sha256(p.read_bytes()).hexdigest() != p.name]


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_run_and_a_model_by_their_uris(made: Path, there: Path) -> None:
    before = everything(there)
    run, model = (there / "runs" / "run").as_uri(), (there / "models" / "robust").as_uri()
    for agent in ("peer0", "peer1"):
        assert same(sparring.load(f"{run}@{agent}"), sparring.load(made / "run", agent=agent))
        assert same(sparring.load(Path(run), agent=agent), sparring.load(made / "run", agent=agent))
    assert same(sparring.load(f"ensemble:{run}"), sparring.load(f"ensemble:{made / 'run'}"))
    assert same(
        sparring.load(run, agent="peer1", checkpoint="last"),
        sparring.load(made / "run", agent="peer1", checkpoint="last"),
    )
    assert same(sparring.load(model), model_folder.load(made / "models" / "robust" / "1"))
    assert same(sparring.load(f"{model}/1"), sparring.load(model))
    copied = Path(remote.local(run))
    assert copied.name == "run"
    assert bytes_of_records(copied) == bytes_of_records(made / "run")
    assert everything(there) == before
    assert not leftovers()


def bytes_of_records(run: Path) -> dict[str, Any]:
    last = Checkpoints(run / "checkpoints").committed()[-1]
    found = {name: (run / name).read_bytes() for name in ("config.yaml", "env.json", "validation.jsonl")}
    return {**found, "manifest": Checkpoints(run / "checkpoints").manifest(last)}


@pytest.mark.parametrize("kind", ["subtree", "mock"])
def test_any_file_system(kind: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in here knows which one it is: the same by another root, and in memory."""
    if kind == "subtree":
        system: Any = fs.SubTreeFileSystem(str(there), fs.LocalFileSystem())
    else:
        system = fs._MockFileSystem()
        for path in (p for p in there.rglob("*") if p.is_file()):
            to = str(path.relative_to(there))
            system.create_dir(str(Path(to).parent))
            with system.open_output_stream(to) as file:
                file.write(path.read_bytes())

    def opened(uri: str, **_: str) -> places.Place:
        return places.Place(uri, system, uri.removeprefix("mine://"))

    monkeypatch.setattr(places, "opened", opened)
    for step in (there / "runs" / "run" / "checkpoints").glob("step-*"):
        assert Checkpoints(there / "runs" / "run" / "checkpoints").problems(int(step.name[5:])) == []
    assert same(sparring.load("mine://runs/run@peer1"), sparring.load(there / "runs" / "run", agent="peer1"))
    assert same(sparring.load("mine://models/robust"), sparring.load(there / "models" / "robust"))


def test_the_second_time_only_what_changed_is_fetched(made: Path, there: Path, fetched: list[str]) -> None:
    run = there / "runs" / "run"
    first = remote.local(run.as_uri())
    assert any(name.endswith("model.safetensors") for name in fetched)
    assert len(fetched) == len(set(fetched))
    fetched.clear()
    assert remote.local(run.as_uri()) == first
    assert {Path(name).name for name in fetched} == {"config.yaml", "COMMITTED", "MANIFEST.json"}
    fetched.clear()
    copied = remote.local(shutil.copytree(run, there / "elsewhere" / "run").as_uri())  # the same files, another place
    assert copied != first
    assert not any(name.endswith(".safetensors") for name in fetched)
    fetched.clear()
    more = small("mat", team="local", max_steps=20, mirror=run.parent.as_uri())
    shutil.rmtree(run)
    launch.train(more, runs_dir=there / "local", name="run", how=QUIET)  # the same first steps, and more of them
    longer = Path(remote.local(run.as_uri()))
    assert str(longer) != first
    assert Checkpoints(longer / "checkpoints").newest_whole() == (20, [])
    assert bytes_of(longer)["metrics"] == bytes_of(there / "local" / "run")["metrics"]


def test_what_is_damaged_here_is_fetched_again(there: Path, fetched: list[str]) -> None:
    run = (there / "runs" / "run").as_uri()
    path = Path(remote.local(run))
    weights = sorted(path.glob("checkpoints/step-*/agents/peer0/model.safetensors"))[-1]
    weights.write_bytes(b"x")  # of the kept file too: they are one
    fetched.clear()
    assert remote.local(run) == str(path)
    assert [name for name in fetched if name.endswith(".safetensors")] == [str(weights.relative_to(path))]
    assert Checkpoints(path / "checkpoints").newest_whole()[1] == []
    assert not leftovers()


def test_evaluations_are_written_here_and_said(
    there: Path, command: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(there)
    monkeypatch.chdir(there.parent)
    quick = ["--attacks=clean,fgsm", "--examples=32", "--masking=0", "--threat=linf:0.1"]
    for uri in ((there / "runs" / "run").as_uri() + "@peer0", (there / "models" / "robust").as_uri()):
        result = command("evaluate", uri, *quick)
        said = capsys.readouterr().err
        assert f"{uri} is read from its copy in {result['run']}; what is evaluated is written there" in said
        assert Path(result["report"]).is_relative_to(copies.cache())
    version = Path(remote.local(uri))
    assert [e["attacks"] for e in model_folder.card(version)["evaluations"] if not e.get("from_run")] == [
        ["clean", "fgsm"]
    ]
    published = command("publish", (there / "runs" / "run").as_uri(), "--agent=peer0", "--as=mine")
    assert [e["attacks"] for e in published["card"]["evaluations"]] == [["clean", "fgsm"]]
    command("export", (there / "runs" / "run").as_uri() + "@peer1", f"--out={there.parent / 'out'}")
    assert (there.parent / "out" / "model.safetensors").is_file()
    page = command("report", (there / "runs" / "run").as_uri(), "--examples=16")["report"]
    assert Path(page).is_relative_to(copies.cache())
    assert everything(there) == before


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """A command's answer as JSON; what it said stays on stderr."""

    def run(*args: str) -> Any:
        capsys.readouterr()
        code = main([*args, "--json"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        print(printed.err, file=sys.stderr)
        return json.loads(printed.out)

    return run


def test_runs_in_a_place(there: Path, command: Callable[..., Any]) -> None:
    (there / "runs" / "not-a-run").mkdir()
    listed = command("runs", f"--runs-dir={(there / 'runs').as_uri()}")["runs"]
    here = command("runs", f"--runs-dir={there / 'runs'}")["runs"]
    assert [{**r, "run": "", "begun": None} for r in here] == [{**r, "run": ""} for r in listed]
    assert [r["run"] for r in listed] == [(there / "runs" / "run").as_uri()]


def test_weights_to_start_from_and_models_to_serve(there: Path) -> None:
    run, model = (there / "runs" / "run").as_uri(), (there / "models" / "robust").as_uri()
    config = small("at", team="local").replace({"agents.model.init": f"{run}@peer1"})
    init = resolved(config).agents["model"].init
    assert init is not None
    assert Path(init).is_relative_to(copies.cache())
    assert resolved(resolved(config)) == resolved(config)
    settings = served.settings([f"a={model}", f"b={run}@peer0"], None, demo=False, token_file=None)
    assert all(Path(path).is_dir() for path in settings["models"].values())
    with pytest.raises(UsageError, match=r"a cluster serves what every node sees: sparring publish file://.* --as a"):
        served.settings([f"a={model}"], None, demo=False, token_file=None, elsewhere=True)


# Faults ----------------------------------------------------------------------------------------------------------------


def steps(there: Path) -> list[Path]:
    return sorted(p for p in (there / "runs" / "run" / "checkpoints").glob("step-*"))


def test_a_file_that_is_altered_or_missing(there: Path) -> None:
    run, weights = (there / "runs" / "run").as_uri(), steps(there)[-1] / "agents" / "peer0" / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-1], whole[:-1] + b"x"):
        weights.write_bytes(content)
        with pytest.raises(
            BrokenCheckpoint, match=r"peer0/model.safetensors is altered: its sha256 is .*Copy it there again"
        ):
            remote.local(run)
    weights.unlink()
    with pytest.raises(BrokenCheckpoint, match=r"peer0/model.safetensors is missing\. If something is writing"):
        remote.local(run)
    assert not leftovers()
    assert not list(copies.cache().glob("*/run/config.yaml"))
    weights.write_bytes(whole)
    assert sparring.load(f"{run}@peer0")
    model = there / "models" / "robust" / "1"
    (model / "state.json").write_bytes(b"{}")
    with pytest.raises(BrokenCheckpoint, match=r"state.json is altered"):
        remote.local(model.as_uri())
    (model / "card.json").unlink()
    with pytest.raises(BrokenCheckpoint, match=r"card.json is missing"):
        remote.local(model.as_uri())


def test_a_writer_that_was_killed(there: Path) -> None:
    """A step without COMMITTED is none, half-written files are none; a manifest that is not the committed one is an error."""
    run, newest = (there / "runs" / "run").as_uri(), steps(there)[-1]
    (there / "runs" / "run" / "code").mkdir(exist_ok=True)
    (there / "runs" / "run" / "code" / "own.py.part").write_text("half")
    (newest / "COMMITTED").rename(newest / "COMMITTED.part")
    best = Checkpoints(newest.parent).manifest(5)["best"]
    assert {entry["step"] for entry in best.values()} <= {5, 0}
    copied = Path(remote.local(run))
    assert Checkpoints(copied / "checkpoints").newest_whole() == (5, [])
    assert not list(copied.rglob("*.part"))
    (newest / "COMMITTED.part").rename(newest / "COMMITTED")
    (newest / "MANIFEST.json").write_bytes((newest / "MANIFEST.json").read_bytes() + b"\n")
    with pytest.raises(BrokenCheckpoint, match=r"step-000010/MANIFEST.json is altered"):
        remote.local(run)
    for step in steps(there):
        (step / "COMMITTED").unlink(missing_ok=True)
    with pytest.raises(
        BrokenCheckpoint, match=r"has no committed checkpoint yet; see: sparring runs --runs-dir file://"
    ):
        remote.local(run)


@pytest.mark.parametrize("files", [{"../../x": "0" * 64}, {"/etc/x": "0" * 64}, {"x": "../y"}, [], {"x": 3}], ids=repr)
def test_a_manifest_that_leads_elsewhere(files: Any, there: Path) -> None:
    model = there / "models" / "robust" / "1"
    (model / "MANIFEST.json").write_text(json.dumps({"format": 1, "members": 1, "files": files}))
    with pytest.raises(BrokenCheckpoint, match=r"is no file of its own|is no manifest"):
        remote.local(model.as_uri())
    assert not leftovers()


class Breaks:
    """A file that comes to half, then not at all."""

    def __init__(self, size: int) -> None:
        self._size, self._given = size, False

    def __enter__(self) -> Breaks:
        return self

    def __exit__(self, *_: object) -> None: ...

    def size(self) -> int:
        return self._size

    def read(self, n: int) -> bytes:
        self._given, before = True, self._given
        return b"" if before else b"x" * (self._size // 2)


def test_a_file_that_ends_early_is_no_file(there: Path) -> None:
    class System:
        def open_input_file(self, path: str) -> Breaks:
            return Breaks(10)

    place: Any = places.Place("file:///x", System(), "/x")
    with pytest.raises(Infrastructure, match=r"file:///x/a could not be read: 5 bytes fewer came .*repeat the command"):
        place.read("a")


def test_several_at_once_make_one_copy(there: Path) -> None:
    run = (there / "runs" / "run").as_uri()
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: remote.local(run), range(8)))
    assert len(found) == 1
    assert Checkpoints(Path(found.pop()) / "checkpoints").newest_whole() == (10, [])
    assert not leftovers()


# What is refused -------------------------------------------------------------------------------------------------------

SENTENCE = (
    "a run is written to a local disk and copied from there. Train with --runs-dir runs --mirror s3://bucket/runs; to go on elsewhere with "
    "a run that was copied: sparring train ... --resume-if-exists --mirror s3://bucket/runs --name"
)


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["train", "mat", "--runs-dir=s3://bucket/runs"], "NAME"),
        (["train", "mat", "--runs-dir=s3://bucket/runs", "--name=x", "--resume-if-exists"], "NAME"),
        (["tune", "mat", "--runs-dir=s3://bucket/runs"], "NAME"),
        (["pretrain", "at", "--runs-dir=s3://bucket/runs"], "NAME"),
        (["resume", "s3://bucket/runs/mat"], "mat"),
    ],
    ids=["train", "train again", "tune", "pretrain", "resume"],
)
def test_runs_are_written_to_a_local_disk(
    args: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    assert f"{SENTENCE} {name}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_models_are_published_on_a_local_disk(made: Path) -> None:
    with pytest.raises(
        UsageError, match=r"--models-dir s3://b/models: a model is published on a local disk;.*s3://b/models/x/VERSION"
    ):
        sparring.publish(made / "run", "x", agent="peer0", models_dir="s3://b/models")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:TOPSECRET@bucket/runs",
        "s3://KEY:TOP/SECRET@bucket/runs",
        "abfss://c@account/runs?sv=1&sig=TOPSECRET",
        "abfs://c@account/runs?client_secret=TOPSECRET",
    ],
)
def test_secrets_are_refused_and_never_shown(uri: str) -> None:
    for refused in (lambda: places.opened(uri), lambda: places.refuse("--runs-dir ", uri)):
        with pytest.raises(UsageError, match="with a secret in the URI") as error:
            refused()
        assert "TOP" not in str(error.value)
    for fine in (
        "hdfs://host:8020/runs/mat@peer0",
        "s3://b/runs?region=x&endpoint_override=127.0.0.1:9000&scheme=http",
    ):
        places.check_secrets(fine)


def test_a_million_steps_do_not_sort_as_texts(tmp_path: Path) -> None:
    for step in ("step-999999", "step-1000000"):
        (tmp_path / "run" / "checkpoints" / step).mkdir(parents=True)
        (tmp_path / "run" / "checkpoints" / step / "COMMITTED").write_text("x")
    assert remote._steps(places.opened((tmp_path / "run").as_uri())) == ["step-999999", "step-1000000"]
    assert Mirror(tmp_path.as_uri(), "run")._steps() == ["step-999999", "step-1000000"]


def test_uris_that_mean_nothing(there: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run .*sparring runs --runs-dir file://"):
        sparring.load((there / "runs" / "none").as_uri())
    with pytest.raises(UsageError, match=r"'ftp://x/y' is not a place .*Expected a URI, such as s3://bucket/runs/NAME"):
        sparring.load("ftp://x/y")
    with pytest.raises(UsageError, match=r"with a secret in the URI .*AWS_SECRET_ACCESS_KEY") as error:
        sparring.load("s3://key:hidden@bucket/runs/x")
    assert "hidden" not in str(error.value)
    with pytest.raises(UsageError, match=r"^--mirror with a secret") as error:
        launch.train(small("mat", team="local", mirror="s3://key:hidden@bucket/runs"), runs_dir=there / "x", how=QUIET)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("s3://b/runs/x@peer0?region=y", "s3://b/runs/x@peer0?region=y"),
        ("s3:/b/runs", "s3://b/runs"),
        ("file:/mnt/x", "file:///mnt/x"),
        ("runs/x", None),
        ("ensemble:/mnt/runs/x", None),
        ("hf:user/name", None),
        ("timm:resnet18", None),
        ("net.py:make", None),
    ],
)
def test_what_is_a_uri(name: str, uri: str | None) -> None:
    assert places.uri_of(name) == uri
    assert places.split("s3://b/runs/x@peer0?region=y") == ("s3://b/runs?region=y", "x", "peer0")
