"""What a batch's file asks for: one model for all of its lines, and about how many tokens.

A batch runs requests that never pass the gateway, so they are looked at when their file does: every line must be a
request for one and the same model, which the plan is then checked against like any other call's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.gateway.api.body_ids import NOTHING, named_by
from trustgate.models.estimate import estimate_tokens

#: The longest line of a batch's file, bytes.
MOST_LINE_BYTES = 8 * 1024 * 1024


class _Asked(msgspec.Struct):
    model: str


class _Line(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


class BatchFile:
    """Reads a file of JSON lines as it passes. ``feed`` and ``finish`` raise ``InvalidRequest``."""

    def __init__(self) -> None:
        self.model = ""
        self.tokens = 0
        self._lines = 0
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MOST_LINE_BYTES:
            raise self._bad("is too long")
        for line in lines:
            self._read(line)

    def finish(self) -> None:
        self._read(self._rest)
        self._rest = b""
        if not self.model:
            raise InvalidRequest("The batch's file has no requests.", param="file", code="invalid_batch_file")

    def _read(self, line: bytes) -> None:
        self._lines += 1
        if not line.strip():
            return
        try:
            asked = _decode_line(line)
            model = _decode_asked(asked.body).model
            body = _decode_any(asked.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._bad("is no request with custom_id, method, url and a body that names a model") from None
        if self.model and model != self.model:
            raise self._bad(f"asks for the model {model[:80]!r}, others for {self.model[:80]!r}: a batch has one model")
        self.model = model
        self.tokens += estimate_tokens(bytes(asked.body))
        if named_by(body) is not NOTHING:
            # Whose it is could be told only when the batch's file is upstream already.
            raise self._bad("names a file: put its content into the request instead")

    def _bad(self, what: str) -> InvalidRequest:
        return InvalidRequest(
            f"Line {self._lines} of the batch's file {what}.", param="file", code="invalid_batch_file"
        )
