"""The answers of paid requests, kept for a while so that a retry with the same payment gets the one it paid for.

Kept on disk, so that they survive the process, and there only as their payer can read them: each file is encrypted with
a key derived from the API key of the request, or, where it has none, from its body; neither is anywhere on disk. An
answer to a request without a key can be read with the file and a guess of every byte of that body. Bounded in bytes,
all together, and in time: the oldest go first.

Owns the files: ``ID`` with an answer, ``ID.large`` for one that was too large, mode 0600, whole or not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import re
import time
from collections import OrderedDict
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from trustgate.formats.durable import write_durably
from trustgate.types import Payment

_logger = logging.getLogger("trustgate.payment")

#: An answer that is larger is not kept, bytes.
MOST_ANSWER_BYTES = 4 * 1024 * 1024
_MOST_BYTES = 64 * 1024 * 1024
#: For how long answers are kept, seconds.
KEPT_S = 3_600.0
#: Answers, and payments whose client left before it had its answer.
_MOST_ENTRIES = 10_000
_NONCE_BYTES: Final = 16
_MAC_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(\.large)?")


class Recorded(NamedTuple):
    """A whole answer, as it went out."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class AnswerRecorder:
    """Takes down one answer while it is sent."""

    __slots__ = ("_chunks", "_head", "_is_whole", "_size")

    def __init__(self) -> None:
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_whole = False

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._head = status, list(headers)

    def write(self, body: bytes, *, last: bool) -> None:
        self._size += len(body)
        if self._size <= MOST_ANSWER_BYTES:
            self._chunks.append(body)
        else:
            self._chunks.clear()
        self._is_whole = self._is_whole or last

    @property
    def is_too_large(self) -> bool:
        return self._size > MOST_ANSWER_BYTES

    def recorded(self) -> Recorded | None:
        """Returns the answer; None while it is not whole, or where it was too large."""
        if self._head is None or not self._is_whole or self.is_too_large:
            return None
        return Recorded(*self._head, b"".join(self._chunks))


class _Kept:
    """One answer. Its bytes are in memory until they are on disk; those of one that was too large are nowhere."""

    __slots__ = ("at_s", "is_large", "is_on_disk", "plain", "size")

    def __init__(self, at_s: float, size: int, plain: bytes | None, *, is_on_disk: bool, is_large: bool) -> None:
        self.at_s, self.size, self.plain = at_s, size, plain
        self.is_on_disk, self.is_large = is_on_disk, is_large


class Answers:
    """Recorded answers by the id of their payment."""

    def __init__(self, folder: Path | None = None, *, most_bytes: int = _MOST_BYTES) -> None:
        """``folder``: where they are kept; made with the first. None: in memory alone. ``most_bytes``: all together."""
        self._folder = folder
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._size = 0
        #: Payments whose client left before it had the answer, by the request: tenant, and digest of what was asked.
        self._owed: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._take_over()

    @property
    def size(self) -> int:
        """Bytes of all that are kept."""
        return self._size

    def owe(self, request: tuple[str, str], payment_id: str) -> None:
        """The next such request has been paid for by the kept answer."""
        self._owed[request] = payment_id
        while len(self._owed) > _MOST_ENTRIES:
            self._owed.popitem(last=False)

    def take_owed(self, request: tuple[str, str], key: bytes) -> Recorded | None:
        payment_id = self._owed.pop(request, None)
        return None if payment_id is None else self.find(payment_id, key)

    def keep(self, payment_id: str, recorded: Recorded) -> None:
        """Keep an answer, for now in memory; ``write`` brings it to the disk. One beyond the bound is too large."""
        plain = _encoded(recorded)
        size = _NONCE_BYTES + len(plain) + _MAC_BYTES
        if size > self._most_bytes:
            self.keep_none(payment_id)
        else:
            self._put(payment_id, _Kept(time.time(), size, plain, is_on_disk=False, is_large=False))

    def keep_none(self, payment_id: str) -> None:
        """Note that a payment's answer was too large to keep, so that a retry is told so."""
        self._put(payment_id, _Kept(time.time(), 0, None, is_on_disk=False, is_large=True))

    async def write(self, payment_id: str, key: bytes) -> None:
        """Bring to the disk what is kept of a payment. Raises nothing: what cannot be written stays in memory.

        ``key``: what the answer is encrypted with; b"": it stays in memory.
        """
        kept, folder = self._kept.get(payment_id), self._folder
        if kept is None or folder is None or not key:
            return
        try:
            await asyncio.to_thread(_write, folder, payment_id, kept.plain, key)
        except OSError as error:
            _logger.warning("the answer of payment %s is kept in memory alone: %s", payment_id, error.strerror)
            return
        if self._kept.get(payment_id) is kept:
            kept.plain, kept.is_on_disk = None, True
        else:
            _remove(folder, payment_id)

    def find(self, payment_id: str, key: bytes) -> Recorded | None:
        """Returns a kept answer; None where there is none, or where it is another key's."""
        kept = self._current(payment_id)
        if kept is None or kept.is_large:
            return None
        if kept.plain is not None:
            return _decoded(kept.plain)
        assert self._folder is not None, "it is on disk"
        try:
            sealed = (self._folder / payment_id).read_bytes()
        except OSError as error:
            _logger.warning("the answer of payment %s cannot be read: %s", payment_id, error.strerror)
            return None
        plain = _unsealed(sealed, key, payment_id)
        return None if plain is None else _decoded(plain)

    async def look_up(self, payment_id: str, key: bytes) -> Recorded | None:
        """``find``, wherever answers are kept. Raises ``Unavailable`` where that cannot be reached."""
        return self.find(payment_id, key)

    def is_on_its_way(self, payment: Payment) -> bool:
        """Returns whether the answer of a payment that is used may be kept in a moment."""
        return False

    def why_gone(self, payment_id: str) -> str:
        """Returns why a used payment's answer is not to be had, as the end of a sentence."""
        kept = self._current(payment_id)
        if kept is not None and kept.is_large:
            most = min(MOST_ANSWER_BYTES, self._most_bytes)
            return f"its answer was not kept, as it is larger than {most} bytes"
        if kept is not None:
            return "its answer is kept for the API key that asked"
        return "its answer is no longer kept"

    def sweep(self) -> None:
        """Let go of what has been kept for long enough."""
        while self._kept and time.time() - next(iter(self._kept.values())).at_s >= KEPT_S:
            self._drop(next(iter(self._kept)))

    def _current(self, payment_id: str) -> _Kept | None:
        kept = self._kept.get(payment_id)
        return None if kept is None or time.time() - kept.at_s >= KEPT_S else kept

    def _put(self, payment_id: str, kept: _Kept) -> None:
        self._drop(payment_id)
        # Before it is added: at no moment is there more than may be.
        while self._kept and (self._size + kept.size > self._most_bytes or len(self._kept) >= _MOST_ENTRIES):
            self._drop(next(iter(self._kept)))
        self._kept[payment_id] = kept
        self._size += kept.size
        self.sweep()

    def _drop(self, payment_id: str) -> None:
        kept = self._kept.pop(payment_id, None)
        if kept is not None:
            self._size -= kept.size
            if kept.is_on_disk and self._folder is not None:
                _remove(self._folder, payment_id)

    def _take_over(self) -> None:
        """Go on with what an earlier process kept, as far as it is young and within the bound; the rest is removed."""
        if self._folder is None or not self._folder.is_dir():
            return
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if _NAME.fullmatch(path.name):
                    stat = path.stat()
                    found.append((stat.st_mtime, path.name, stat.st_size))
                else:
                    path.unlink()  # begun and not finished
        for at_s, name, size in sorted(found):
            payment_id, _, large = name.partition(".")
            self._put(payment_id, _Kept(at_s, size, None, is_on_disk=True, is_large=bool(large)))
        self.sweep()


