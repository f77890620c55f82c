"""What a receipt may hold: every member is brought into range before the receipt is journaled.

Owns the bounds. Integers lie between 0 and ``INTEGER_MOST``, the largest that every JSON reader keeps exactly; text is
valid Unicode without lone surrogates and without NUL (which Postgres does not take), and short enough for a record of
the journal (``segment.MAX_RECORD_BYTES``) in every combination. The code that makes the values bounds them by what is
plausible; this is what no value gets past, so that whatever is journaled can be stored, exported, summed and shown.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from trustgate.formats.written import INTEGER_MOST
from trustgate.receipts.receipt import canonical
from trustgate.types import Receipt

#: Three digits: RFC 9110 section 15.
STATUS_MOST = 999
#: UTF-8 bytes of all texts together: what a record leaves beside figures and the names of the members. Where they are
#: more, each is cut to ``_TEXT_BYTES``.
_TEXTS_BYTES = 2_100
_TEXT_BYTES = 96

#: What a NUL in JSON begins with, as a number: as bytes it is looked for much more slowly.
_BACKSLASH = 0x5C

_MEMBERS = Receipt.__struct_fields__
#: Integers that do not tell of usage: where one of these is changed, what was used is known all the same.
_NOT_USAGE = frozenset({"created_us", "tseq", "latency_first_ms", "latency_total_ms", "status", "credited_nano_usd"})


class _Kinds(NamedTuple):
    """Which members of one version are integers and which are text: their names, and how to get their values."""

    integers: tuple[str, ...]
    texts: tuple[str, ...]
    get_integers: attrgetter[Any]
    get_texts: attrgetter[Any]


def _kinds(values: tuple[Any, ...]) -> _Kinds:
    integers = tuple(i for i, value in enumerate(values) if type(value) is int and _MEMBERS[i] not in ("v", "status"))
    texts = tuple(i for i, value in enumerate(values) if type(value) is str)
    return _Kinds(
        tuple(_MEMBERS[i] for i in integers),
        tuple(_MEMBERS[i] for i in texts),
        attrgetter(*[_MEMBERS[i] for i in integers]),
        attrgetter(*[_MEMBERS[i] for i in texts]),
    )


_of_version: dict[int, _Kinds] = {}


def fixed(receipt: Receipt) -> tuple[Receipt, bytes]:
    """Returns the receipt as ``in_range`` makes it, and its canonical form.

    The form is looked at first: one that is short and plain has no text that is long or broken. Where no integer is
    negative, none is larger than their sum, which is found faster than the largest.
    """
    try:
        form = canonical(receipt)
    except (UnicodeEncodeError, OverflowError):
        form = b""
    kinds = _of_version.get(receipt.v)
    if (
        kinds is not None
        and 0 < len(form) <= _TEXTS_BYTES
        and form.isascii()
        and _BACKSLASH not in form
        and 0 <= receipt.status <= STATUS_MOST
    ):
        get_integers = kinds.get_integers
        integers = get_integers(receipt)
        if min(integers) >= 0 and sum(integers) <= INTEGER_MOST:
            return receipt, form
    receipt = in_range(receipt)
    return receipt, canonical(receipt)


def in_range(receipt: Receipt) -> Receipt:
    """Returns the receipt itself where every member is in range; else one whose members are.

    An integer out of range becomes the nearest bound, and usage that had to be changed counts as an estimate
    (``usage_source``). A lone surrogate and a NUL become U+FFFD. Texts that are too long together are cut.
    """
    kinds = _of_version.get(receipt.v)
    if kinds is None:  # within a version every member is present, so its kinds are those of its first receipt
        kinds = _of_version[receipt.v] = _kinds(msgspec.structs.astuple(receipt))
    integers = kinds.get_integers(receipt)
    text = "".join(kinds.get_texts(receipt))
    if (
        min(integers) >= 0
        and max(integers) <= INTEGER_MOST
        and len(text) <= _TEXTS_BYTES
        and text.isascii()
        and "\0" not in text
        and 0 <= receipt.status <= STATUS_MOST
    ):
        return receipt
    return _changed(receipt, kinds)


def _changed(receipt: Receipt, kinds: _Kinds) -> Receipt:
    texts = {name: _valid(getattr(receipt, name)) for name in kinds.texts}
    if sum(len(text.encode()) for text in texts.values()) > _TEXTS_BYTES:
        texts = {name: text.encode()[:_TEXT_BYTES].decode(errors="ignore") for name, text in texts.items()}
    integers = {name: min(max(getattr(receipt, name), 0), INTEGER_MOST) for name in kinds.integers}
    changes: dict[str, Any] = {**texts, **integers, "status": min(max(receipt.status, 0), STATUS_MOST)}
    if any(integers[name] != getattr(receipt, name) for name in integers.keys() - _NOT_USAGE):
        changes["usage_source"] = "estimate"
    return msgspec.structs.replace(receipt, **changes)


def _valid(text: str) -> str:
    """Returns the text with each lone surrogate and each NUL replaced; two that make a pair become their character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "\ufffd")
