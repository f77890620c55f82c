"""Cutting a multipart form into its parts as it arrives, byte for byte.

Text before the first boundary and after the last one is passed on, as the grammar has it. A form that two readers could
read differently (line ends that are none, a boundary within that text, a decisive field said twice) is refused, since
the upstream might believe the other reading; ``form_heads`` does so for the heads of its parts. Sources: RFC 7578,
RFC 2046 section 5.1.1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.gateway.api.form_heads import bad_form, read_part_head
from trustgate.gateway.api.members import steers

#: The most parts of a form, the largest head of a part and the largest field that is no file, bytes.
MOST_PARTS = 256
MOST_HEAD_BYTES = 8 * 1024
MOST_FIELD_BYTES = 1024 * 1024
#: The longest text before the first boundary, and after the last, bytes.
MOST_TEXT_AROUND_BYTES = 1024
#: Fields that hold a file here; as text they would name an object of the upstream, whose owner a form cannot tell.
_FILE_OR_OBJECT = frozenset(("video", "characters", "input_reference"))


class ModelField(msgspec.Struct, frozen=True):
    """Stands in the output where the value of the field ``model`` stood."""

    value: bytes


Piece = bytes | ModelField


class FormScanner:
    """An incremental scanner: chunks in, the same bytes out in pieces, the fields noted on the way."""

    def __init__(self, boundary: bytes, decisive: frozenset[str], latest: int = sys.maxsize) -> None:
        """``decisive``: the fields that may be given once only, and end within the form's first ``latest`` bytes."""
        self._delimiter = b"\r\n--" + boundary
        self._decisive = decisive
        self._latest = latest
        #: How much of the form has been read; the line end before it does not count.
        self._at = -2
        #: The first boundary has no line end before it; given one, it is like the others.
        self._buffer = bytearray(b"\r\n")
        self._step: Callable[[list[Piece]], bool] = self._begin
        self._parts = 0
        self._name = ""
        self._value = bytearray()
        self._is_file = False
        self._is_ascii = False
        self._epilogue_text = bytearray()
        #: The fields so far, as text.
        self.fields: dict[str, str] = {}
        #: What the file's part is called, and who wants to see its bytes.
        self.file_field = ""
        self.on_file: Callable[[bytes], None] | None = None
        #: Where the first boundary is, bytes; None until it has come.
        self.start: int | None = None
        #: The last boundary was seen.
        self.ended = False

    def feed(self, chunk: bytes) -> list[Piece]:
        """Returns what can be passed on after this chunk. Raises ``InvalidRequest``."""
        self._buffer += chunk
        pieces: list[Piece] = []
        while self._step(pieces):
            pass
        return pieces

    def finish(self) -> None:
        """The body is at its end. Raises ``InvalidRequest`` when the form is not."""
        if not self.ended or self._epilogue_text == b"\r":
            raise bad_form("it ends before its last boundary")

    # the steps: each takes from the buffer, and returns whether the next one can go on

    def _begin(self, pieces: list[Piece]) -> bool:
        start = self._buffer.find(self._delimiter)
        known = start if start >= 0 else len(self._buffer) - len(self._delimiter)
        if known > MOST_TEXT_AROUND_BYTES:
            raise bad_form(f"it does not begin with its boundary, nor within {MOST_TEXT_AROUND_BYTES} bytes")
        if start < 0:
            return False
        if self._delimiter[2:] in self._buffer[:start]:
            raise bad_form("the text before its first boundary has that boundary in it")
        self.start = start
        # The line end that was put before it goes no further.
        pieces.append(self._take(start + len(self._delimiter))[2:])
        self._step = self._after_boundary
        return True

    def _after_boundary(self, pieces: list[Piece]) -> bool:
        if len(self._buffer) < 2:
            return False
        mark = self._take(2)
        pieces.append(mark)
        if mark == b"--":
            self.ended = True
            self._step = self._epilogue
        elif mark == b"\r\n":
            self._parts += 1
            if self._parts > MOST_PARTS:
                raise bad_form(f"it has more than {MOST_PARTS} parts")
            self._step = self._head
        else:
            raise bad_form("a boundary is not at the end of its line")
        return True

    def _head(self, pieces: list[Piece]) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MOST_HEAD_BYTES:
            if len(self._buffer) > MOST_HEAD_BYTES:
                raise bad_form("the head of a part is too long")
            return False
        head = self._take(end + 4)
        pieces.append(head)
        self._read_head(head[:-4])
        self._step = self._file if self._is_file else self._field
        return True

    def _read_head(self, text: bytes) -> None:
        head = read_part_head(text)
        self._name, self._is_file, self._is_ascii = head.name, head.is_file, head.is_ascii
        names_object = not head.is_file and self._name.partition("[")[0] in _FILE_OR_OBJECT
        is_read = self._name in self._decisive
        if not is_read and (steers(self._name) or names_object or self._name == "model"):
            raise InvalidRequest(
                f"The field {self._name!r} is not taken here: it steers the server behind this gateway.",
                param=self._name,
                code="unsupported_parameter",
            )
        if is_read and (head.is_file or head.is_doubtful or self._name in self.fields):
            raise bad_form(f"{self._name} is said twice, or is a file")

    def _field(self, pieces: list[Piece]) -> bool:
        end = self._buffer.find(self._delimiter)
        if end > MOST_FIELD_BYTES or (end < 0 and len(self._buffer) > MOST_FIELD_BYTES + len(self._delimiter)):
            raise bad_form(f"the field {self._name} is longer than {MOST_FIELD_BYTES} bytes")
        if end < 0:
            return False
        value = self._take(end)
        try:
            self.fields[self._name] = value.decode()
        except UnicodeDecodeError:
            raise bad_form(f"the field {self._name} is not valid UTF-8") from None
        if self._is_ascii and not value.isascii():
            raise bad_form(f"the field {self._name} is neither in UTF-8 nor in ASCII")
        if self._name == "_charset_" and value.lower() not in (b"utf-8", b"us-ascii"):
            raise bad_form("its fields are not in UTF-8: _charset_ names another character set")
        pieces.append(ModelField(value) if self._name == "model" else value)
        pieces.append(self._take(len(self._delimiter)))
        if self._name in self._decisive and self._at > self._latest:
            raise too_late(self._name, self._latest)
        self._step = self._after_boundary
        return True

    def _file(self, pieces: list[Piece]) -> bool:
        end = self._buffer.find(self._delimiter)
        # What could be the beginning of a boundary waits for the rest.
        data = self._take(end if end >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1))
        if data:
            self.file_field = self._name
            pieces.append(data)
            if self.on_file is not None:
                self.on_file(data)
        if end < 0:
            return False
        pieces.append(self._take(len(self._delimiter)))
        self._step = self._after_boundary
        return True

    def _epilogue(self, pieces: list[Piece]) -> bool:
        if self._buffer:
            self._epilogue_text += self._buffer
            pieces.append(self._take(len(self._buffer)))
        text = self._epilogue_text
        if not (text.startswith(b"\r\n") or b"\r\n".startswith(text)):
            raise bad_form("its last boundary is not at the end of its line")
        if len(text) > MOST_TEXT_AROUND_BYTES or self._delimiter[2:] in text:
            raise bad_form("what follows its last boundary is too long, or has that boundary in it")
        return False

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._at += count
        return taken


def too_late(names: str, latest: int) -> InvalidRequest:
    """Returns the refusal of a form whose decisive fields are not within its first ``latest`` bytes."""
    return InvalidRequest(
        f"In a form larger than {latest} bytes, {names} must come before the file.", code="invalid_form"
    )
