"""Cutting a multipart form into its parts as it arrives, byte for byte.

Strict on purpose: a form that two readers could read differently (a part without a plain name, line ends that are none,
text before the first boundary, a decisive field said twice) is refused, since the upstream might believe the other
reading. Sources: RFC 7578, RFC 2046 section 5.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.gateway.api.members import steers

#: The most parts of a form, the largest head of a part and the largest field that is no file, bytes.
MOST_PARTS = 256
MOST_HEAD_BYTES = 8 * 1024
MOST_FIELD_BYTES = 1024 * 1024

_BOUNDARY = re.compile(rb"""boundary=(?:"([^"\\\r\n]{1,70})"|([A-Za-z0-9'()+_,\-./:=?]{1,70}))\s*$""", re.IGNORECASE)
_DISPOSITION = re.compile(
    rb"""form-data((?:\s*;\s*(?:name|filename)="(?:[^"\\\r\n]|\\.)*"|\s*;\s*filename\*=[^;"\s]+)+)\s*$""", re.IGNORECASE
)
_PARAMETER = re.compile(rb""";\s*(name|filename\*?)=(?:"((?:[^"\\\r\n]|\\.)*)"|([^;"\s]+))""", re.IGNORECASE)
_NAME = re.compile(rb"[A-Za-z0-9_.\-]{1,64}(?:\[[A-Za-z0-9_.\-]*\]){0,4}")


class ModelField(msgspec.Struct, frozen=True):
    """Stands in the output where the value of the field ``model`` stood."""

    value: bytes


Piece = bytes | ModelField


def boundary_of(content_type: bytes) -> bytes:
    """Returns the boundary in a content type. Raises ``InvalidRequest`` when it is no form's."""
    kind, _, parameters = content_type.partition(b";")
    found = _BOUNDARY.search(parameters)
    if kind.strip().lower() != b"multipart/form-data" or found is None or parameters.lower().count(b"boundary=") != 1:
        raise InvalidRequest(
            "The body must be a form: send the header content-type: multipart/form-data with its boundary.",
            code="unsupported_content_type",
        )
    return found[1] or found[2]


class FormScanner:
    """An incremental scanner: chunks in, the same bytes out in pieces, the fields noted on the way."""

    def __init__(self, boundary: bytes, decisive: frozenset[str]) -> None:
        """``decisive``: the fields that may be said once only."""
        self._delimiter = b"\r\n--" + boundary
        self._decisive = decisive
        #: The first boundary has no line end before it; given one, it is like the others.
        self._buffer = bytearray(b"\r\n")
        self._step: Callable[[list[Piece]], bool] = self._begin
        self._parts = 0
        self._name = ""
        self._value = bytearray()
        self._is_file = False
        #: The fields so far, as text.
        self.fields: dict[str, str] = {}
        #: What the file's part is called, and who wants to see its bytes.
        self.file_field = ""
        self.on_file: Callable[[bytes], None] | None = None
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
        if not self.ended:
            raise _bad("it ends before its last boundary")

    # the steps: each takes from the buffer, and returns whether the next one can go on

    def _begin(self, pieces: list[Piece]) -> bool:
        if len(self._buffer) < len(self._delimiter):
            return False
        if not self._buffer.startswith(self._delimiter):
            raise _bad("it does not begin with its boundary")
        # The line end that was put before it goes no further.
        pieces.append(self._take(len(self._delimiter))[2:])
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
                raise _bad(f"it has more than {MOST_PARTS} parts")
            self._step = self._head
        else:
            raise _bad("a boundary is not at the end of its line")
        return True

    def _head(self, pieces: list[Piece]) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MOST_HEAD_BYTES:
            if len(self._buffer) > MOST_HEAD_BYTES:
                raise _bad("the head of a part is too long")
            return False
        head = self._take(end + 4)
        pieces.append(head)
        self._read_head(head[:-4])
        self._step = self._file if self._is_file else self._field
        return True

    def _read_head(self, head: bytes) -> None:
        dispositions = []
        for line in head.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if not colon or b"\n" in line or b"\r" in line or line[:1] in (b" ", b"\t") or b"\x00" in line:
                raise _bad("the head of a part is malformed")
            if name.strip().lower() == b"content-disposition":
                dispositions.append(value.strip())
            elif name.strip().lower() == b"content-transfer-encoding" and value.strip().lower() not in _PLAIN:
                raise _bad("a part has a transfer encoding")
        found = _DISPOSITION.match(dispositions[0]) if len(dispositions) == 1 else None
        if found is None:
            raise _bad("a part has no plain content-disposition with a name")
        parameters = [(match[1].lower(), match[2] or match[3] or b"") for match in _PARAMETER.finditer(found[1])]
        names = [value for key, value in parameters if key == b"name"]
        if len(names) != 1 or not _NAME.fullmatch(names[0]):
            raise _bad("a part has no plain name")
        self._name = names[0].decode()
        if steers(self._name) or (self._name == "model" and "model" not in self._decisive):
            raise InvalidRequest(
                f"The field {self._name!r} is not taken here: it steers the server behind this gateway.",
                param=self._name,
                code="unsupported_parameter",
            )
        self._is_file = any(key.startswith(b"filename") for key, _ in parameters)
        if self._name in self._decisive and (self._is_file or self._name in self.fields):
            raise _bad(f"{self._name} is said twice, or is a file")

    def _field(self, pieces: list[Piece]) -> bool:
        end = self._buffer.find(self._delimiter)
        if end > MOST_FIELD_BYTES or (end < 0 and len(self._buffer) > MOST_FIELD_BYTES + len(self._delimiter)):
            raise _bad(f"the field {self._name} is longer than {MOST_FIELD_BYTES} bytes")
        if end < 0:
            return False
        value = self._take(end)
        try:
            self.fields[self._name] = value.decode()
        except UnicodeDecodeError:
            raise _bad(f"the field {self._name} is not valid UTF-8") from None
        pieces.append(ModelField(value) if self._name == "model" else value)
        pieces.append(self._take(len(self._delimiter)))
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
        if not b"\r\n".startswith(bytes(self._buffer)):
            raise _bad("something follows its last boundary")
        # A single CR waits for its LF.
        if self._buffer == b"\r\n":
            pieces.append(self._take(2))
        return False

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


_PLAIN = frozenset({b"7bit", b"8bit", b"binary"})


def _bad(what: str) -> InvalidRequest:
    return InvalidRequest(f"The form cannot be read: {what}.", code="invalid_form")
