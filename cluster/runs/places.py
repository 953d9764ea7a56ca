"""Places by URI (s3://bucket/runs, file:///mnt/runs): any file system that ``pyarrow.fs`` knows, with waits that end.

Keys are looked for only where the place's own client does (AWS_* in the environment, ~/.aws); a URI that holds one is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from sparring.cluster.errors import BrokenCheckpoint, Infrastructure, UsageError
from sparring.trainers import uris
from sparring.trainers.uris import absolute as absolute
from sparring.trainers.uris import line as line
from sparring.trainers.uris import uri_of as uri_of

if TYPE_CHECKING:
    from pyarrow import fs

CHUNK = 2**22  # bytes read at a time


def refuse(flag: str, path: str | Path) -> None:
    """Refuse a URI where a run is to be written.

    Raises:
        UsageError: it is one; says how a run gets there, and how to go on with one that is there.
    """
    uri = uri_of(path)
    if uri is not None:
        check_secrets(uri, flag)
        above, name = (uri, "NAME") if flag else split(uri)[:2]
        raise UsageError(
            f"{flag}{uri}: a run is written to a local disk and copied from there. Train with --runs-dir runs --mirror {above}; "
            f"to go on elsewhere with a run that was copied: sparring train ... --resume-if-exists --mirror {above} --name {name}"
        )


def split(uri: str) -> tuple[str, str, str]:
    """What is above the last part of a URI, its name, and the agent: ``s3://b/runs/mat@peer0?region=x`` -> ``s3://b/runs?region=x``,
    ``mat``, ``peer0``."""
    parts = urlsplit(uri)
    above, _, last = parts.path.rstrip("/").rpartition("/")
    name, _, agent = last.partition("@")
    return urlunsplit(parts._replace(path=above)), name, agent


def child(uri: str, name: str) -> str:
    """The URI of something in a folder: ``s3://b/runs?region=x``, ``mat`` -> ``s3://b/runs/mat?region=x``."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def check_secrets(uri: str, what: str = "") -> None:
    """Refuse a URI that may hold a key, before it is shown or kept anywhere.

    Args:
        what: the flag that named it, with a space.

    Raises:
        UsageError: says where keys are looked for; the URI is no part of it.
    """
    try:
        uris.check(uri, what)
    except ValueError as error:
        raise UsageError(str(error)) from error


def opened(uri: str, *, what: str = "", like: str = "s3://bucket/runs or file:///mnt/runs") -> Place:
    """The place of a URI; nothing is asked of it yet.

    Args:
        what: the flag that named it, with a space.
        like: what was expected.

    Raises:
        UsageError: no file system of that kind, or a URI that holds a password.
    """
    check_secrets(uri, what)
    try:
        there, base = uris.opened(uri)
    except ValueError as error:
        raise UsageError(
            f"{what}{uri!r} is not a place to copy to or from: {error}. Expected a URI, such as {like}"
        ) from error
    return Place(uri, there, base)


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Say clearly that a place did not answer; a file that is not there stays ``FileNotFoundError``.

    Raises:
        Infrastructure: it did not, although it was asked several times.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unanswered(uri, error) from error


def unanswered(uri: str, error: OSError) -> Infrastructure:
    """What is said of a place that did not answer."""
    return Infrastructure(
        f"{uri} could not be read: {line(error)}. Nothing half was kept; see that it answers and takes your keys "
        "(docs/operations.md, Remote storage), and repeat the command"
    )


@dataclass(frozen=True)
class Place:
    """A folder somewhere: ``Place("s3://bucket/runs", S3FileSystem, "bucket/runs")``."""

    uri: str
    there: fs.FileSystem
    base: str

    def at(self, name: str) -> str:
        """The path of something in it, as its file system takes it."""
        return f"{self.base}/{name}" if name else self.base

    def said(self, name: str) -> str:
        """The same as a person writes it."""
        return child(self.uri, name)

    def files(self, below: str = "") -> list[str]:
        """Names of all files below a folder, relative to this place; [] when there is no such folder."""
        return [info.path.removeprefix(f"{self.base}/") for info in self._infos(below, recursive=True) if info.is_file]

    def folders(self) -> list[str]:
        """Names of the folders right in it."""
        return sorted(info.base_name for info in self._infos("", recursive=False) if not info.is_file)

    def _infos(self, below: str, *, recursive: bool) -> list[Any]:
        from pyarrow import fs

        selector = fs.FileSelector(self.at(below), recursive=recursive, allow_not_found=True)
        with asking(self.said(below)):
            return list(self.there.get_file_info(selector))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a file, all of it.

        Raises:
            FileNotFoundError: it is not there.
            Infrastructure: it could not be read to its end.
        """
        with asking(self.said(name)), self.there.open_input_file(self.at(name)) as file:
            left = file.size()
            while chunk := file.read(CHUNK):
                left -= len(chunk)
                yield chunk
            if left:
                raise OSError(f"{left} bytes fewer came than were announced")

    def read(self, name: str) -> bytes:
        """The content of a small file; errors as :meth:`chunks`."""
        return b"".join(self.chunks(name))

    def maybe(self, name: str) -> bytes | None:
        """The content of a small file; None where it is not there."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def sure(self, name: str) -> bytes:
        """The content of a small file that must be there.

        Raises:
            BrokenCheckpoint: it is not.
        """
        content = self.maybe(name)
        if content is None:
            raise self.missing(name)
        return content

    def missing(self, name: str) -> BrokenCheckpoint:
        """The error of a file that is not there."""
        return BrokenCheckpoint(
            f"{self.said(name)} is missing. If something is writing there now, repeat the command; else copy it there again"
        )
