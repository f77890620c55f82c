"""Reading JSON from outside as forgivingly as its meaning allows. Nothing here raises at what a server sends.

Owns what is still one JSON document (a byte order mark, blanks around it, a stream's ``data: [DONE]`` behind it, NaN,
lone surrogates, invalid UTF-8), what is a count, and what is text that can be kept. Source: RFC 8259, section 8.1
(byte order marks may be ignored) and 8.2 (lone surrogates).
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

#: The largest count that is believed of one answer: no request, and no batch of them, uses a million million tokens.
#: At a thousand dollars a million tokens it costs 10**18 nano-USD, which a 64-bit integer still holds.
MAX_COUNT = 10**12

#: What typed decoders raise at answers that do not fit them.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"
#: What may stand behind a JSON document without being part of it.
_TRAILER = re.compile(r"(?:\s|data:|\[DONE\])*")
#: Digits that no count has; ``int`` refuses thousands of them, and is slow before it does.
_MOST_DIGITS = 25
_COUNT_TEXT = re.compile(r"\s*(\d{1,13})(?:\.0*)?\s*", re.ASCII)
_NUMBER_TEXT = re.compile(r"\s*\d{1,13}(?:\.\d{1,20})?\s*", re.ASCII)
_MOST_NAME = 256


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float("inf")


_json = json.JSONDecoder(parse_int=_parse_int)


def read_json(data: bytes) -> Any:
    """Returns the JSON value in ``data``; None if there is none, or if it is ``null``."""
    try:
        return msgspec.json.decode(data)
    except UNREADABLE:
        found = _find(data)
        return None if found is None else found[0]


def json_text(body: bytes) -> bytes:
    """Returns the body without what stands around its JSON document (see the module); itself where nothing does.

    A body that holds no JSON document comes back as it is.
    """
    if body[:1] in (b"{", b"[") and body[-1:] in (b"}", b"]") and not body.endswith(b"[DONE]"):
        return body
    found = _find(body)
    if found is None:
        return body
    try:
        return found[1].encode()
    except UnicodeEncodeError:
        return body


def _find(data: bytes) -> tuple[Any, str] | None:
    """Returns the first JSON value, and its text, if nothing but a trailer follows it."""
    text = data.removeprefix(_BOM).strip(_BLANKS).removeprefix(_BOM).decode("utf-8", "replace")
    try:
        value, end = _json.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return (value, text[:end]) if _TRAILER.fullmatch(text, end) else None


def dict_of(value: object) -> dict[str, Any]:
    """``value`` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def count(value: object) -> int | None:
    """Returns a plausible count, 0 … ``MAX_COUNT``: an integer, a float or a text that is one. Else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        match = _COUNT_TEXT.fullmatch(value)
        value = int(match[1]) if match else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return value if isinstance(value, int) and 0 <= value <= MAX_COUNT else None


def number(value: object) -> float | None:
    """Returns a finite number that is not negative, or a text that is one. Else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return float(value) if _NUMBER_TEXT.fullmatch(value) else None
    return float(value) if isinstance(value, int | float) and 0 <= value <= MAX_COUNT else None


def text_of(value: object, most: int = _MOST_NAME) -> str:
    """Returns a name that can be stored, exported and shown; "" for what is no text.

    Lone surrogates and control characters become U+FFFD; what is longer than ``most`` characters is cut.
    """
    if not isinstance(value, str):
        return ""
    text = value[:most]
    if text.isprintable():
        return text
    return "".join("\ufffd" if _is_unfit(character) else character for character in text)


def _is_unfit(character: str) -> bool:
    return "\ud800" <= character <= "\udfff" or (character < " " and character not in "\t\n\r") or character == "\x7f"
