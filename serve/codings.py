"""Content codings of a request's body (RFC 9110, 8.4), undone while it comes and never beyond what is asked for."""

from __future__ import annotations

import zlib

CODINGS = {b"identity": None, b"gzip": 31, b"deflate": 15}  # to zlib's wbits


class DamagedError(Exception):
    """The bytes are not of the coding that their header names."""


class Inflated:
    """Undoes one coding, piece by piece.

    Args:
        coding: one of ``CODINGS``.
    """

    def __init__(self, coding: bytes) -> None:
        wbits = CODINGS[coding]
        self._coding, self._undo = coding.decode(), None if wbits is None else zlib.decompressobj(wbits)

    def __call__(self, data: bytes, *, most: int, last: bool) -> bytes:
        """What ``data`` stands for; one byte more than ``most`` of it at most.

        Raises:
            DamagedError: it is not of this coding, or ends too early or too late.
        """
        if self._undo is None:
            return data
        try:
            found = self._undo.decompress(data, most + 1)
        except zlib.error:
            raise DamagedError(f"the body is not {self._coding}") from None
        if len(found) <= most and (self._undo.unused_data or (last and not self._undo.eof)):
            raise DamagedError(f"the body is not one whole {self._coding} stream")
        return found
