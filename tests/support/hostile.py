"""JSON bodies that cost a lot to read."""

from __future__ import annotations

from typing import Final, NamedTuple

MIB: Final = 1024 * 1024
CHAT, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"
_MESSAGE = b'{"role":"user","content":"a"}'


class Shape(NamedTuple):
    """Where a body goes, how it begins, what is repeated up to which size in bytes, how it ends."""

    path: str
    before: bytes
    unit: bytes
    size: int
    after: bytes

    def body(self, most: int | None = None) -> bytes:
        """Returns the body. ``most``: another size, of a body that is to be larger than can be decoded at once."""
        size = self.size if most is None or self.size < MIB else most
        return b'{"model":"gpt-4o",' + self.before + self.unit * (size // len(self.unit)) + self.after


HOSTILE: Final = {
    "token ids": Shape(EMBEDDINGS, b'"input":[1', b",1", 16 * MIB, b"]}"),
    "small texts": Shape(EMBEDDINGS, b'"input":["a"', b',"a"', 16 * MIB, b"]}"),
    "messages": Shape(CHAT, b'"messages":[' + _MESSAGE, b"," + _MESSAGE, 16 * MIB, b"]}"),
    "tools": Shape(CHAT, b'"messages":[{"role":"user","content":"a"}],"tools":[{}', b",{}", 16 * MIB, b"]}"),
    "nesting": Shape(RESPONSES, b'"input":', b"[", 16 * MIB, b""),
    "arrays": Shape(RESPONSES, b'"input":[{"file_id":"f","a":[[]', b",[]", 16 * MIB, b"]}]}"),
    "parameters": Shape(CHAT, b'"messages":[{"role":"user","content":"a"}]', b',"x":0', 16 * MIB, b"}"),
    "one text": Shape(EMBEDDINGS, b'"input":"', b"a, B.1 ", 16 * MIB, b'"}'),
    "escapes": Shape(EMBEDDINGS, b'"input":"', b"\\u00e9", 16 * MIB, b'"}'),
    "short escapes": Shape(EMBEDDINGS, b'"input":[1', b',"\\n"', 16 * MIB, b"]}"),
    # The most that is taken: nothing of it is refused before it is decoded.
    "token ids within bounds": Shape(EMBEDDINGS, b'"input":[1', b",1", 900_000, b"]}"),
    "arrays within bounds": Shape(RESPONSES, b'"input":[{"file_id":"f","a":[[]', b",[]", 145_000, b"]}]}"),
    "parameters, decoded directly": Shape(CHAT, b'"messages":[{"role":"user","content":"a"}]', b',"x":0', 60_000, b"}"),
    "arrays, decoded directly": Shape(RESPONSES, b'"input":[{"file_id":"f","a":[[]', b",[]", 60_000, b"]}]}"),
}
