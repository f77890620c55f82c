"""The log in public: checkpoint, tiles and keys. No key needed, no tenant's data: hashes only.

Source of the paths: C2SP tlog-tiles; ``/log/keys`` is ours. Responses may be cached publicly and read from any page:
a full tile never changes, and neither does a partial one of a given width.
"""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from trustgate.errors import NotFound, TrustGateError
from trustgate.http.sending import send_body, send_error, send_json
from trustgate.receipts.archive import Archive
from trustgate.receipts.tiles import parse_tile_path

_ANYBODY = (b"access-control-allow-origin", b"*")
_FOR_EVER = (b"cache-control", b"public, max-age=31536000, immutable")
_SHORTLY = (b"cache-control", b"public, max-age=1")


class Transparency:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def checkpoint(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /log/checkpoint``: the signed checkpoint (C2SP tlog-checkpoint)."""
        head = [(b"content-type", b"text/plain; charset=utf-8"), _SHORTLY, _ANYBODY]
        await send_body(send, 200, head, self._archive.checkpoint)

    async def tile(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /log/tile/<level>/<index>[.p/<width>]``: hashes, 32 bytes each."""
        try:
            tile, width = parse_tile_path(scope["path_params"]["path"])
            hashes = await self._archive.tile(tile, width)
        except (ValueError, OverflowError):
            hashes = None
        except TrustGateError as error:
            await send_error(send, error, [_ANYBODY])
            return
        if hashes is None:
            missing = NotFound("The log has no such tile under its checkpoint.", code="tile_not_found")
            await send_error(send, missing, [_ANYBODY])
            return
        await send_body(send, 200, [(b"content-type", b"application/octet-stream"), _FOR_EVER, _ANYBODY], hashes)

    async def keys(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /log/keys``: the log's name and verifier key, and those it had before."""
        names = await self._archive.names()
        answer = {
            "origin": self._archive.origin,
            "vkey": self._archive.vkey,
            "keys": [{"vkey": name.vkey, "created_us": name.created_us} for name in names],
        }
        await send_json(send, answer, [_SHORTLY, _ANYBODY])
