"""The bearer token of a service: from a file, which may be replaced while the service runs, or from the environment."""

from __future__ import annotations

import hmac
import logging
import os
import re
import stat
import time
from pathlib import Path

log = logging.getLogger("sparring.serve")
TOKEN = "SPARRING_TOKEN"  # environment variable that holds the token where no file does
LOOK = 1.0  # seconds between looks at the file
GRACE = 60.0  # seconds for which the token before is taken too: clients are not told at one moment
FORM = re.compile(r"[\x21-\x7e]+")  # what an Authorization header can carry


def read(path: Path) -> str:
    """The token in a file.

    Raises:
        ValueError: it holds no token, more than one line, or may be changed by others than its owner.
        OSError: it cannot be read.
    """
    mode = path.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(
            f"{path} may be written by others (mode {mode & 0o777:o}); the token in it would be theirs: chmod 600"
        )
    content = path.read_bytes()
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} begins with a byte order mark; write the token as plain ASCII")
    lines = content.decode("latin-1").strip().splitlines()
    if not lines:
        raise ValueError(f"{path} is empty; it must hold the bearer token")
    if len(lines) > 1:
        raise ValueError(f"{path} has {len(lines)} lines; it must hold one, the bearer token")
    if not FORM.fullmatch(lines[0]):
        raise ValueError(f"the token in {path} has spaces or characters beyond ASCII, which no header carries")
    if mode & stat.S_IROTH:
        log.warning("%s can be read by everybody on this machine (mode %o): chmod 600", path, mode & 0o777)
    return lines[0]


class Tokens:
    """What a request's token is held against.

    Args:
        file: looked at again every second; its new token holds at once, the one before for ``GRACE`` seconds more. A file that
            becomes unusable changes nothing. None: the environment's, for good.

    Raises:
        ValueError, OSError: see :func:`read`.
    """

    def __init__(self, file: str | None) -> None:
        self._file = None if file is None else Path(file)
        self._now: str | None = os.environ.get(TOKEN, "").strip() or None if self._file is None else read(self._file)
        self._before, self._until = "", 0.0
        self._looked, self._state = time.monotonic(), self._times()

    @property
    def needed(self) -> bool:
        """Whether requests need one."""
        return self._now is not None

    def fit(self, given: bytes) -> bool:
        """Whether a request carries the token."""
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            self._look(now)
        assert self._now is not None
        right = hmac.compare_digest(given, self._now.encode())
        old = hmac.compare_digest(given, self._before.encode()) and now < self._until
        return right or old

    def _look(self, now: float) -> None:
        state = self._times()
        if self._file is None or state is None or state == self._state:
            return
        self._state = state
        try:
            token = read(self._file)
        except (ValueError, OSError) as error:
            log.error("the token stays as it was: %s", error)
            return
        if token != self._now:
            self._before, self._now, self._until = self._now or "", token, now + GRACE
            log.info("a new token holds; the one before does for %g s more", GRACE)

    def _times(self) -> tuple[int, int, int] | None:
        try:
            seen = self._file.stat() if self._file is not None else None
        except OSError:
            return None
        return None if seen is None else (seen.st_mtime_ns, seen.st_size, seen.st_ino)