def answer_key(known_by: bytes) -> bytes:
    """Returns the key that an answer is encrypted with; b"" for none: it stays in memory.

    ``known_by``: the API key, or the SHA-256 of the body of a request without one. The database has the API key's own
    SHA-256, and one over the body's and the path: the key must not be derivable from those.
    """
    return hmac.digest(known_by, b"TrustGate: kept answers", "sha256") if known_by else b""


def sealed_answer(recorded: Recorded, key: bytes, payment_id: str) -> bytes:
    """Returns an answer that only ``key`` opens."""
    return _sealed(_encoded(recorded), key, payment_id)


def opened(sealed: bytes, key: bytes, payment_id: str) -> Recorded | None:
    """Returns the answer; None where it was not sealed with that key for that payment, or is damaged."""
    plain = _unsealed(sealed, key, payment_id)
    return None if plain is None else _decoded(plain)


def _write(folder: Path, payment_id: str, plain: bytes | None, key: bytes) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if plain is None:
        write_durably(folder / f"{payment_id}.large", b"")
    else:
        write_durably(folder / payment_id, _sealed(plain, key, payment_id))


def _remove(folder: Path, payment_id: str) -> None:
    for name in (payment_id, f"{payment_id}.large"):
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def _sealed(plain: bytes, key: bytes, payment_id: str) -> bytes:
    """Encrypt, then authenticate: SHAKE-256 of key and nonce as the key stream, HMAC-SHA-256 over id and result.

    Both are of the standard library; the nonce is random and a key stream is used once.
    """
    nonce = os.urandom(_NONCE_BYTES)
    sealed = nonce + _crypted(plain, key, nonce)
    return sealed + _mac(sealed, key, payment_id)


def _unsealed(sealed: bytes, key: bytes, payment_id: str) -> bytes | None:
    """Returns the plain text; None where it was not sealed with that key for that payment, or is damaged."""
    body, mac = sealed[:-_MAC_BYTES], sealed[-_MAC_BYTES:]
    if not key or not hmac.compare_digest(_mac(body, key, payment_id), mac):
        return None
    return _crypted(body[_NONCE_BYTES:], key, body[:_NONCE_BYTES])


def _crypted(text: bytes, key: bytes, nonce: bytes) -> bytes:
    stream = hashlib.shake_256(hmac.digest(key, b"stream", "sha256") + nonce).digest(len(text))
    return (int.from_bytes(text) ^ int.from_bytes(stream)).to_bytes(len(text))


def _mac(sealed: bytes, key: bytes, payment_id: str) -> bytes:
    return hmac.digest(hmac.digest(key, b"mac", "sha256"), payment_id.encode() + b"\0" + sealed, "sha256")


def _encoded(recorded: Recorded) -> bytes:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in recorded.headers]
    return msgspec.json.encode((recorded.status, headers)) + b"\n" + recorded.body


def _decoded(plain: bytes) -> Recorded:
    head, _, body = plain.partition(b"\n")
    status, headers = msgspec.json.decode(head, type=tuple[int, list[tuple[str, str]]])
    return Recorded(status, [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers], body)
