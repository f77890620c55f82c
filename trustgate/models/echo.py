"""The built-in model ``trustgate/echo``: an OpenAI-compatible server inside this process, without a network.

Owns what it answers. It is not a language model: it repeats the last message of the
user, so that a first request works on a bare machine and the whole path can be tried offline. Its embeddings are
derived from SHA-256: equal texts get equal vectors, and that is all they mean.

It is an HTTPX transport, so it stands wherever a connection to a real server would. Source of the forms: OpenAI API
reference, "Chat Completions", "Completions", "Embeddings", "Models".
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import re
import struct
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal, TypeVar

import httpx
import msgspec

from trustgate.ids import new_id
from trustgate.models.estimate import estimate_chat, estimate_input, estimate_tokens

ECHO_MODEL = "trustgate/echo"
EMBEDDING_DIMENSIONS = 64

_MAX_CHOICES = 128
_MAX_DIMENSIONS = 4096
#: The model's "tokens" for a limit on them: a word with the white space around it.
_WORD = re.compile(r"\s*\S+\s*$|\s*\S+|\s+$")
_SILENCE = "(There was no text to repeat.)"
_MADE_AT_S = 1735689600  # 2025-01-01

#: A text, several, token ids, or several lists of them.
_Input = str | list[str | int | list[int]]


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Generation(msgspec.Struct):
    """What chats and completions have in common."""

    model: str
    n: int | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    def word_limit(self) -> int | None:
        return self.max_tokens


class _Chat(_Generation, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: int | None = None

    def word_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class _Completion(_Generation, kw_only=True):
    prompt: _Input


class _Embedding(msgspec.Struct):
    model: str
    input: _Input
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None


class _Refused(Exception):
    """An answer other than 200, with the members of an OpenAI error."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        self.body = {"error": error}


