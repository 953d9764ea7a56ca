"""A bucket of moto's S3 that scenarios mirror their runs to, and what can happen to it."""

from __future__ import annotations

import atexit
import os
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common  # noqa: F401  # by which the clone can be imported from
import pyarrow.fs

from tests.cluster.runs.s3.buckets import MOTO, serving
from tests.cluster.runs.s3.proxy import Proxy

if TYPE_CHECKING:
    from chaos_faults import Hit, Scene


class Bucket:
    """Behind a proxy that can answer something else, or nothing."""

    def __init__(self) -> None:
        server = serving()
        port = next(server)
        atexit.register(lambda: next(server, None))
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")).read()
        self.proxy = Proxy(port)
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "hidden",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
        }

    @staticmethod
    def uri(place: Path) -> str:
        """Where a scenario's runs are mirrored."""
        return f"s3://bucket/{place.name}"

    @staticmethod
    def content(place: Path) -> dict[str, bytes]:
        """What of a scenario lies there: files of committed checkpoints by name."""
        files, root = pyarrow.fs.FileSystem.from_uri(Bucket.uri(place))
        chosen = pyarrow.fs.FileSelector(f"{root}/a/checkpoints", recursive=True, allow_not_found=True)
        found = [one for one in files.get_file_info(chosen) if one.is_file and "/step-" in one.path]
        return {one.path.partition("/checkpoints/")[2]: files.open_input_file(one.path).read() for one in found}

    def breaks(self, how: str, name: str) -> Hit:
        """Every request ends so, until that ends."""
        self.proxy.fault = lambda request: how
        return name, self._mended

    def _mended(self) -> None:
        self.proxy.fault = lambda request: ""
        self.proxy.over.set()  # those that wait for an answer are closed
        self.proxy.over.clear()


@cache
def bucket() -> Bucket:
    """One for all scenarios."""
    return Bucket()


def possible() -> bool:
    """Whether moto is here: make clients."""
    return (MOTO / "moto").is_dir()


def _breaks(how: str, name: str) -> Callable[[Scene], Hit]:
    def fault(scene: Scene) -> Hit:
        return bucket().breaks(how, name)

    return fault


BUCKET: dict[str, Callable[[Any], Any]] = {
    "bucket answers 500": _breaks("500", "the bucket answers 500"),
    "bucket answers 503": _breaks("503", "the bucket answers 503"),
    "bucket answers half": _breaks("cut", "the bucket's answers end early"),
    "bucket silent": _breaks("hang", "the bucket does not answer"),
}
