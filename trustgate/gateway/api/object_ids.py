"""Ids that upstreams gave out through this gateway: which tenant each belongs to, and which target made it.

All tenants share an upstream's account, so the upstream would answer anybody who knows an id. This is where an id is
tied to its tenant: whoever else names it is told that it does not exist.

Owns the memory of ids: in the process, bounded, the longest unused forgotten first; and in a file in the home folder
that each id is appended to before its answer leaves (one write to the page cache, as the journal's), so that ids
outlive a restart and a kill -9. No database is asked while a request waits.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from trustgate.errors import NotFound

_logger = logging.getLogger("trustgate.gateway")

Kind = Literal["response", "file", "batch"]

#: Ids remembered; a line of the file has some 200 bytes.
MOST_HANDLES = 100_000
#: An id longer than this is no id.
_ID_MOST = 256


class ObjectId(msgspec.Struct, frozen=True, array_like=True):
    """One id. The passport and the upstream's name for the model say which target made it."""

    kind: Kind
    id: str
    tenant: str
    passport: str
    #: As the client asked for it: what its plan is checked against.
    model: str
    upstream_model: str
    #: Work that goes on upstream: the tokens charged so far. The rest is charged when its end is first seen. -1: none.
    owed: int = -1
    #: False: deleted.
    alive: bool = True


_decode = msgspec.json.Decoder(ObjectId).decode
_encode = msgspec.json.Encoder().encode


class ObjectIds:
    def __init__(self, path: Path | None = None, most: int = MOST_HANDLES) -> None:
        """``path`` None: in memory only. Raises ``OSError`` when the file cannot be read or written."""
        self._most = most
        self._known: dict[str, ObjectId] = {}
        self._file = -1
        if path is not None:
            lines = self._load(path)
            if lines > 2 * len(self._known) + 1000:
                self._compact(path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def find(self, kind: Kind, object_id: str, tenant: str) -> ObjectId:
        """The id of this tenant. Raises ``NotFound``, the same for an id that is unknown as for a stranger's."""
        handle = self._known.get(object_id)
        if handle is None or handle.tenant != tenant or handle.kind != kind:
            shown = object_id if object_id.isascii() and object_id.isprintable() and len(object_id) <= 80 else "…"
            raise NotFound(f"No such {kind}: {shown!r}.", code=f"{kind}_not_found")
        # Used: it is forgotten last.
        del self._known[object_id]
        self._known[object_id] = handle
        return handle

    def keep(self, handle: ObjectId) -> None:
        """Remember a new or changed id. A stranger's id is never taken over."""
        known = self._known.get(handle.id)
        if not handle.id or len(handle.id) > _ID_MOST or (known is not None and known.tenant != handle.tenant):
            return
        if known == handle:
            return
        self._put(handle)
        self._append(handle)

    def forget(self, handle: ObjectId) -> None:
        if self._known.pop(handle.id, None) is not None:
            self._append(msgspec.structs.replace(handle, alive=False))

    def of_tenant(self, kind: Kind, tenant: str) -> list[ObjectId]:
        """Newest use last."""
        return [handle for handle in self._known.values() if handle.kind == kind and handle.tenant == tenant]

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # inside

    def _put(self, handle: ObjectId) -> None:
        self._known.pop(handle.id, None)
        self._known[handle.id] = handle
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def _append(self, handle: ObjectId) -> None:
        if self._file < 0:
            return
        try:
            os.write(self._file, _encode(handle) + b"\n")
        except OSError as error:
            # The answer is worth more than finding it again after a restart.
            _logger.warning("an id cannot be written down: %s", error.strerror)

    def _load(self, path: Path) -> int:
        """Read the file; gives the number of its lines. A line that a crash cut short is passed over."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return 0
        lines = data.split(b"\n")
        for handle in _handles(lines):
            if handle.alive:
                self._put(handle)
            else:
                self._known.pop(handle.id, None)
        return len(lines)

    def _compact(self, path: Path) -> None:
        fresh = path.with_suffix(".new")
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with fresh.open("wb") as file:
            file.writelines(_encode(handle) + b"\n" for handle in self._known.values())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)


def _handles(lines: Iterable[bytes]) -> Iterable[ObjectId]:
    for line in lines:
        try:
            yield _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
