"""Runs on images that stay encoded: the same bytes from every layout, by every number of processes, and after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparring.agents.loading.loader import node_loader
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import DataError
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch, plan
from sparring.cluster.training.job import Circumstances
from sparring.trainers import datasets, decoder
from sparring.trainers.batches import Batches
from sparring.trainers.config import DataConfig, LoaderConfig
from sparring.trainers.encoded import pixels
from tests.conftest import Command
from tests.helpers import bytes_of, small, small_flags
from tests.trainers.encoded import layouts

QUIET = Circumstances(quiet=True)
CLASSES = ("bird", "cat", "dog")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The same 24 training and 6 test images as folders, tar shards and Parquet."""
    splits: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "val": []}
    for label, name in enumerate(CLASSES):
        for i in range(8):
            splits["train"].append((name, f"{name}_{i}.JPEG", layouts.file(seed=10 * label + i, size=(24, 18))))
        for i in range(2):
            splits["val"].append((name, f"{name}_v{i}.JPEG", layouts.file(seed=100 + 10 * label + i, size=(18, 24))))
    layouts.folders(tmp_path / "folder", splits)
    layouts.shards(tmp_path / "tar", splits, CLASSES)
    layouts.parquet(tmp_path / "parquet", splits, CLASSES)
    return tmp_path


def config(made: Path, name: str, **changes: Any) -> RunConfig:
    asked: dict[str, Any] = {
        "team": "local",
        "max_steps": 6,
        "batch_size": 8,
        "checkpoint__every": 2,
        "data__name": name,
        "data__root": str(made / name),
        "data__cache": str(made / "cache"),
        "data__size": 12,
        "data__encoded": True,
        "data__augment": "resized-crop",
        "data__transforms__brightness": 0.4,
        "loader__workers": 0,
    }
    return small("mat", **{**asked, **changes})


def weights(run: Path) -> dict[str, Any]:
    """What is promised to be equal where the files that the images lie in differ."""
    found = bytes_of(run)
    origin = found["manifest"].pop("origin")
    assert origin["data"]
    return {key: found[key] for key in ("metrics", "best")} | {"agents": found["manifest"]["files"]}


def test_every_layout_and_number_of_processes(made: Path) -> None:
    plain = {"data__transforms__brightness": 0.0}  # no operator: processes that decode begin soon
    seen = []
    for i, (name, workers) in enumerate((("folder", 0), ("tar", 2), ("parquet", 0))):
        asked = config(made, name, loader__workers=workers, **plain)
        seen.append(weights(launch.train(asked, runs_dir=made / f"runs{i}", name="a", how=QUIET).path))
    assert all(one == seen[0] for one in seen)


@pytest.mark.soak
@pytest.mark.usefixtures("pooled")
def test_on_ray(made: Path, ray_session: str) -> None:
    local = launch.train(config(made, "tar"), runs_dir=made / "local", name="a", how=QUIET)
    there = {"team": "ray", "address": ray_session, "placement__cpus_per_agent": 0.5, "loader__workers": 1}
    remote = launch.train(config(made, "tar", **there), runs_dir=made / "ray", name="a", how=QUIET)
    assert bytes_of(local.path) == bytes_of(remote.path)


def test_interrupted(made: Path) -> None:
    whole = launch.train(config(made, "folder"), runs_dir=made / "whole", name="a", how=QUIET)
    cut = launch.train(config(made, "folder"), runs_dir=made / "cut", name="a", how=QUIET)
    RunFolder(cut.path).checkpoints.drop_after(2)
    launch.resume(cut.path, how=QUIET)
    assert bytes_of(whole.path) == bytes_of(cut.path)


def test_a_batch_is_a_function_of_seed_and_step(made: Path) -> None:
    asked = config(made, "folder").data
    train = datasets.load(asked).train
    here = Batches(train, asked, batch_size=8, seed=3)
    shared = Batches(train, asked, batch_size=8, seed=3, loader=node_loader(LoaderConfig(workers=2, memory=1), ""))
    for t in (0, 1, 5, 4, 0):
        a, b = here.batch(t), shared.batch(t)
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
        assert a.x.shape == (8, 3, 12, 12)
    assert not torch.equal(here.batch(0).x, Batches(train, asked, batch_size=8, seed=4).batch(0).x)


def test_evaluated_and_reported(made: Path, sparring: Command) -> None:
    run = launch.train(config(made, "tar"), runs_dir=made / "runs", name="a", how=QUIET)
    done = sparring("evaluate", f"{run.path}@peer0", "--attacks=clean,pgd-2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agents"]["peer0"]["n"] == 6
    assert sparring("report", run.path).returncode == 0
    assert sparring("publish", f"{run.path}@peer0", "--as=m").returncode == 0


def test_the_middle_that_is_seen_is_on_the_card(made: Path, sparring: Command) -> None:
    asked = config(made, "folder", data__middle=0.5, method__peers=2)
    run = launch.train(asked, runs_dir=made / "runs", name="a", how=QUIET)
    assert sparring("publish", f"{run.path}@peer0", "--as=m").returncode == 0
    card = json.loads(Path("models/m/1/card.json").read_bytes())
    assert card["preparation"] == {"decoder": 2, "size": 12, "background": 255, "middle": 0.5}
    for net in (f"{run.path}@peer0", "m"):  # on the same pixels, else exit 4
        done = sparring("evaluate", net, "--attacks=clean", "--json")
        assert done.returncode == 0, done.stderr
    refused = sparring("evaluate", "m", "--data.middle=1", "--threat=linf:0.1")
    assert refused.returncode == 2
    assert "brings its own data set and network: --data.middle cannot be obeyed" in refused.stderr


