"""The body of a request on its way through: JSON that is in hand whole, or a form that may be too large for that.

A form that is no larger than a JSON body may be is read into memory whole, since the fields that the gateway decides by
may stand behind its file; where all of them have come, it is sent on while it still arrives (from ``HEAD_BYTES`` on).
Neither the fields' order nor how the bytes are cut decides whether such a form is taken. In a larger one the fields
stand within that bound. What is sent on while it arrives can be sent once only. Owns the bounds, and what becomes of a
form that turns out wrong, or stops, when its beginning is already on its way.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.types import Receive

from trustgate.errors import RequestTimeout, RequestTooLarge, TrustGateError, Unavailable
from trustgate.gateway.api import units
from trustgate.gateway.api.batch_files import BatchFile, JudgeLine
from trustgate.gateway.api.form_heads import boundary_of
from trustgate.gateway.api.large_body import LargeBody, in_reader
from trustgate.gateway.api.multipart import FormScanner, ModelField, Piece, too_late
from trustgate.models.metering.audio_length import Recording

#: A form of at most this many bytes is in hand before anything is decided; a larger one is sent on as it arrives, where
#: no field that decides can follow.
HEAD_BYTES = 1024 * 1024
#: So much of a batch's file is judged on the loop; more may hold many lines.
_INLINE_BYTES = 2048


class ClientDisconnected(Exception):
    """The client hung up while it still sent its request. Never leaves the gateway room."""


class Upload:
    """A form: its beginning, the fields in it, and what still arrives."""

    def __init__(
        self,
        receive: Receive,
        content_type: bytes,
        needed: frozenset[str],
        decisive: frozenset[str],
        max_bytes: int,
        max_memory_bytes: int,
        *,
        judge_line: JudgeLine | None = None,
        hears: bool = False,
        hold: Callable[[int], None] | None = None,
    ) -> None:
        """``needed``: the fields without which nothing can be decided; ``decisive``: those that may be given once only;
        ``max_memory_bytes``: within so many first bytes they stand; ``judge_line``: for the lines of a batch's file;
        ``hears``: whether its file is a recording; ``hold``: called with the number of bytes that are to be kept in
        memory, raises where there is no room.

        Raises ``InvalidRequest``.
        """
        self.content_type = content_type
        self.size = 0
        #: What went wrong with the rest after its beginning was sent on.
        self.fault: TrustGateError | None = None
        #: Called when the client hangs up in the middle of it, and when it has arrived whole.
        self.on_gone: Callable[[], None] = _nothing
        self.on_end: Callable[[], None] = _nothing
        self._receive = receive
        self._needed = needed
        self._decisive = decisive
        self._max_bytes = max_bytes
        self._max_memory_bytes = max_memory_bytes
        #: It is sent on although fields that decide may follow, as no memory is left to wait for them.
        self._is_crowded = False
        self._boundary = boundary_of(content_type)
        self._scanner = FormScanner(self._boundary, decisive, max_memory_bytes)
        self._judge_line = judge_line
        self._hold = hold or _nothing
        self._file_head = b""
        self._recording = Recording() if hears else None
        self._scanner.on_file = self._keep_head
        if judge_line is not None:
            self._scanner.on_file = self._look_at_file
        #: The requests in it, where it is the file of a batch.
        self.batch: BatchFile | None = None
        #: What came of the file before its purpose was told, as JavaScript's clients send it.
        self._unjudged: list[bytes] = []
        self._hash = hashlib.sha256()
        self._pieces: list[Piece] = []
        self._ended = False
        self._timeout_s = 0.0

    @property
    def fields(self) -> dict[str, str]:
        return self._scanner.fields

    @property
    def is_whole(self) -> bool:
        return self._ended

    def _keep_head(self, data: bytes) -> None:
        if len(self._file_head) < units.HEAD_BYTES:
            self._file_head += data[: units.HEAD_BYTES]
        if self._recording is not None:
            self._recording.feed(data)

    def recording_ms(self) -> tuple[int, bool]:
        """Returns how long its recording is, milliseconds, and whether it has that itself; (0, False): unknown."""
        if self._recording is None or not self._recording.size:
            return 0, False
        told = self._recording.length_ms() if self._ended else None
        return (self._recording.estimate_ms(), False) if told is None else (told, True)

    def audio_ms(self, declared_bytes: int | None) -> int:
        """Returns how long the recording in it may be. ``declared_bytes``: the form's length, if declared."""
        size = self.size if self._ended else declared_bytes or self._max_bytes
        return units.audio_ms(self._file_head, size)

    def _look_at_file(self, data: bytes) -> None:
        self._unjudged.append(data)
        self._judge_file()

    def _judge_file(self) -> None:
        """Read what has come of a batch's file. Until its purpose is told it waits, within ``read_head``'s bound."""
        if "purpose" not in self.fields:
            return
        if self.fields["purpose"] == "batch" and self._judge_line is not None:
            self.batch = self.batch or BatchFile(self._judge_line)
            for data in self._unjudged:
                self.batch.feed(data)
        self._unjudged.clear()

    @property
    def _is_decidable(self) -> bool:
        # A model that is added stands before the first boundary, so that has to be known.
        return (
            self._scanner.start is not None
            and self._needed <= self.fields.keys()
            and (self.batch is None or self.batch.model != "")
        )

    async def read_head(self, timeout_s: float) -> None:
        """Read until the form is whole, or can be decided on. Raises what a wrong form deserves."""
        self._timeout_s = timeout_s
        while not (self._ended or self._can_be_sent_on or self._is_crowded):
            if self.size > self._max_memory_bytes:
                missing = ", ".join(sorted(self._needed - self.fields.keys())) or "a first short line"
                raise too_late(missing, self._max_memory_bytes)
            try:
                await self._keep_more()
            except Unavailable:
                if not self._is_decidable or self._judge_line is not None:
                    raise
                self._is_crowded = not self._ended

    @property
    def _can_be_sent_on(self) -> bool:
        """Whether no field that decides can follow, and it is too large to wait for its end."""
        most = self._max_memory_bytes
        is_large = self.size >= (min(HEAD_BYTES, most) if self._decisive <= self.fields.keys() else most)
        return is_large and self._is_decidable

    async def read_whole(self, max_memory_bytes: int) -> None:
        """Read to the end, into memory. Raises ``RequestTooLarge`` for a form that has no room there."""
        while not self._ended:
            if self.size > max_memory_bytes:
                raise RequestTooLarge(
                    f"A form that is paid for must not be larger than {max_memory_bytes} bytes.",
                    headers={"connection": "close"},
                )
            await self._keep_more()

    async def _keep_more(self) -> None:
        """Keep the pieces of the next chunk in memory. Raises ``Unavailable`` where that has no room for more."""
        before = self.size
        self._pieces += await self._more()
        self._hold(self.size - before)

    async def _more(self) -> list[Piece]:
        """Returns the pieces of the next chunk. A client may be slow, but not silent."""
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout(
                f"Nothing of the request body arrived for {self._timeout_s:g} s.", headers={"connection": "close"}
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        self.size += len(chunk)
        if self.size > self._max_bytes:
            raise RequestTooLarge(
                f"The request body is larger than {self._max_bytes} bytes.", headers={"connection": "close"}
            )
        self._hash.update(chunk)
        if self._judge_line is not None and (len(chunk) > _INLINE_BYTES or self._ends_large_line(chunk)):
            pieces = await in_reader(self._feed, chunk)
        else:
            pieces = self._feed(chunk)
        if not message.get("more_body", False):
            self._scanner.finish()
            if self.batch is not None:
                await in_reader(BatchFile.finish, self.batch)
            self._ended = True
        return pieces

    def _feed(self, chunk: bytes) -> list[Piece]:
        pieces = self._scanner.feed(chunk)
        if self._unjudged:
            self._judge_file()
        return pieces

    def _ends_large_line(self, chunk: bytes) -> bool:
        return b"\n" in chunk and self.batch is not None and self.batch.is_in_large_line

    def outgoing(self, model: str) -> bytes | AsyncIterator[bytes]:
        """Returns the form as an upstream is to get it: whole, or as it arrives. Only the model's name is another.

        ``model``: "" where the form names none, and is to stay as it is.
        """
        head = b"".join(_render(piece, model) for piece in self._pieces)
        added = self._added(model)
        if added:
            start = self._scanner.start or 0
            head = head[:start] + added + head[start:]
        return head if self._ended else self._stream(head)

    def growth(self, model: str) -> int:
        """Returns how much longer than the client's form the upstream's is, bytes."""
        if not model:
            return 0
        return len(self._added(model)) + sum(
            len(model.encode()) - len(piece.value) for piece in self._pieces if isinstance(piece, ModelField)
        )

    def _added(self, model: str) -> bytes:
        """Returns a part with the model, for a form that left it out."""
        if not model or "model" in self.fields:
            return b""
        disposition = b'content-disposition: form-data; name="model"'
        return b"--%b\r\n%b\r\n\r\n%b\r\n" % (self._boundary, disposition, model.encode())

    async def _stream(self, head: bytes) -> AsyncIterator[bytes]:
        yield head
        self._pieces.clear()
        decided = self._decisive & self.fields.keys()
        while not self._ended:
            try:
                pieces = await self._more()
                late = (self._decisive & self.fields.keys()) - decided
                if late:  # of a crowded one only: the scanner refuses it otherwise
                    raise Unavailable(
                        f"The gateway has no memory for a form with {', '.join(sorted(late))} behind its file now.",
                        code="overloaded",
                        headers={"retry-after": "1", "connection": "close"},
                        retryable=True,
                    )
            except TrustGateError as error:
                # The sender of this sees a broken body; the client is told what is kept here.
                self.fault = error
                raise
            except ClientDisconnected:
                self.on_gone()
                await asyncio.get_running_loop().create_future()
            for piece in pieces:
                assert isinstance(piece, bytes), "the model is decisive: it came before, or is refused above"
                yield piece
        self.on_end()

    def digest(self) -> bytes:
        return self._hash.digest()


Payload = bytes | LargeBody | Upload


def digest(payload: Payload) -> bytes:
    """SHA-256 of the request's bytes as the client sent them, as far as they came."""
    return hashlib.sha256(payload).digest() if isinstance(payload, bytes) else payload.digest()


def _render(piece: Piece, model: str) -> bytes:
    if isinstance(piece, ModelField):
        return model.encode() if model else piece.value
    return piece


def _nothing(*_: Any) -> None:
    return None
