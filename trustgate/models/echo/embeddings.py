"""The embeddings of the built-in model: unit vectors made of a text's SHA-256.

Equal texts get equal vectors, and that is all they mean. Source: OpenAI API reference, "Embeddings".
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import Literal

import httpx
import msgspec

from trustgate.models.echo.chat import TextInput, texts_of
from trustgate.models.echo.forms import ECHO_MODEL, check_model, check_range, decode, json_response
from trustgate.models.estimate import estimate_input

EMBEDDING_DIMENSIONS = 64
_MAX_DIMENSIONS = 4096


class _Embedding(msgspec.Struct):
    model: str
    input: TextInput
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None


_decoder = msgspec.json.Decoder(_Embedding)


def embed(body: bytes) -> httpx.Response:
    """Returns a vector for each input. Raises ``EchoRefusal``."""
    asked = decode(body, _decoder)
    check_model(asked.model)
    check_range("dimensions", asked.dimensions, 1, _MAX_DIMENSIONS)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(_vector(text, asked.dimensions), asked)}
        for index, text in enumerate(texts_of(asked.input, "input"))
    ]
    tokens = estimate_input(asked.input)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": data, "model": ECHO_MODEL, "usage": usage})


def _vector(text: str, dimensions: int | None) -> list[float]:
    """Returns a unit vector made of the text's SHA-256, each component a 32-bit float."""
    wanted = dimensions or EMBEDDING_DIMENSIONS
    seed = text.encode("utf-8", "surrogatepass")
    # Four bytes a component, 32 bytes a digest; the counter makes as many digests as are needed.
    digests = (hashlib.sha256(struct.pack(">I", counter) + seed).digest() for counter in range(-(-wanted // 8)))
    raw = struct.unpack(f">{wanted}i", b"".join(digests)[: 4 * wanted])
    length = math.hypot(*raw) or 1.0
    return [component / length for component in raw]


def _encoded(vector: list[float], asked: _Embedding) -> list[float] | str:
    packed = struct.pack(f"<{len(vector)}f", *vector)
    if asked.encoding_format == "base64":
        return base64.b64encode(packed).decode()
    return list(struct.unpack(f"<{len(vector)}f", packed))