def test_the_middle_is_what_evaluation_and_whole_images_see(made: Path) -> None:
    own = config(made, "folder", data__augment="none", data__transforms__brightness=0.0).data
    whole, part = datasets.load(own), datasets.load(replace(own, middle=0.5))
    for i in range(len(part.test)):
        seen = part.test.images.images.read(i)
        assert np.array_equal(part.test.images[i], decoder.pixels(seen, size=(12, 12), middle=0.5))
    batch = Batches(part.train, replace(own, middle=0.5), batch_size=8, seed=0)
    (at,) = (batch._at(1),)
    assert torch.equal(batch.batch(1).x, part.train[at].pixels())
    assert whole.test.sha256 != part.test.sha256
    assert whole.statistics != part.statistics  # each measured on what is seen, and kept under a name of its own
    assert datasets.load(own).statistics == whole.statistics
    with pytest.raises(
        ValueError, match=r"data.middle = 0.5 is of images that stay encoded .* folder does with --data.encoded"
    ):
        datasets.load(DataConfig(name="folder", root=own.root, cache=own.cache, size=12, middle=0.5))


def test_whole_images_are_those_that_are_decoded_once(made: Path) -> None:
    """Without a random part, training and evaluation see what a folder gives that is decoded once."""
    own = config(made, "folder", data__augment="none", data__transforms__brightness=0.0).data
    once = datasets.load(DataConfig(name="folder", root=own.root, cache=own.cache, size=12))
    stays = datasets.load(own)
    assert once.classes == stays.classes
    for split in ("train", "test"):
        assert torch.equal(getattr(once, split).pixels(), getattr(stays, split).pixels())
        assert torch.equal(getattr(once, split).all_labels(), getattr(stays, split).all_labels())
    a, b = (Batches(d.train, c, batch_size=8, seed=0).batch(1) for d, c in ((once, DataConfig()), (stays, own)))
    assert torch.equal(a.x, b.x)


@pytest.fixture
def one_bad(made: Path) -> Callable[[], Path]:
    def spoil() -> Path:
        """Its ends are those of a whole image: the look before a run does not find it."""
        bad = made / "folder" / "train" / "cat" / "cat_3.JPEG"
        png = layouts.file("PNG", size=(24, 18))
        bad.write_bytes(png[:200] + png[-12:])
        return bad

    return spoil


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_ends_a_run_by_its_name(
    workers: int, made: Path, one_bad: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "SAMPLED", 1)  # else mean and deviation are measured on it too, before the run
    asked = config(made, "folder", loader__workers=workers, data__transforms__brightness=0.0)
    bad = one_bad()
    with pytest.raises(DataError, match=rf"cat/{bad.name}.*sparring data check NAME; to leave"):
        launch.train(asked, runs_dir=made / "runs", how=QUIET)


def test_checked_before_the_first_step(made: Path, one_bad: Callable[[], Path], sparring: Command) -> None:
    bad = one_bad()
    place = (f"--data.root={made / 'folder'}", f"--data.cache={made / 'cache'}")
    checked = sparring("data", "check", "folder", *place)
    assert checked.returncode == 4
    assert bad.name in checked.stdout
    flags = small_flags(max_steps=2, batch_size=8, data__name="folder", data__size=12, data__encoded="True")
    flags = [f for f in flags if not f.startswith("--data.encoded")] + ["--data.encoded", *place, "--team=local"]
    refused = sparring("train", "at", *flags, "--name=a")
    assert refused.returncode == 4
    assert f"cat/{bad.name}" in refused.stderr
    assert not Path("runs/a").exists()
    done = sparring("train", "at", *flags, "--name=a", "--data.bad=skip", "--no-report")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("side", "steps", "slower"), [pytest.param("800x600", 1, True, marks=pytest.mark.soak), ("16x16", 60, False)]
)
def test_a_dry_run_says_what_decodes_and_what_is_wanted(side: str, steps: int, slower: bool, tmp_path: Path) -> None:
    data = {"data__name": f"generated:12:{side}", "data__cache": str(tmp_path), "data__size": 16, "batch_size": 4}
    asked = small("at", attack__steps=steps, team="local", loader__workers=2, **data, data__augment="resized-crop")
    said = plan.dry_run(asked)
    found = said["decoding"]
    assert (found["processes"], found["images"]) == (2, 8)
    assert found["slower"] is slower
    assert found["slower"] is (found["images_per_second_wanted"] > 2 * found["images_per_second_of_a_process"])
    assert ("more --loader.workers, or --data.scaled" in said["text"]) is slower
    text = said["text"].replace(str(tmp_path), "CACHE").splitlines()
    lines = [line for line in text if "images a second" in line or "decod" in line.lower()]
    assert len(lines) >= 2 + slower
    assert max(map(len, lines)) <= 80


def test_a_dry_run_of_agents_that_decode_for_themselves(tmp_path: Path) -> None:
    data = {"data__name": "generated:12:800x600", "data__cache": str(tmp_path), "data__size": 16, "batch_size": 4}
    scaled = {"data__augment": "resized-crop", "data__scaled": True}
    said = plan.dry_run(small("at", team="local", loader__workers=0, **data, **scaled))["text"]
    assert "every agent decodes" in said
    assert "or --data.scaled" not in said  # they are already
    assert plan.dry_run(small("at", team="local"))["decoding"] is None


def test_a_relative_cache_is_the_users(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent's process begins in another folder, and would make the index there again."""
    monkeypatch.chdir(made)
    prepared = datasets.prepare(config(made, "tar", data__cache="here").data)
    (made / "elsewhere").mkdir()
    monkeypatch.chdir(made / "elsewhere")
    assert len(prepared.load().train) == 24
    assert not (made / "elsewhere" / "here").exists()
