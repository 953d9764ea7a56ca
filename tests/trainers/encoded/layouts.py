"""The same few images in every layout that is read, and what is bad in many ways."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sparring.trainers import encoded
from sparring.trainers.config import DataConfig
from sparring.trainers.encoded import EncodedDataset

SYNSETS = ("n01440764", "n02102040", "n03000684")
IDS = {"n01440764": 3, "n02102040": 1, "n03000684": 2}  # of the devkit: another order than the sorted one
Image_ = tuple[str, str, bytes]  # class, file's name, content


def file(
    kind: str = "JPEG", *, seed: int = 0, size: tuple[int, int] = (12, 9), mode: str = "RGB", **options: Any
) -> bytes:
    """An image file of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(sink, kind, **options)
    return sink.getvalue()


def images(classes: Sequence[str] = SYNSETS) -> dict[str, list[Image_]]:
    """Three training and two validation images of each class, ordered by class and name."""
    made: dict[str, list[Image_]] = {"train": [], "val": []}
    for label, name in enumerate(classes):
        for i in range(3):
            made["train"].append((name, f"{name}_{i}.JPEG", file(seed=10 * label + i)))
        for i in range(2):
            number = 1 + i * len(classes) + label  # flat names run through the classes
            made["val"].append((name, f"ILSVRC2012_val_{number:08}.JPEG", file(seed=100 + number)))
    return made


def folders(root: Path, splits: dict[str, list[Image_]]) -> None:
    """SPLIT/CLASS/NAME."""
    for split, found in splits.items():
        for name, file_name, content in found:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            (root / split / name / file_name).write_bytes(content)


def tar(path: Path | io.BytesIO, members: Sequence[tuple[str, bytes]]) -> None:
    """A tar archive."""
    where = {"fileobj": path} if isinstance(path, io.BytesIO) else {"name": path}
    with tarfile.open(mode="w", **where) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def flat_val(root: Path, found: list[Image_]) -> None:
    """val/ as it is given out, without labels."""
    (root / "val").mkdir(parents=True)
    for _, name, content in found:
        (root / "val" / name).write_bytes(content)


def official_tars(root: Path, splits: dict[str, list[Image_]]) -> None:
    """A tar of one tar for each class, out of order, and a flat one."""
    outer = []
    for synset in reversed(SYNSETS):
        inner = io.BytesIO()
        tar(inner, [(name, content) for of, name, content in reversed(splits["train"]) if of == synset])
        outer.append((f"{synset}.tar", inner.getvalue()))
    root.mkdir(parents=True, exist_ok=True)
    tar(root / "ILSVRC2012_img_train.tar", outer)
    tar(root / "ILSVRC2012_img_val.tar", [(n, c) for _, n, c in sorted(splits["val"], key=lambda row: row[1])])


def ground_truth(splits: dict[str, list[Image_]]) -> bytes:
    """The devkit's numbers, in the order of the flat names."""
    return "".join(f"{IDS[of]}\n" for of, *_ in sorted(splits["val"], key=lambda row: row[1])).encode()


def meta_mat() -> bytes:
    """The devkit's table of synsets, which has inner nodes of WordNet besides."""
    from scipy.io import savemat

    rows = [*((number, synset) for synset, number in IDS.items()), (4, "n00001740")]
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    table = np.array([(number, synset, int(number > 3)) for number, synset in rows], dtype=kind)
    sink = io.BytesIO()
    savemat(sink, {"synsets": table})
    return sink.getvalue()


def shards(root: Path, splits: dict[str, list[Image_]], classes: Sequence[str] = SYNSETS) -> None:
    """WebDataset's convention: four samples a shard; labels as .cls in train, as .json in val."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(classes))
    for split, found in splits.items():
        for start in range(0, len(found), 4):
            members = []
            for of, name, content in found[start : start + 4]:
                key = name.removesuffix(".JPEG")
                label = str(classes.index(of)).encode()
                beside = (f"{key}.cls", label) if split == "train" else (f"{key}.json", b'{"label": %b}' % label)
                members += [(f"{key}.jpg", content), beside]
            tar(root / f"some-{split}-{start // 4:06}.tar", members)


def parquet(root: Path, splits: dict[str, list[Image_]], classes: Sequence[str] = SYNSETS) -> None:
    """As the Hub's: two files, row groups of four, class names in the schema; a test split without labels besides."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata)
    (root / "data").mkdir(parents=True, exist_ok=True)

    def write(name: str, found: list[Image_], hidden: bool = False) -> None:
        rows = [{"bytes": content, "path": file_name} for _, file_name, content in found]
        labels = [-1 if hidden else classes.index(of) for of, *_ in found]
        table = pa.table([pa.array(rows, kind), pa.array(labels, pa.int64())], schema=schema)
        pq.write_table(table, root / "data" / name, row_group_size=4)

    half = 5
    write("train-00000-of-00002.parquet", splits["train"][:half])
    write("train-00001-of-00002.parquet", splits["train"][half:])
    write("validation-00000-of-00001.parquet", splits["val"])
    write("test-00000-of-00001.parquet", splits["val"], hidden=True)


def opened(name: str, root: Path, **options: Any) -> EncodedDataset:
    """A data set, with a cache beside its folder."""
    return encoded.opened(DataConfig(name=name, root=str(root), cache=str(root.parent / "cache")), **options)


def bad() -> dict[str, tuple[bytes, str]]:
    """Contents that are no image to train on, and what is said of each."""
    jpeg, png = file(size=(64, 64)), file("PNG", size=(64, 64))
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]

    def animated(kind: str) -> bytes:
        sink = io.BytesIO()
        frames[0].save(sink, kind, save_all=True, append_images=frames[1:])
        return sink.getvalue()

    def saved(image: Any, kind: str, **options: Any) -> bytes:
        sink = io.BytesIO()
        image.save(sink, kind, **options)
        return sink.getvalue()

    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 64, 9999, 8, 2, 0, 0, 0)
    taller = png[:8] + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + png[33:]
    deep = b"IHDR" + struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = zlib.compress(bytes(7))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    sixteen = png[:8] + chunk(b"IHDR", deep[4:]) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return {
        "empty": (b"", "a file of 0 bytes"),
        "text": (b"<html>404 not found</html>", "not an image that Pillow can read"),
        "zeros": (bytes(3000), "not an image that Pillow can read"),
        "half-jpeg": (jpeg[: len(jpeg) // 2], "damaged image"),
        "jpeg-start": (jpeg[:20], "not an image that Pillow can read"),
        "jpeg-ended-early": (jpeg[: len(jpeg) // 2] + b"\xff\xd9", "damaged image"),
        "half-png": (png[: len(png) // 2], "damaged image"),
        "png-claims-more": (taller, "damaged image"),
        "gif": (animated("GIF"), "animated image; send one still image"),
        "apng": (animated("PNG"), "animated image; send one still image"),
        "webp": (animated("WEBP"), "animated image; send one still image"),
        "float": (
            saved(Image.new("F", (8, 8), 0.5), "TIFF"),
            "image mode F, whose pixels have no stated range; save it",
        ),
        "sixteen": (sixteen, "16 bits per colour channel; save it with 8"),
        "bomb": (saved(Image.new("1", (20000, 20000)), "PNG"), "image too large"),
    }
