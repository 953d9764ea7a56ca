"""Images that stay as they are stored, by layout: the index, once; a start with it; one image at random and in order.

python benchmarks/encoded.py --images 5000 --rounds 5 --json

JPEG files of 500x375 pixels (``generated``) as files, as shards of tar, and as Parquet with small and large row groups, all of them in the
system's cache, so that no disk is measured. Times of the index and of a start are for 100,000 images, in proportion.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import circumstances, save

from sparring.trainers import encoded
from sparring.trainers.config import DataConfig
from sparring.trainers.encoded import checked
from sparring.trainers.encoded.generated import CLASSES, Generated
from sparring.trainers.rng import generator


def folder(root: Path, images: Generated) -> None:
    for i in range(len(images)):
        place = root / ("test" if i < CLASSES else "train") / f"c{i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:08}.jpg").write_bytes(images.read(i))


def tar(root: Path, images: Generated) -> None:
    for split, shard in (("val", range(CLASSES)), ("train", range(CLASSES, len(images)))):
        with tarfile.open(root / f"{split}-000000.tar", "w") as archive:
            for i in shard:
                for name, content in ((f"{i:08}.jpg", images.read(i)), (f"{i:08}.cls", b"%d" % (i % CLASSES))):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def parquet(rows: int) -> Callable[[Path, Generated], None]:
    def make(root: Path, images: Generated) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        schema = pa.schema([("image", kind), ("label", pa.int64())])
        for split, shard in (("test", range(CLASSES)), ("train", range(CLASSES, len(images)))):
            with pq.ParquetWriter(root / f"{split}-00000.parquet", schema) as writer:
                for start in range(shard.start, shard.stop, rows):
                    group = range(start, min(start + rows, shard.stop))
                    column = pa.array([{"bytes": images.read(i), "path": f"{i:08}.jpg"} for i in group], kind)
                    labels = pa.array([i % CLASSES for i in group], pa.int64())
                    writer.write_table(pa.table([column, labels], schema=schema), row_group_size=rows)

    return make


LAYOUTS: dict[str, tuple[str, Callable[[Path, Generated], None], int]] = {  # source, writer, images read at random
    "folder": ("folder", folder, 2000),
    "tar": ("tar", tar, 2000),
    "parquet, row groups of 100": ("parquet", parquet(100), 100),
    "parquet, row groups of 1,000": ("parquet", parquet(1000), 20),
}


def measured(name: str, root: Path, reads: int, seed: int) -> dict[str, float]:
    """Seconds for 100,000 images, milliseconds for one."""
    config = DataConfig(name=name, root=str(root), cache=str(root / ".cache"))
    shutil.rmtree(config.cache, ignore_errors=True)
    index, data = timed(lambda: encoded.opened(config))
    start, data = timed(lambda: encoded.opened(config))
    share, train = 100_000 / (len(data.train) + len(data.test)), data.train
    at = torch.randint(0, len(train), (reads,), generator=generator(seed)).tolist()
    random, _ = timed(lambda: [train.read(i) for i in at])
    first = min(1000, len(train))
    order, _ = timed(lambda: [train.read(i) for i in range(first)])
    scaled = start * share if name == "folder" else start  # of archives only a few files are looked at
    size = (data.place / "train.arrow").stat().st_size / len(train)
    return {
        "index_s": index * share,
        "start_s": scaled,
        "random_ms": 1e3 * random / reads,
        "order_ms": 1e3 * order / first,
        "bytes": size,
    }


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the result and write nothing")
    args = parser.parse_args()
    images, layouts = Generated("train", args.images, (500, 375)), {}
    for title, (name, make, reads) in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as place:
            make(Path(place), images)
            measured(name, Path(place), reads, args.seed)  # imports, and the files come into the system's cache
            rounds = [measured(name, Path(place), reads, args.seed + r) for r in range(args.rounds)]
        layouts[title] = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]} | {"samples": rounds}
    some = range(min(100, len(images)))
    looked = [timed(lambda: checked.look(images, some))[0] for _ in range(args.rounds)]
    result = {
        **circumstances(seed=args.seed),
        "n": args.rounds,
        "images": args.images,
        "file_bytes": len(images.read(0)),
        "layouts": layouts,
        "check_per_s": len(some) / statistics.median(looked),
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(save("encoded", result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
