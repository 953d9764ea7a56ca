"""Twelve kinds of files that go wrong elsewhere, in a run whose images nobody has checked: decoded as the decoder says, or named before step 0."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.cluster.errors import DataError
from sparring.cluster.runs import images as run_images
from sparring.cluster.training import launch
from sparring.trainers import decoder
from sparring.trainers.batches import Batches
from sparring.trainers.encoded import glance
from sparring.trainers.types import Batch
from tests.cluster.training.test_encoded_runs import QUIET
from tests.helpers import small
from tests.trainers.encoded import layouts

SIDE = 12
BAD = layouts.bad()
NAMED = ("half-jpeg", "half-png", "empty", "text", "sixteen", "gif", "webp", "apng", "zeros", "jpeg-start", "float")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def odd() -> dict[str, bytes]:
    """Whole images of unusual kinds."""
    picture = Image.open(io.BytesIO(layouts.file("PNG", size=(20, 14))))
    turned = Image.Exif()
    turned[274] = 6
    clear = picture.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(picture.size))
    deep = np.random.default_rng(0).integers(0, 2**16, (14, 20), dtype=np.uint16)
    return {
        "cmyk.jpg": saved(picture.convert("CMYK"), "JPEG"),
        "deep grey.png": saved(Image.fromarray(deep), "PNG"),
        "turned.jpg": saved(picture, "JPEG", exif=turned),
        "alpha.png": saved(clear, "PNG"),
        "palette.png": saved(picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=8), "PNG", transparency=3),
        "progressive grey.jpg": saved(picture.convert("L"), "JPEG", progressive=True),
    }


@pytest.mark.parametrize("name", ["folder", "tar"])
def test_a_run_names_them_before_it_begins_or_sees_what_the_decoder_gives(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = odd()
    classes = [kind.partition(".")[0].replace(" ", "-") for kind in kinds]
    ending = ".jpg" if name == "folder" else ""  # the shards' own
    train = [
        (c, f"{c} {i}{ending}", content)
        for c, (kind, content) in zip(classes, kinds.items(), strict=True)
        for i in (1, 2, 3)
    ]
    splits = {"train": train + [(classes[0], f"{kind}{ending}", BAD[kind][0]) for kind in NAMED], "val": train[::3]}
    root = tmp_path / "data"
    if name == "folder":
        layouts.folders(root, splits)
    else:
        layouts.shards(root, {k: sorted(v) for k, v in splits.items()}, sorted(classes))
    asked = {"team": "local", "max_steps": 2, "batch_size": 16, "loader__workers": 0, "data__name": name}
    asked |= {
        "data__root": str(root),
        "data__cache": str(tmp_path / "cache"),
        "data__encoded": True,
        "data__size": SIDE,
    }
    with pytest.raises(DataError, match=rf"^{len(NAMED)} of 35 images cannot be decoded:\n") as told:
        launch.train(small("at", **asked), runs_dir=tmp_path, name="a", how=QUIET)
    assert not (tmp_path / "a").exists()
    for kind in NAMED:
        assert f"{kind}.jpg: {BAD[kind][1]}" in str(told.value)
    assert "--data.bad skip" in str(told.value)

    seen: list[Batch] = []
    real = Batches.batch
    monkeypatch.setattr(Batches, "batch", lambda batches, t: seen.append(real(batches, t)) or seen[-1])
    launch.train(small("at", **asked, data__bad="skip"), runs_dir=tmp_path, name="a", how=QUIET)
    names, met = sorted(classes), set()
    wanted = {c: decoder.pixels(content, size=(SIDE, SIDE)) for c, content in zip(classes, kinds.values(), strict=True)}
    for batch in seen[:2]:
        for x, y in zip(batch.x, batch.y, strict=True):
            pixels = torch.tensor(wanted[names[int(y)]]).permute(2, 0, 1) / 255
            assert torch.equal(x, pixels)
            met.add(int(y))
    assert met == set(range(6))


def test_only_what_leaves_a_doubt_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole JPEG, PNG and WebP files are told by their ends; a still GIF is decoded, and is good; what was seen is kept."""
    still = Image.new("RGB", (8, 8), "red")
    whole = [*odd().values(), layouts.file("WEBP"), saved(Image.new("RGBA", (8, 8)), "WEBP"), layouts.file("PNG")]
    files = [("a", f"{i}.png", content) for i, content in enumerate([*whole, saved(still, "GIF")])]
    layouts.folders(tmp_path / "data", {"train": files, "val": files[:1]})
    data = layouts.opened("folder", tmp_path / "data")
    looked: list[range] = []
    real = glance.checked.look
    monkeypatch.setattr(glance.checked, "look", lambda images, rows: looked.append(rows) or real(images, rows))
    for _ in range(2):
        assert glance.found(data) == ()
    assert looked == [range(9, 10)]


def test_what_was_not_checked_is_said_until_it_is(tmp_path: Path) -> None:
    layouts.folders(tmp_path / "data", layouts.images())
    layouts.parquet(tmp_path / "parquet", layouts.images())
    for name, root, seen in (
        ("folder", "data", "; only the first and last bytes"),
        ("parquet", "parquet", ". One that"),
    ):
        config = small(
            data__name=name, data__root=str(tmp_path / root), data__cache=str(tmp_path / "c"), data__encoded=True
        )
        for again in (False, True):
            told: list[str] = []
            run_images.prepare(config.data, notice=told.append)
            said = [line for line in told if "not every image was decoded before training" in line]
            assert len(said) == (not again)
            if not again:
                assert seen in said[0]
                assert (
                    f"sparring data check {name} --data.root {tmp_path / root} --data.cache {tmp_path / 'c'}" in said[0]
                )
                from sparring.cluster.datasets import check

                check.check(config.data, workers=1)
