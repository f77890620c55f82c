"""The corpus: what model servers really answer, as data, and what has to come of each answer.

One file a kind of server in ``answers/``: ``{"server": NAME, "cases": [CASE, …]}``. Unknown members are refused, so
that a slip of the pen in the data fails instead of testing nothing. In an answer's texts ``{{address}}`` stands for the
upstream's own URL, ``{{host}}`` for its host and port, ``{{credential}}`` for the gateway's key at the upstream,
``{{model}}`` for the model as the upstream calls it, ``{{date+60}}`` for the HTTP date a minute from now and
``{{A*5000000}}`` for as many letters.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from tests.support.upstream import CLOSE, RESET, Break, Reply

ANSWERS = Path(__file__).parent / "answers"

#: Prices of the harness's passport, nano-USD: a prompt token, a cached one, a completion token …
PROMPT_NANO_USD = 1_000
CACHED_NANO_USD = 100
COMPLETION_NANO_USD = 2_000
#: … an image, a millisecond of audio heard, a character spoken.
IMAGE_NANO_USD = 40_000_000
AUDIO_MS_NANO_USD = 100
CHARACTER_NANO_USD = 15_000

#: A count, or the least and the most of one that is estimated.
Count = int | tuple[int, int]


class Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An upstream's answer: one of ``json``, ``body``, ``body_base64``, ``events`` and ``raw_latin1``, or nothing."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    #: A JSON document, sent compact.
    json: Any = msgspec.UNSET
    body: str | None = None
    body_base64: str | None = None
    #: A stream of events: an object is a ``data:`` frame, [name, object] has an ``event:`` line, a text is sent as is.
    events: tuple[Any, ...] | None = None
    #: The body in these pieces, one a write, their bytes as Latin-1 characters.
    chunks_latin1: tuple[str, ...] | None = None
    #: The whole answer, head included.
    raw_latin1: str | None = None
    #: How the body ends: by its length, by chunks, by closing the connection, or cut short (one byte of the length is
    #: missing, or the last chunk). A stream is chunked if nothing else is said, anything else has a length.
    ends: Literal["", "length", "chunked", "close", "cut", "chunked-cut"] = ""
    #: Nothing is sent at all: the connection is closed or reset when the request is there.
    nothing: Literal["", "close", "reset"] = ""

    def reply(self, words: dict[str, str]) -> Reply:
        """The steps that send it. ``words``: what the placeholders stand for."""
        if self.nothing:
            return Reply.raw(_BREAKS[self.nothing])
        if self.raw_latin1 is not None:
            return Reply.raw(_filled(self.raw_latin1, words).encode("latin-1"), CLOSE)
        pieces = self._pieces(words)
        ends = self.ends or ("chunked" if self.events is not None else "length")
        head = [
            f"HTTP/1.1 {self.status} Scripted",
            *(f"{name}: {_filled(value, words)}" for name, value in self.headers),
        ]
        if not any(name.lower() == "content-type" for name, _ in self.headers):
            head.append(f"content-type: {'application/json' if self.events is None else 'text/event-stream'}")
        size = sum(map(len, pieces))
        if ends in ("length", "cut"):
            head.append(f"content-length: {size + (ends == 'cut')}")
        elif ends in ("chunked", "chunked-cut"):
            head.append("transfer-encoding: chunked")
            pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece]
        else:
            head.append("connection: close")
        start = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        last: dict[str, tuple[bytes | Break, ...]] = {
            "length": (),
            "chunked": (b"0\r\n\r\n",),
            "close": (CLOSE,),
            "cut": (CLOSE,),
            "chunked-cut": (CLOSE,),
        }
        return Reply.raw(start, *pieces, *last[ends])

    def content(self, words: dict[str, str]) -> bytes:
        """The body as the upstream means it: before any chunks."""
        return b"".join(self._pieces(words))

    def _pieces(self, words: dict[str, str]) -> list[bytes]:
        if self.events is not None:
            return [_frame(event, words) for event in self.events]
        if self.chunks_latin1 is not None:
            return [chunk.encode("latin-1") for chunk in self.chunks_latin1]
        if self.body_base64 is not None:
            return [base64.b64decode(self.body_base64)]
        if self.body is not None:
            return [_filled(self.body, words).encode("utf-8", "surrogatepass")]
        return [] if self.json is msgspec.UNSET else [_encoded(self.json, words)]


class Want(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What has to come of it. None, or "" : nothing is demanded of that."""

    status: int | tuple[int, ...] = 200
    prompt: Count | None = None
    completion: Count | None = None
    #: Both together, where their split is an estimate.
    total: Count | None = None
    cached: int | None = None
    reasoning: int | None = None
    #: Images made, milliseconds of audio heard and characters spoken that are charged.
    images: int = 0
    audio_ms: int = 0
    characters: int = 0
    #: The receipt's cost. Without it the cost must still be what the receipt's tokens and these units cost.
    cost_nano_usd: int | None = None
    usage_source: Literal["", "provider", "estimate"] = ""
    finish: str = ""
    #: All text that a client sees, joined.
    text: str | None = None
    #: Stand in what the client gets, and must not.
    says: tuple[str, ...] = ()
    says_not: tuple[str, ...] = ()
    #: Members (of a form: fields) of the request as it was sent upstream, and those that must not be.
    sent_has: tuple[str, ...] = ()
    sent_without: tuple[str, ...] = ()
    #: Members that the last try must not have any more.
    sent_last_without: tuple[str, ...] = ()
    #: Numbers in the request as it was sent, and the most that they may be.
    sent_most: dict[str, int] = {}
    #: A stream that ends well ends with ``[DONE]``; not demanded of one whose upstream leaves it out.
    done: bool = True
    #: The client's body is the upstream's, byte for byte.
    unchanged: bool = False
    #: The client's body exactly.
    client_body: str | None = None
    #: How often the upstream was asked, and the fallback.
    calls: int | tuple[int, ...] = 1
    fallback_calls: int = 0
    #: Seconds that ``Retry-After`` has to say, the least and the most.
    retry_after: tuple[int, int] | None = None
    #: The error's ``code``.
    code: str | None = None


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer. ``why``: what is odd about it, and where it is documented."""

    name: str
    why: str
    upstream: Sent | tuple[Sent, ...]
    want: Want
    path: str = "/v1/chat/completions"
    stream: bool = False
    #: Members merged into the default request; null takes one away.
    request: dict[str, Any] = {}
    #: Fields merged into the default form.
    form: dict[str, str] = {}
    #: The uploaded recording lasts so long.
    recording_ms: int = 2_000
    #: The model has a fallback, which answers well.
    fallback: bool = False
    #: The caller's plan allows 100 tokens an answer.
    tight: bool = False
    #: The counts cannot be true: asked of a gateway of its own, and of a passport whose input price is 1.5 USD.
    nonsense: bool = False
    server: str = ""

    @property
    def id(self) -> str:
        return f"{self.server}/{self.name}"

    @property
    def model(self) -> str:
        """A model of its own, so that the failures of one case do not rest another's target."""
        slug = "backed" if self.fallback else "dear" if self.nonsense else "corpus"
        return f"{slug}/{self.upstream_model}"

    @property
    def upstream_model(self) -> str:
        return f"{self.server}.{self.name}"

    def answer(self, number: int) -> Sent:
        """What the ``number``-th request (from 0) gets; the last answer is given again."""
        answers = (self.upstream,) if isinstance(self.upstream, Sent) else self.upstream
        return answers[min(number, len(answers) - 1)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    server: str
    cases: tuple[Case, ...]


def read_corpus() -> list[Case]:
    """Every case of every file. Raises ``msgspec.ValidationError`` for data that is not of this form."""
    cases: list[Case] = []
    for path in sorted(ANSWERS.glob("*.json")):
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        assert file.server == path.stem, path.name
        cases += (msgspec.structs.replace(case, server=file.server) for case in file.cases)
    return cases


def cost(prompt: int, cached: int, completion: int, images: int = 0, audio_ms: int = 0, characters: int = 0) -> int:
    """What the harness's prices make of a use, nano-USD."""
    return (
        (prompt - cached) * PROMPT_NANO_USD
        + cached * CACHED_NANO_USD
        + completion * COMPLETION_NANO_USD
        + images * IMAGE_NANO_USD
        + audio_ms * AUDIO_MS_NANO_USD
        + characters * CHARACTER_NANO_USD
    )


_BREAKS = {"close": CLOSE, "reset": RESET}
_DATE = re.compile(r"\{\{date\+(\d+)\}\}")
_LONG = re.compile(r"\{\{(\w)\*(\d+)\}\}")


def _filled(text: str, words: dict[str, str]) -> str:
    if "{{" not in text:
        return text
    for word, meaning in words.items():
        text = text.replace("{{" + word + "}}", meaning)
    text = _LONG.sub(lambda found: found[1] * int(found[2]), text)
    return _DATE.sub(lambda found: _http_date(int(found[1])), text)


def _http_date(seconds_from_now: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds_from_now), usegmt=True)


def _encoded(value: object, words: dict[str, str]) -> bytes:
    return _filled(json.dumps(value, ensure_ascii=False, separators=(",", ":")), words).encode()


def _frame(event: object, words: dict[str, str]) -> bytes:
    if isinstance(event, str):
        return _filled(event, words).encode("utf-8", "surrogatepass")
    if isinstance(event, list):
        name, data = event
        return b"event: %b\ndata: %b\n\n" % (name.encode(), _encoded(data, words))
    return b"data: %b\n\n" % _encoded(event, words)
