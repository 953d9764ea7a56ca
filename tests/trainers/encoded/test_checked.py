"""Bad images are found and kept beside the index; good ones of every kind are decoded as they should be."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparring.trainers import decoder
from sparring.trainers.encoded import EncodedDataset, checked
from sparring.trainers.encoded.checked import BAD, GOOD, Bad, Record
from tests.trainers.encoded import layouts
from tests.trainers.encoded.layouts import opened

KINDS = layouts.bad()


@pytest.fixture
def shard(tmp_path: Path) -> EncodedDataset:
    """Every kind of bad image between good ones."""
    members = [("good-first.jpg", layouts.file(seed=1)), ("good-first.cls", b"0")]
    for number, (kind, (content, _)) in enumerate(KINDS.items()):
        members += [(f"{kind}.jpg", content), (f"{kind}.cls", b"0")]
        members += [(f"good-{number}.jpg", layouts.file(seed=2 + number)), (f"good-{number}.cls", b"0")]
    root = tmp_path / "data"
    root.mkdir()
    layouts.tar(root / "a-train-0.tar", members)
    layouts.tar(root / "a-val-0.tar", members[:2])
    return opened("tar", root)


def checked_whole(data: EncodedDataset) -> list[Bad]:
    record = Record(data)
    for split, rows in list(record.left()):
        record.add(split, rows, *checked.look(data.splits[split], rows))
    return record.close()


def test_every_bad_image_is_named_with_its_reason(shard: EncodedDataset) -> None:
    found = checked_whole(shard)
    assert [bad.name.removeprefix("a-train-0.tar: ").removesuffix(".jpg") for bad in found] == list(KINDS)
    for bad, (_, reason) in zip(found, KINDS.values(), strict=True):
        assert bad.reason.startswith(reason), bad
        assert (bad.split, shard.train.name(bad.row)) == ("train", bad.name)
    assert len(KINDS) >= 12


def test_a_run_refuses_or_leaves_out_what_is_known_to_be_bad(shard: EncodedDataset) -> None:
    assert checked.known_bad(shard) is None
    assert checked.usable(shard) == {"train": None, "test": None}
    found = checked_whole(shard)
    assert checked.known_bad(shard) == tuple(found)
    with pytest.raises(
        ValueError, match=r"14 of 30 images (.|\n)*empty\.jpg: a file of 0 bytes\n(.|\n)*sparring data check tar"
    ):
        checked.lost(shard, found)
    rows = checked.usable(shard, checked.lost(shard, found, "skip"))
    assert rows["test"] is None
    assert rows["train"] is not None
    assert rows["train"].dtype == np.int64
    assert all("good" in shard.train.name(i) for i in rows["train"])
    assert len(rows["train"]) == len(shard.train) - len(KINDS)


def test_goes_on_where_it_was(shard: EncodedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "BLOCK", 4)
    record = Record(shard)
    blocks = list(record.left())
    for split, rows in blocks[:3]:
        record.add(split, rows, *checked.look(shard.splits[split], rows))
    del record  # killed: nothing is closed
    assert checked.known_bad(shard) is None
    record = Record(shard)
    again = list(record.left())
    assert set(again) >= set(blocks[3:])
    assert all(
        (record.splits[split]["state"][rows.start : rows.stop] == BAD).any()
        for split, rows in again[: -len(blocks[3:])]
    )
    for split, rows in again:
        record.add(split, rows, *checked.look(shard.splits[split], rows))
    assert len(record.close()) == len(KINDS)
    assert Record(shard).complete
    assert not Record(shard, again=True).complete
    assert checked.known_bad(shard) is None


def test_what_is_known_holds_for_these_files_alone(shard: EncodedDataset, tmp_path: Path) -> None:
    checked_whole(shard)
    path = tmp_path / "data" / "a-train-0.tar"
    content = path.read_bytes()
    path.write_bytes(content + bytes(10240))
    assert checked.known_bad(opened("tar", tmp_path / "data")) is None


def test_a_torn_record_is_begun_anew(shard: EncodedDataset) -> None:
    checked_whole(shard)
    path = shard.place.with_name(f"{shard.place.name}.checked") / "train.npy"
    path.write_bytes(path.read_bytes()[:-30])
    assert len(checked_whole(shard)) == len(KINDS)


def test_a_file_that_is_gone_is_bad(tmp_path: Path) -> None:
    layouts.folders(tmp_path / "data", layouts.images())
    data = opened("folder", tmp_path / "data")
    gone = tmp_path / "data" / data.train.name(2)
    gone.unlink()
    records, bad = checked.look(data.train, range(4))
    assert records["state"].tolist() == [GOOD, GOOD, BAD, GOOD]
    assert bad[0][0] == 2
    assert (records["width"][0], records["height"][0]) == (12, 9)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def test_good_ones_of_every_kind(tmp_path: Path) -> None:
    """The same picture, or what becomes of it, whatever the file: 16 x 8 pixels, left half red, right half blue."""
    picture = Image.new("RGB", (16, 8), (250, 10, 10))
    picture.paste((10, 10, 250), (8, 0, 16, 8))
    turned = Image.Exif()
    turned[274] = 6  # to be turned clockwise by 90 degrees
    clear = picture.convert("RGBA")
    clear.putalpha(0)
    deep = Image.fromarray(np.full((8, 16), 0x8080, np.uint16))
    kinds = {
        "cmyk": encoded(picture.convert("CMYK"), "JPEG", quality=95),
        "progressive": encoded(picture, "JPEG", progressive=True, quality=95),
        "turned": encoded(picture, "JPEG", exif=turned, quality=95),
        "palette": encoded(picture.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        "grey": encoded(picture.convert("L"), "JPEG", quality=95),
        "deep": encoded(deep, "PNG"),
        "clear": encoded(clear, "PNG"),
        "webp": encoded(picture, "WEBP", lossless=True),
    }
    splits = {"train": [("k", f"{kind}.png", content) for kind, content in kinds.items()]}
    layouts.folders(tmp_path / "data", {**splits, "test": splits["train"][:1]})
    data = opened("folder", tmp_path / "data")
    assert checked_whole(data) == []
    seen = {
        Path(data.train.name(i)).stem: decoder.pixels(data.train.read(i)).astype(int) for i in range(len(data.train))
    }
    wanted = np.asarray(picture).astype(int)
    for kind in ("cmyk", "progressive", "palette", "webp"):
        assert np.abs(seen[kind] - wanted)[:, [2, 3, 12, 13]].max() < 16, kind
    assert np.abs(seen["turned"] - np.rot90(wanted, -1))[[2, 3, 12, 13]].max() < 16
    grey = np.asarray(picture.convert("L").convert("RGB")).astype(int)
    assert np.abs(seen["grey"] - grey)[:, [2, 3, 12, 13]].max() < 16
    assert (seen["deep"] == 0x80).all()
    assert (seen["clear"] == 255).all()
