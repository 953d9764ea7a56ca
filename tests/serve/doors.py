"""Requests as nobody should send them, byte by byte, and what the service says to each. Aimed at our own guard; all are harmless."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import zlib

from tests.helpers import PATIENCE
from tests.serve.made import infer, pixels, png

IMAGE = png(pixels()[0])
BODY = json.dumps(infer(pixels())).encode()
CLASSIFY, INFER = "/v1/models/digits-robust:classify", "/v2/models/digits-robust/infer"
HOST = "host: 127.0.0.1"


def raw(line: str, *headers: str, body: bytes = b"", length: bool = True) -> bytes:
    """A request as these lines make it."""
    own = [f"content-length: {len(body)}"] if length and body else []
    return "\r\n".join([f"{line} HTTP/1.1", *headers, *own, "", ""]).encode("latin-1") + body


def inflated(coding: str, content: bytes, path: str = INFER) -> bytes:
    return raw(f"POST {path}", HOST, f"content-encoding: {coding}", body=content)


# name -> request, statuses that are right, words of the answer. HAProxy refuses some by itself, with 400 in its own words.
DOORS: dict[str, tuple[bytes, set[int], str]] = {
    "a host that is no address": (raw("GET /v2", "host: [::1"), {400}, "host"),
    "a host with a name before it": (raw("GET /v2", "host: a@127.0.0.1"), {400}, "host"),
    "a host with spaces": (raw("GET /v2", "host: 127.0.0.1 x"), {400}, "host"),
    "an origin that is no page": (raw("GET /v2", HOST, "origin: http://[::1"), {400}, "origin"),
    "an origin without a scheme": (raw("GET /v2", HOST, "origin: 127.0.0.1"), {400}, "origin"),
    "no host": (raw("GET /v2"), {400}, "host"),
    "two hosts": (raw("GET /v2", HOST, HOST), {400}, ""),
    "two different hosts": (raw("GET /v2", "host: evil.example", HOST), {400}, ""),
    "two tokens": (raw("GET /v2", HOST, "authorization: Bearer a", "authorization: Bearer b"), {400}, "given twice"),
    "two origins": (raw("GET /v2", HOST, "origin: http://localhost", "origin: http://localhost"), {400}, "given twice"),
    "a target of another host": (raw("GET http://evil.example/v2", HOST), {400, 421}, ""),
    "its own target": (raw("GET http://127.0.0.1/v2", HOST), {200}, ""),
    "another host": (raw("GET /v2", "host: evil.example"), {421}, "own name"),
    "a client named by a proxy": (raw("GET /v2", HOST, "x-forwarded-for: 127.0.0.1"), {421}, "behind a proxy"),
    "forwarded": (raw("GET /v2", HOST, "forwarded: for=127.0.0.1"), {421}, "behind a proxy"),
    "a version twice": (raw(f"POST {CLASSIFY}?version=1&version=1", HOST, body=IMAGE), {422}, "version: given twice"),
    "a version misspelt": (raw(f"POST {CLASSIFY}?versoin=1", HOST, body=IMAGE), {422}, "versoin: unknown"),
    "a query where none is": (raw("GET /v2/health/ready?x=1", HOST), {422}, "takes none"),
    "inputs twice": (raw(f"POST {INFER}", HOST, body=BODY[:-1] + b', "inputs": []}'), {422}, "given twice"),
    "a key twice, deep": (raw(f"POST {INFER}", HOST, body=BODY.replace(b'"name"', b'"name": "x", "name"', 1)), {422}, "twice"),
    "gzip": (inflated("gzip", gzip.compress(BODY)), {200}, "logits"),
    "gzip of an image": (inflated("gzip", gzip.compress(IMAGE), CLASSIFY), {200}, "top"),
    "deflate": (inflated("deflate", zlib.compress(BODY)), {200}, "logits"),
    "identity": (inflated("identity", BODY), {200}, "logits"),
    "gzip that is none": (inflated("gzip", BODY), {400}, "not gzip"),
    "gzip cut short": (inflated("gzip", gzip.compress(BODY)[:-9]), {400}, "not one whole gzip stream"),
    "gzip and more": (inflated("gzip", gzip.compress(BODY) + b"x"), {400}, "not one whole gzip stream"),
    "gzip of much": (inflated("gzip", gzip.compress(bytes(2**25))), {413}, "larger than"),
    "brotli": (inflated("br", BODY), {415}, "known: gzip, deflate"),
    "gzip twice": (inflated("gzip, gzip", BODY), {415}, "known: gzip, deflate"),
    "a form": (
        raw(f"POST {CLASSIFY}", HOST, "content-type: multipart/form-data; boundary=x", body=b"--x--"),
        {415},
        "send the file itself",
    ),
    "HEAD": (raw("HEAD /v2/health/ready", HOST), {200}, ""),
    "HEAD of a card": (raw("HEAD /v1/models/digits-robust/card", HOST), {200}, ""),
    "HEAD where POST belongs": (raw(f"HEAD {INFER}", HOST), {405}, ""),
    "large headers": (raw("GET /v2", HOST, *(f"x-{i}: {'a' * 4000}" for i in range(20))), {400, 431}, ""),
    "one large header": (raw("GET /v2", HOST, f"x-large: {'a' * 2**20}"), {400, 431}, ""),
    "a head without an end": (raw("GET /v2", HOST, f"x-large: {'a' * 2**18}")[:-4], {400, 431}, ""),
    "a length that is none": (raw("POST /v2", HOST, "content-length: 1x", length=False), {400}, ""),
    "two lengths": (raw("POST /v2", HOST, "content-length: 1", "content-length: 2", length=False), {400}, ""),
    "a length and chunks": (
        raw("POST /v2", HOST, "content-length: 5", "transfer-encoding: chunked", body=b"0\r\n\r\n", length=False),
        {400, 405},
        "",
    ),
    "not HTTP": (b"hello\r\n\r\n", {400}, ""),
    "a control character": (b"GET /v2\x01 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", {400, 404}, ""),
}  # fmt: skip


def said(url: str, request: bytes) -> tuple[int, bytes]:
    """Status and all that came, on a connection of its own."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as s:
        with contextlib.suppress(OSError):  # it may answer before it has all
            s.sendall(request)
        got = b""
        while not _whole(got, head=request.startswith(b"HEAD")):
            try:
                part = s.recv(65536)
            except ConnectionResetError:
                break
            if not part:
                break
            got += part
    assert got.startswith(b"HTTP/1."), got[:100]
    return int(got.split(b" ", 2)[1]), got


def _whole(got: bytes, *, head: bool) -> bool:
    start, end, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", start, re.IGNORECASE)
    if not end:
        return False
    if head:
        return True
    if length is None:
        return b"chunked" in start.lower() and body.endswith(b"0\r\n\r\n")
    return len(body) >= int(length[1])
