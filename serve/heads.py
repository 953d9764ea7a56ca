"""What the head of a request must be before its body is looked at (RFC 9110, RFC 9112), and who may ask."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, MutableMapping
from functools import lru_cache
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from sparring.serve.codings import CODINGS
from sparring.serve.settings import Limits
from sparring.serve.tokens import Tokens

Scope: TypeAlias = MutableMapping[str, Any]
Headers: TypeAlias = dict[bytes, bytes]
LIVE = "/v2/health/live"
OPEN = ("/", "/dashboard", "/docs", "/openapi.json", LIVE, "/v2/health/ready")  # need no token, nor do /static/ files
ONCE = (b"host", b"authorization", b"content-length", b"content-type", b"origin", b"inference-header-content-length")
PROXIED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")
AUTHORITY = re.compile(rb"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]{0,5})?")
ORIGIN = re.compile(rb"null|[A-Za-z][A-Za-z0-9+.-]*://(.*)")


class Rejection(Exception):
    """A request is not looked at further; this is the answer."""

    def __init__(self, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


def collected(pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Headers by lower-case name; values of one name are joined by commas (RFC 9110, 5.3).

    Raises:
        ValueError: one that has one value is given twice.
    """
    found: Headers = {}
    for key, value in pairs:
        name = key.lower()
        if name in found:
            if name in ONCE:
                raise ValueError(f"the header {name.decode('latin-1')} is given twice")
            value = found[name] + b"," + value
        found[name] = value
    return found


def checked(scope: Scope, limits: Limits, tokens: Tokens) -> Headers:
    """A request's headers.

    Raises:
        Rejection: it is not to be answered.
    """
    if sum(len(name) + len(value) for name, value in scope["headers"]) > limits.header_bytes:
        raise Rejection(431, f"the headers are larger than {limits.header_bytes} bytes")
    try:
        headers = collected(scope["headers"])
        name, origin = _host(scope, headers), _origin(headers)
        length = _lengths(headers)
    except ValueError as error:
        raise Rejection(400, str(error)) from None
    if length > limits.body_bytes:
        raise Rejection(413, too_large(limits))
    _check_content(headers)
    if tokens.needed:
        _check_token(scope, headers, tokens)
    else:
        _check_near(scope, headers, name, origin)
    return headers


def coding(headers: Headers) -> bytes:
    """The content coding of the body."""
    return headers.get(b"content-encoding", b"identity").strip().lower()


def known_codings() -> str:
    """For people and for Accept-Encoding."""
    return ", ".join(c.decode() for c in CODINGS if c != b"identity")


def too_large(limits: Limits) -> str:
    """What a client hears whose body is too large."""
    return f"the body is larger than {limits.body_bytes} bytes"


def _host(scope: Scope, headers: Headers) -> str | None:
    """The name under which the service is asked."""
    host = headers.get(b"host")
    if host is None and scope.get("http_version", "1.1") == "1.1":
        raise ValueError("the header host is missing")
    target = scope.get("target", b"/")  # of the request line, where the server says it (local.py)
    if target[:1] not in (b"/", b"*"):
        authority = target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        if authority != host:
            raise ValueError("the request's target and its header host name different hosts")
    return None if host is None else _name(host, "host")


@lru_cache(256)
def _name(authority: bytes, header: str) -> str | None:
    if not AUTHORITY.fullmatch(authority):
        raise ValueError(f"the header {header} names no host")
    name = urlsplit(f"//{authority.decode('ascii')}").hostname
    if authority.startswith(b"["):
        ipaddress.IPv6Address(name or "")
    return name


def _origin(headers: Headers) -> str | None:
    """The name of the page that asks, ``null`` where it has none; None: no page asks."""
    origin = headers.get(b"origin")
    if origin is None:
        return None
    found = ORIGIN.fullmatch(origin)
    if found is None:
        raise ValueError("the header origin names no page")
    return "null" if origin == b"null" else _name(found[1], "origin") or ""


def _lengths(headers: Headers) -> int:
    """Bytes of the body, as declared; 0 where nothing is."""
    for name in (b"content-length", b"inference-header-content-length"):
        length = headers.get(name)
        if length is not None and not (length.isdigit() and len(length) < 16):
            raise ValueError(f"the header {name.decode()} is not a number")
    return int(headers.get(b"content-length", b"0"))


def _check_content(headers: Headers) -> None:
    if coding(headers) not in CODINGS:
        shown = coding(headers).decode("latin-1")[:40]
        text = f"the content coding {shown!r} is unknown; known: {known_codings()}"
        raise Rejection(415, text, ((b"accept-encoding", known_codings().encode()),))
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"multipart/form-data":
        raise Rejection(415, "forms are not taken; send the file itself, as curl --data-binary @image.png does")


def _check_token(scope: Scope, headers: Headers, tokens: Tokens) -> None:
    path = scope["path"]
    if path in OPEN or path.startswith("/static/"):
        return
    kind, _, given = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() != b"bearer" or not tokens.fit(given.strip()):
        wanted = ((b"www-authenticate", b"Bearer"),)
        raise Rejection(401, "a bearer token is needed: Authorization: Bearer TOKEN", wanted)


def _check_near(scope: Scope, headers: Headers, name: str | None, origin: str | None) -> None:
    """Without a token only this machine is answered, by its own name, nobody behind a proxy, and no page from elsewhere."""
    client = scope.get("client")
    if not _here(name) or (client is not None and not _here(client[0])):
        raise Rejection(421, "this service answers only to this machine's own name; others need it to have a token")
    if any(header in headers for header in PROXIED):
        raise Rejection(421, "this service answers nobody behind a proxy; for that it needs a token")
    elsewhere = origin is not None and not _here(origin)
    if elsewhere or headers.get(b"sec-fetch-site") == b"cross-site":
        raise Rejection(403, "a page from elsewhere may not ask this service")


@lru_cache(256)
def _here(host: str | None) -> bool:
    """Whether a name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
