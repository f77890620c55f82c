"""What the server writes to stderr: messages for people or as JSON lines, and, where it is asked for, a line a request.

Owns the form of both. A line has what a receipt has (ids, counts, times) and nothing that was said: no prompt, no
answer, no URL, no key. Lines of requests are gathered and written behind the answers, so that a slow reader of stderr
delays no response; where it does not keep up, lines are dropped and counted.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Literal

import msgspec

from trustgate.errors import TrustGateError
from trustgate.ids import now_us
from trustgate.settings import LogSettings
from trustgate.stderr import write_stderr
from trustgate.types import Receipt

Form = Literal["text", "json"]

_FLUSH_EVERY_S = 0.25
_LINES_MOST = 20_000
#: How long a message waits for the reader of stderr, and lines of requests, which wait in a thread; seconds.
_READER_S = 0.1
_READER_OF_LINES_S = 5.0
#: Members of a receipt that say nothing to a reader of logs.
_LEFT_OUT = frozenset(
    ("v", "id", "created_us", "tseq", "tprev", "request_commitment", "response_commitment", "price_hash", "policy_hash")
)
_MEMBERS = tuple(name for name in Receipt.__struct_fields__ if name not in _LEFT_OUT)

_logger = logging.getLogger("trustgate.server")

_encode = msgspec.json.Encoder().encode


class JsonFormatter(logging.Formatter):
    """One JSON object a message: time, level, logger, message and, where there is one, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        members = {
            "time": _time(int(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "event": "message",
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            members["traceback"] = self.formatException(record.exc_info)
        return _encode(members).decode()


def formatter(form: Form) -> logging.Formatter:
    if form == "json":
        return JsonFormatter()
    return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")


class StderrHandler(logging.Handler):
    """Writes messages to stderr, and drops those that it does not take: a full disk, a closed file, no reader.

    ``logging.StreamHandler`` would keep the text in a buffer whose flush fails at the end of the process, and would
    block the event loop for as long as a pipe is not read.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0
        #: Whether the last message that was written is cut off.
        self._is_cut = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - a message that cannot be formatted must not stop what it reports
            self.handleError(record)
        else:
            if self._lost:
                text = f"{self.format(_lost_messages(self._lost))}\n{text}"
            data = f"{chr(10) if self._is_cut else ''}{text}\n".encode(errors="replace")
            # The reader of a pipe is waited for once, not at every message.
            written = write_stderr(data, 0.0 if self._lost else _READER_S)
            if written:
                self._is_cut = written < len(data)
            self._lost = 0 if written == len(data) else self._lost + 1


def _lost_messages(count: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": _logger.name,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "stderr could not be written: %d messages were lost",
            "args": (count,),
        }
    )


def log_to_stderr(settings: LogSettings) -> None:
    """Begin to tell. Owns the root of this program's loggers from then on."""
    root = logging.getLogger("trustgate")
    handler = StderrHandler()
    root.addHandler(handler)
    root.propagate = False
    # Libraries log in the same form.
    logging.getLogger().addHandler(handler)
    use_format(settings)
    # Hypercorn logs at level INFO where it listens; the ready line has that.
    logging.getLogger("trustgate.hypercorn").setLevel(logging.WARNING)


def use_format(settings: LogSettings) -> None:
    root = logging.getLogger("trustgate")
    root.setLevel(settings.level.upper())
    for handler in root.handlers:
        handler.setFormatter(formatter(settings.format))


class RequestLog:
    """Lines of requests on their way to stderr. ``form`` None: none are written."""

    def __init__(self, form: Form | None) -> None:
        self.form = form
        self._lines: list[bytes] = []
        self._dropped = 0
        #: Lines that stderr did not take, until it takes some again.
        self._lost = 0
        #: By version of receipts, all of which have the same members: the form of a line, and what reads its values.
        self._lines_of: dict[int, tuple[Callable[..., msgspec.Struct], attrgetter[tuple[Any, ...]]]] = {}

    def request(self, receipt: Receipt) -> None:
        """Called for every receipt as it is written."""
        if self.form == "json":
            line, values_of = self._lines_of.get(receipt.v) or self._line_of(receipt)
            self._put(_encode(line(_time(now_us()), "request", receipt.id, *values_of(receipt))))
        elif self.form == "text":
            what = f"{receipt.endpoint} {_word(receipt.model)}: {receipt.status} {receipt.finish}"
            tokens = f"{receipt.prompt_tokens}+{receipt.completion_tokens} tokens"
            took = f"{receipt.latency_first_ms}/{receipt.latency_total_ms} ms"
            self._put(f"{_time(now_us())} REQUEST {what}, {tokens}, {took}, {receipt.tenant} {receipt.id}".encode())

    def refusal(self, error: TrustGateError, endpoint: str, receipt_id: str, request_id: str) -> None:
        """Called for every request that is refused or fails, whether it has a receipt or not."""
        if self.form == "json":
            members = {"receipt": receipt_id, "request_id": request_id, "endpoint": endpoint}
            told = {"status": error.status, "code": error.code}
            self._put(_encode({"time": _time(now_us()), "event": "refusal", **members, **told}))
        elif self.form == "text":
            self._put(f"{_time(now_us())} REFUSAL {endpoint}: {error.status} {error.code}, {receipt_id}".encode())

    def _line_of(self, receipt: Receipt) -> tuple[Callable[..., msgspec.Struct], attrgetter[tuple[Any, ...]]]:
        """Returns the form of a line for this receipt's version: a line made from a dict takes four times as long."""
        names = tuple(name for name in _MEMBERS if getattr(receipt, name) is not msgspec.UNSET)
        line = msgspec.defstruct("RequestLine", ["time", "event", "receipt", *names], gc=False)
        return self._lines_of.setdefault(receipt.v, (line, attrgetter(*names)))

    def _put(self, line: bytes) -> None:
        if len(self._lines) >= _LINES_MOST:
            self._dropped += 1
        else:
            self._lines.append(line)

    async def run(self) -> None:
        """For ever: write what has gathered."""
        while True:
            await asyncio.sleep(_FLUSH_EVERY_S)
            if self._lines:
                await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        dropped, self._dropped = self._dropped, 0
        text = b"".join(line + b"\n" for line in lines)
        if lines and write_stderr(text, _READER_OF_LINES_S) < len(text):
            self._lost += len(lines)
        elif self._lost:
            lost, self._lost = self._lost, 0
            _logger.warning("stderr could not be written: about %d lines were lost", lost)
        if dropped:
            _logger.warning("stderr is read too slowly: %d lines were dropped", dropped)


def _time(at_us: int) -> str:
    """Returns a moment in RFC 3339, with milliseconds."""
    second, us = divmod(at_us, 1_000_000)
    return f"{_second(second)}.{us // 1000:03d}Z"


@functools.lru_cache(maxsize=4)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _word(text: str) -> str:
    """Returns a name that a caller chose, on one line."""
    if text.isprintable():
        return text or "-"
    return "".join(c if c.isprintable() else "�" for c in text)
