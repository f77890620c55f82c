"""The statement as a document: one JSON file with the account, the receipts, and all that proves them.

Owns the format. Every member is bound by a check (statements.verify); only ``names`` are the issuer's words.

    account     what the statement claims (statements.account)
    anchor      {"checkpoint", "consistency", "transaction"}: a signed checkpoint of the log, the RFC 6962 consistency
                proof from it to the checkpoint below (base64 hashes), and the Solana transaction whose memo it is,
                base64; or null
    checkpoint  the signed checkpoint (C2SP) that the receipts are proven to be in
    format      ``trustgate-statement@v1``
    key         the C2SP verifier key of the log
    leaves      the place of each receipt in the log, from 0
    names       {"issuer", "keys": {id: name}, "tenant"}: for people; proven by nothing
    prices      {price_hash: price table}: of the requests, as far as they are known here
    proof       that all the receipts are in the log (statements.batch), base64 hashes
    receipts    the tenant's receipts without a gap (``tseq``), each with all members of its version: those of the
                month, and the one before and the one after, where there are any
    sha256      of the RFC 8785 form of the document without this member: one number over all of it

It is written in RFC 8785 form (members in the order of their names), with line breaks between receipts. A reader takes
any order and any blanks; apart from these a document has one form, so that no two readers understand it differently.

A statement for people (HTML) carries the document, deflated by gzip, in base64; a document may also be a ``.gz`` file.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from trustgate.errors import VerificationFailed
from trustgate.formats.written import INTEGER_MOST
from trustgate.receipts.note import decode_base64
from trustgate.receipts.receipt import canonical
from trustgate.statements.account import StatementAccount
from trustgate.types import Prices, Receipt

FORMAT: Final = "trustgate-statement@v1"
#: Far above what a month has: 100,000 receipts are some 110 MB.
MAX_DOCUMENT_BYTES: Final = 1024 * 1024 * 1024
#: Around the document in a statement's HTML.
DATA_START: Final = b'<script type="application/octet-stream" id="trustgate-statement">'
DATA_END: Final = b"</script>"

_STRING_OR_BLANKS = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+')
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9a-f]{64}|")
_sorted_json = msgspec.json.Encoder(order="sorted").encode

Write = Callable[[bytes], Awaitable[None]]


class StatementNames(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What people call things. Nothing proves it."""

    issuer: str = ""
    tenant: str = ""
    keys: dict[str, str] = {}


class StatementAnchor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    checkpoint: str
    consistency: tuple[str, ...]
    transaction: str


class StatementDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document whose form is right; nothing in it is verified yet."""

    account: StatementAccount
    anchor: StatementAnchor | None
    checkpoint: str
    format: Literal["trustgate-statement@v1"]
    key: str
    leaves: tuple[int, ...]
    names: StatementNames
    #: As they came: what is hashed is what was written.
    prices: dict[str, dict[str, Any]]
    proof: tuple[str, ...]
    receipts: tuple[dict[str, Any], ...]
    sha256: str


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """All of a document but its receipts, which are written one after another, and its hash, which follows."""

    account: StatementAccount
    anchor: StatementAnchor | None
    checkpoint: str
    key: str
    leaves: Sequence[int]
    names: StatementNames
    prices: Mapping[str, Prices]
    proof: Sequence[bytes]


class DocumentWriter:
    """Writes a document piece by piece: ``begin``, ``receipts`` as often as there are some, ``end``."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._sha256 = hashlib.sha256()
        self._count = 0

    async def begin(self, head: Head) -> None:
        members = {
            "account": head.account,
            "anchor": head.anchor,
            "checkpoint": head.checkpoint,
            "format": FORMAT,
            "key": head.key,
            "leaves": list(head.leaves),
            "names": head.names,
            "prices": head.prices,
            "proof": [base64.b64encode(found).decode() for found in head.proof],
        }
        await self._put(_sorted_json(members)[:-1] + b',"receipts":[')

    async def receipts(self, receipts: Sequence[Receipt]) -> None:
        lines = []
        for receipt in receipts:
            line = canonical(receipt)
            self._sha256.update(b"," + line if self._count else line)
            lines.append(b",\n" + line if self._count else b"\n" + line)
            self._count += 1
        await self._write(b"".join(lines))

    async def end(self) -> str:
        """Returns the hash over all."""
        self._sha256.update(b"]}")
        digest = self._sha256.hexdigest()
        await self._write(b'\n],"sha256":"' + digest.encode() + b'"}\n')
        return digest

    async def _put(self, text: bytes) -> None:
        self._sha256.update(text)
        await self._write(text)


