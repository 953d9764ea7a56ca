"""Files that are whole or absent, and what names their content. Nothing here needs torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path


def write(path: Path, content: bytes, *, writer: str = "") -> str:
    """Write a file so that it is whole or absent even when power fails (temporary name, fsync, rename); its sha256.

    Args:
        writer: tells processes apart that may write the same file at once.

    Raises:
        OSError: names ``path``; no temporary file is left, where the disk lets it be removed.
    """
    temporary = path.with_name(f"{path.name}{writer}.tmp")
    with naming(path):
        try:
            with open(temporary, "wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):  # the room that it takes may be what is lacking
                temporary.unlink()
            raise
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside the block names this file: one of a write, a flush or a close names none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise


def sha256(path: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def to_json(value: object) -> bytes:
    """Readable JSON with a fixed key order."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
