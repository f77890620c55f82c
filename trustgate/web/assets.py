"""The static files of the pages: ``/assets/NAME``, compressed, with an ETag.

A file is read when it is first asked for, and kept. Pages name it with the beginning of its hash
(``base.css?v=0123456789ab``), so that a browser may keep it for ever and still gets the next version.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from trustgate.errors import NotFound
from trustgate.http.sending import send_body, send_error

PREFIX = "/assets/"

_TYPES = {
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "mjs": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
    "txt": b"text/plain; charset=utf-8",
}
_FOR_EVER = b"public, max-age=31536000, immutable"


class _Asset(NamedTuple):
    content_type: bytes
    version: str
    #: The bodies, by ``content-encoding``.
    encoded: dict[bytes, bytes]


class Assets:
    """An ASGI application that serves the files of ``trustgate/web/static``."""

    def __init__(self) -> None:
        self._kept: dict[str, _Asset] = {}

    def url(self, name: str) -> str:
        """Returns the address of a file, its version in it. Raises ``NotFound`` where there is no such file."""
        return f"{PREFIX}{name}?v={self._asset(name).version}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asset = self._asset(scope["path"].removeprefix(PREFIX))
        except NotFound as error:
            await send_error(send, error)
            return
        versioned = scope.get("query_string", b"") == b"v=" + asset.version.encode()
        encoding = _encoding(scope["headers"])
        etag = f'"{asset.version}{"-" if encoding else ""}{encoding.decode()}"'.encode()
        headers = [
            (b"cache-control", _FOR_EVER if versioned else b"no-cache"),
            (b"etag", etag),
            (b"vary", b"accept-encoding"),
            (b"x-content-type-options", b"nosniff"),
            (b"cross-origin-resource-policy", b"same-origin"),
        ]
        if etag in _tags(scope["headers"]):
            await send_body(send, 304, headers, b"")
            return
        headers.append((b"content-type", asset.content_type))
        if encoding:
            headers.append((b"content-encoding", encoding))
        await send_body(send, 200, headers, asset.encoded[encoding])

    def _asset(self, name: str) -> _Asset:
        if name not in self._kept:
            self._kept[name] = _read(name)
        return self._kept[name]


def _read(name: str) -> _Asset:
    content_type = _TYPES.get(name.rpartition(".")[2])
    parts = name.split("/")
    if content_type is None or any(part in ("", ".", "..") or "\\" in part for part in parts):
        raise NotFound(f"There is no file {name[:100]} here.", code="unknown_url")
    file = files("trustgate.web").joinpath("static", *parts)
    try:
        # Both raise OSError for a name that is too long.
        data = file.read_bytes() if file.is_file() else None
    except OSError:
        data = None
    if data is None:
        raise NotFound(f"There is no file {name[:100]} here.", code="unknown_url")
    import brotli

    return _Asset(
        content_type,
        hashlib.sha256(data).hexdigest()[:12],
        {b"": data, b"gzip": gzip.compress(data, 9, mtime=0), b"br": brotli.compress(data, quality=9)},
    )


def _encoding(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns the best encoding that the client takes; b"" for none. RFC 9110, section 12.5.3."""
    taken = {
        name.strip()
        for key, value in headers
        if key == b"accept-encoding"
        for name, _, weight in (part.partition(b";") for part in value.lower().split(b","))
        if weight.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    }
    return next((encoding for encoding in (b"br", b"gzip") if encoding in taken), b"")


def _tags(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Returns the ETags of ``if-none-match``, compared weakly (RFC 9110, section 13.1.2)."""
    given = (value for key, value in headers if key == b"if-none-match")
    return {part.strip().removeprefix(b"W/") for value in given for part in value.split(b",")}