def document_of(data: bytes) -> bytes:
    """Returns the JSON in a statement's file: a document, one deflated by gzip, or the HTML that carries it.

    Raises ``VerificationFailed`` where the file has none.
    """
    if data.lstrip()[:1] == b"<":
        _, start, rest = data.partition(DATA_START)
        encoded, end, _ = rest.partition(DATA_END)
        packed = decode_base64(encoded.strip().decode("ascii", "replace")) if start and end else None
        if packed is None:
            raise _not_a_statement("this HTML carries no data of a statement")
        data = packed
    return _inflated(data) if data.startswith(b"\x1f\x8b") else data


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        found = inflater.decompress(data, MAX_DOCUMENT_BYTES)
    except zlib.error:
        raise _not_a_statement("its gzip data is damaged") from None
    if not inflater.eof or inflater.unused_data:
        raise _not_a_statement("its gzip data is cut short, too long, or followed by something else")
    return found


def read_document(data: bytes) -> StatementDocument:
    """Read the JSON of a statement. Raises ``VerificationFailed`` where it is not one, to the letter."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise _not_a_statement(f"it has more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        return _read_document(data)
    except RecursionError:
        raise _not_a_statement("it is nested too deeply") from None


def _read_document(data: bytes) -> StatementDocument:
    """As ``read_document``. Raises ``RecursionError`` where it is nested too deeply."""
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_a_statement(f"it is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise _not_a_statement(f"its format is {ascii(found)[:80]}, and only {FORMAT!r} is known here")
    _check_plain(document)
    if msgspec.json.encode(document) != _STRING_OR_BLANKS.sub(rb"\1", data):
        raise _not_a_statement("a member is there twice, or a string or a number is written in an unusual way")
    try:
        found = msgspec.convert(document, StatementDocument)
    except msgspec.ValidationError as error:
        raise _not_a_statement(str(error)) from None
    for name, member in (("account", found.account), ("names", found.names)):
        if _sorted_json(member) != _sorted_json(document[name]):
            raise _not_a_statement(f"a member of its {name} is missing")
    return found


def outline(text: bytes) -> StatementDocument:
    """Returns a document that was made here, without its receipts, proof and leaves: what pages and tables show of it.

    Nothing is checked, and the receipts are skipped: of ten thousand that is a few milliseconds.
    """
    found = msgspec.json.decode(text, type=_Outline)
    members = {name: getattr(found, name) for name in _Outline.__struct_fields__}
    return StatementDocument(format=FORMAT, leaves=(), proof=(), receipts=(), **members)


class _Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What is decoded for ``outline``; other members are skipped."""

    account: StatementAccount
    anchor: StatementAnchor | None
    checkpoint: str
    key: str
    names: StatementNames
    prices: dict[str, dict[str, Any]]
    sha256: str


def document_hash(data: bytes) -> str:
    """Returns the SHA-256 (hex) of a document's RFC 8785 form without its member ``sha256``."""
    document = msgspec.json.decode(data)
    document.pop("sha256", None)
    return hashlib.sha256(_sorted_json(document)).hexdigest()


def table_hash(prices: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) of a price table as it was written: what a receipt calls ``price_hash``."""
    return hashlib.sha256(_sorted_json(prices)).hexdigest()


def _check_plain(value: Any) -> None:
    """Raise VerificationFailed for a number that not every reader keeps, or a name that some would move."""
    if isinstance(value, dict):
        for name, member in value.items():
            if not _PLAIN_NAME.fullmatch(name) or name.isdigit():
                raise _not_a_statement(f"it has no member {name[:80]!a}")
            _check_plain(member)
    elif isinstance(value, list):
        for member in value:
            _check_plain(member)
    elif isinstance(value, float) or (isinstance(value, int) and abs(value) > INTEGER_MOST):
        raise _not_a_statement(f"the number {value} in it is none that every reader keeps")


def _not_a_statement(why: str) -> VerificationFailed:
    return VerificationFailed(
        f"This is not a statement: {why}.", hint="A statement is what `trustgate statement` writes, as JSON or HTML."
    )