class EchoTransport(httpx.AsyncBaseTransport):
    """Answers the paths of the OpenAI API, whatever host and prefix they are asked under."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        try:
            return _answer(request.method, request.url.path, body)
        except _Refused as refused:
            return _json_response(refused.body, refused.status)


def _answer(method: str, path: str, body: bytes) -> httpx.Response:
    for ending, expected, answer in _ROUTES:
        if path.endswith(ending):
            if method != expected:
                raise _Refused(405, f"{method} is not allowed here; use {expected}.", "method_not_allowed")
            return answer(body)
    if method == "GET" and path.endswith("/models/" + ECHO_MODEL):
        return _json_response(_model_card())
    raise _Refused(404, f"There is nothing at {path}.", "not_found")


# Chats and completions


class _Choice(msgspec.Struct):
    """One choice to be given, as the pieces it is streamed in."""

    index: int
    words: list[str]
    finish_reason: Literal["stop", "length"]


class _Form(msgspec.Struct, frozen=True):
    """How chats and completions differ on the wire."""

    id_prefix: str
    whole_object: str
    chunk_object: str
    chat: bool

    def whole_choice(self, choice: _Choice) -> dict[str, Any]:
        text = "".join(choice.words)
        content = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        return {"index": choice.index, **content, "logprobs": None, "finish_reason": choice.finish_reason}

    def chunk_choices(self, choice: _Choice) -> Iterator[dict[str, Any]]:
        """Yields the choice in chunks: the role (of a chat), its words, and why it ended."""
        pieces: list[dict[str, Any]]
        if self.chat:
            pieces = [{"delta": {"role": "assistant", "content": "", "refusal": None}}]
            pieces += [{"delta": {"content": word}} for word in choice.words]
            end: dict[str, Any] = {"delta": {}}
        else:
            pieces = [{"text": word} for word in choice.words]
            end = {"text": ""}
        for piece in pieces:
            yield {"index": choice.index, **piece, "logprobs": None, "finish_reason": None}
        yield {"index": choice.index, **end, "logprobs": None, "finish_reason": choice.finish_reason}


_CHAT_FORM = _Form("chatcmpl", "chat.completion", "chat.completion.chunk", True)
_COMPLETION_FORM = _Form("cmpl", "text_completion", "text_completion", False)


def _chat(body: bytes) -> httpx.Response:
    asked = _decode(body, _chat_decoder)
    if not asked.messages:
        raise _Refused(400, "messages must not be empty.", "empty_array", "messages")
    texts = [_message_text(message) for message in asked.messages]
    by_user = [text for message, text in zip(asked.messages, texts, strict=True) if message.role == "user"]
    prompt_tokens = estimate_chat(texts, messages=len(texts))
    return _generate(asked, [by_user[-1] if by_user else ""], prompt_tokens, _CHAT_FORM)


def _message_text(message: _Message) -> str:
    if isinstance(message.content, list):
        return "\n".join(part.text for part in message.content if part.type == "text")
    return message.content or ""


def _completion(body: bytes) -> httpx.Response:
    asked = _decode(body, _completion_decoder)
    return _generate(asked, _texts(asked.prompt, "prompt"), estimate_input(asked.prompt), _COMPLETION_FORM)


def _texts(value: _Input, param: str) -> list[str]:
    """Returns the texts of a prompt or input. Token ids stand for themselves, written out."""
    if isinstance(value, str):
        return [value]
    if not value:
        raise _Refused(400, f"{param} must not be empty.", "empty_array", param)
    token_ids = [item for item in value if isinstance(item, int)]
    if token_ids:
        return [" ".join(map(str, token_ids))]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in value if not isinstance(item, int)]


def _generate(asked: _Generation, texts: list[str], prompt_tokens: int, form: _Form) -> httpx.Response:
    """``n`` choices for each text, whole or streamed."""
    _check_model(asked.model)
    limit = asked.word_limit()
    _check_range("max_tokens", limit, 1, None)
    _check_range("n", asked.n, 1, _MAX_CHOICES)
    repeated = [text for text in texts for _ in range(asked.n or 1)]
    choices = [_choice(index, text, limit) for index, text in enumerate(repeated)]
    completion_tokens = sum(estimate_tokens("".join(choice.words)) for choice in choices)
    usage = _usage(prompt_tokens, completion_tokens)
    head = {"id": new_id(form.id_prefix).replace("_", "-"), "created": int(time.time()), "model": ECHO_MODEL}
    if not asked.stream:
        whole = [form.whole_choice(choice) for choice in choices]
        return _json_response({**head, "object": form.whole_object, "choices": whole, "usage": usage})
    include_usage = asked.stream_options is not None and asked.stream_options.include_usage
    chunk_head = {**head, "object": form.chunk_object}
    stream = _EventStream(_chunks(chunk_head, choices, form, usage if include_usage else None))
    headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    return httpx.Response(200, headers=headers, stream=stream)


def _choice(index: int, text: str, limit: int | None) -> _Choice:
    words = _WORD.findall(text) if text.strip() else _WORD.findall(_SILENCE)
    if limit is not None and len(words) > limit:
        return _Choice(index, words[:limit], "length")
    return _Choice(index, words, "stop")


def _chunks(
    head: dict[str, Any], choices: list[_Choice], form: _Form, usage: dict[str, int] | None
) -> Iterator[dict[str, Any]]:
    """Yields every chunk of a stream. As OpenAI does, all carry ``usage`` when it was asked for, null but in the
    last.
    """
    no_usage = {} if usage is None else {"usage": None}
    for choice in choices:
        for piece in form.chunk_choices(choice):
            yield {**head, "choices": [piece], **no_usage}
    if usage is not None:
        yield {**head, "choices": [], "usage": usage}


class _EventStream(httpx.AsyncByteStream):
    """Server-sent events, one a chunk, made as they are read."""

    def __init__(self, chunks: Iterator[dict[str, Any]]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"
            # A long answer lets others run, and can be cancelled between two words.
            await asyncio.sleep(0)
        yield b"data: [DONE]\n\n"


# Embeddings and models


def _embeddings(body: bytes) -> httpx.Response:
    asked = _decode(body, _embedding_decoder)
    _check_model(asked.model)
    _check_range("dimensions", asked.dimensions, 1, _MAX_DIMENSIONS)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(_vector(text, asked.dimensions), asked)}
        for index, text in enumerate(_texts(asked.input, "input"))
    ]
    tokens = estimate_input(asked.input)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _json_response({"object": "list", "data": data, "model": ECHO_MODEL, "usage": usage})


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


def _models(_body: bytes) -> httpx.Response:
    return _json_response({"object": "list", "data": [_model_card()]})


def _model_card() -> dict[str, Any]:
    return {"id": ECHO_MODEL, "object": "model", "created": _MADE_AT_S, "owned_by": "trustgate"}


_ROUTES = (
    # "/chat/completions" ends in "/completions" too, so it stands first.
    ("/chat/completions", "POST", _chat),
    ("/completions", "POST", _completion),
    ("/embeddings", "POST", _embeddings),
    ("/models", "GET", _models),
)


# What they share

T = TypeVar("T")

_chat_decoder = msgspec.json.Decoder(_Chat)
_completion_decoder = msgspec.json.Decoder(_Completion)
_embedding_decoder = msgspec.json.Decoder(_Embedding)


def _decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        _, _, place = str(error).partition(" - at `$.")
        raise _Refused(400, f"{error}.", "invalid_value", place.rstrip("`") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Refused(400, "The body is not valid JSON.", "invalid_json") from None


def _check_model(model: str) -> None:
    if model != ECHO_MODEL:
        raise _Refused(
            404, f"The model {model!r} does not exist here; there is {ECHO_MODEL}.", "model_not_found", "model"
        )


def _check_range(param: str, value: int | None, least: int, most: int | None) -> None:
    if value is not None and (value < least or (most is not None and value > most)):
        allowed = f"at least {least}" if most is None else f"from {least} to {most}"
        raise _Refused(400, f"{param} must be {allowed}.", "invalid_value", param)


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def _json_response(value: dict[str, Any], status: int = 200) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return httpx.Response(status, headers=headers, content=msgspec.json.encode(value))
