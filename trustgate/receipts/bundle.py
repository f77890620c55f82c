"""The bundle: one JSON document with all that is needed to verify one receipt, without this program.

Owns the format. Every member is bound by a check (receipts.verify), so that no altered bundle passes; what could only
be claimed, such as the name of the chain or a slot, is left out on purpose.

    format   ``trustgate-receipt-bundle@v1``
    receipt  the receipt, an object of strings, integers and booleans with all members of its version (1 to 6: see
             receipts.receipt) and no other; what is hashed is its RFC 8785 form
    salts    {"request", "response"}: what opens a commitment, 64 hexadecimal digits, or null where the holder chose not
             to disclose it. A salt opens its own commitment alone; the secret of the receipt is never in a bundle
    proof    a C2SP tlog-proof without extra data; its signed checkpoint is the anchored one where there is an anchor
    key      the C2SP verifier key of the log
    anchor   the Solana transaction that carries the checkpoint as its memo, base64 (RFC 4648 section 4), or null

All members are always there. Blanks between tokens and the order of members are free; apart from these the document is
written as RFC 8785 writes it, so that no two readers can understand it differently: no member twice, no other way to
write a string or a number. At most 1 MiB.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from trustgate.errors import VerificationFailed
from trustgate.formats.written import INTEGER_MOST
from trustgate.receipts.note import decode_base64
from trustgate.types import (
    END_USER_VERSIONS,
    PAYMENT_VERSIONS,
    PRICE_VERSIONS,
    RECEIPT_END_USER_MEMBERS,
    RECEIPT_PAYMENT_MEMBERS,
    RECEIPT_PRICE_MEMBERS,
    RECEIPT_WORK_MEMBERS,
    WORK_VERSIONS,
    Receipt,
)

FORMAT: Final = "trustgate-receipt-bundle@v1"
MAX_BUNDLE_BYTES = 1024 * 1024

Label = Literal["request", "response"]

#: Members beside those that every receipt has, and the versions that have them.
_FURTHER_MEMBERS = (
    (RECEIPT_PAYMENT_MEMBERS, PAYMENT_VERSIONS),
    (RECEIPT_PRICE_MEMBERS, PRICE_VERSIONS),
    (RECEIPT_END_USER_MEMBERS, END_USER_VERSIONS),
    (RECEIPT_WORK_MEMBERS, WORK_VERSIONS),
)
_V1_MEMBERS = frozenset(Receipt.__struct_fields__).difference(*(members for members, _ in _FURTHER_MEMBERS))
#: All members of a receipt, by its version.
_MEMBERS = {
    version: _V1_MEMBERS.union(*(members for members, versions in _FURTHER_MEMBERS if version in versions))
    for version in range(1, 11)
}
_HASHES = ("tprev", "request_commitment", "response_commitment", "price_hash", "policy_hash")
_HASH = re.compile(r"[0-9a-f]{64}")
_AMOUNT = re.compile(r"[0-9]*")
#: Of a receipt. A number for a name would come first in JavaScript, wherever it was written.
_MEMBER = re.compile(r"[a-z_][a-z0-9_]*")
#: A string as a whole, or blanks between tokens: in a text that is known to be JSON.
_STRING_OR_BLANKS = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+')


class Salts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    request: str | None
    response: str | None


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bundle whose form is right; nothing in it is verified yet."""

    format: Literal["trustgate-receipt-bundle@v1"]
    #: As it came; ``receipt_of`` makes a receipt of it.
    receipt: dict[str, Any]
    salts: Salts
    proof: str
    key: str
    anchor: str | None

    def salt(self, label: Label) -> bytes | None:
        """Returns what opens the commitment of ``label``, 32 bytes; None where it is not disclosed."""
        salt = self.salts.request if label == "request" else self.salts.response
        return None if salt is None else bytes.fromhex(salt)

    @property
    def transaction(self) -> bytes | None:
        """The anchor's transaction, raw; None where there is no anchor."""
        return None if self.anchor is None else base64.b64decode(self.anchor)


def make_bundle(
    *, receipt: Receipt, proof: bytes, salts: Mapping[Label, bytes], vkey: str, anchor: bytes | None
) -> bytes:
    """Returns the document, indented for people.

    ``proof`` is a tlog-proof against the checkpoint that ``anchor``, a raw transaction, carries as its memo; without an
    anchor, against any. ``salts`` has those to disclose, 32 bytes each.
    """
    opened = {label: salt.hex() for label, salt in salts.items()}
    bundle = Bundle(
        format=FORMAT,
        receipt=msgspec.to_builtins(receipt),
        salts=Salts(request=opened.get("request"), response=opened.get("response")),
        proof=proof.decode(),
        key=vkey,
        anchor=None if anchor is None else base64.b64encode(anchor).decode(),
    )
    return msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n"


def read_bundle(data: bytes) -> Bundle:
    """Read a document. Raises VerificationFailed where it is not a bundle, to the letter."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise _not_a_bundle(f"it has {len(data)} bytes, more than the {MAX_BUNDLE_BYTES} that a bundle may have")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_a_bundle(f"it is not JSON: {error}") from None
    except RecursionError:
        raise _not_a_bundle("it is nested too deeply") from None
    if isinstance(document, dict) and document.get("format") != FORMAT:
        raise _not_a_bundle(f"its format is {ascii(document.get('format'))[:80]}, and only {FORMAT!r} is known here")
    try:
        bundle = msgspec.convert(document, Bundle)
    except msgspec.ValidationError as error:
        raise _not_a_bundle(str(error)) from None
    for name, value in bundle.receipt.items():
        if not _MEMBER.fullmatch(name):
            raise _not_a_bundle(f"a receipt has no member {name!a}")
        if not isinstance(value, str) and not (isinstance(value, int) and abs(value) <= INTEGER_MOST):
            raise _not_a_bundle(
                f"the receipt's member {name!a} is neither a string nor a boolean nor an integer that every "
                "reader keeps"
            )
    if msgspec.json.encode(document) != _STRING_OR_BLANKS.sub(rb"\1", data):
        raise _not_a_bundle("a member is there twice, or a string or a number is written in an unusual way")
    for label, salt in (("request", bundle.salts.request), ("response", bundle.salts.response)):
        if salt is not None and not _HASH.fullmatch(salt):
            raise _not_a_bundle(f"the salt of the {label} is not 64 hexadecimal digits in lower case")
    if bundle.anchor is not None and not decode_base64(bundle.anchor):
        raise _not_a_bundle("the anchor's transaction is not base64")
    return bundle


def receipt_of(members: Mapping[str, Any]) -> Receipt:
    """Returns the receipt with just these members. Raises VerificationFailed unless they are all that its version
    has.
    """
    version = members.get("v")
    expected = _MEMBERS.get(version) if type(version) is int else None  # True is 1, too
    if expected is None:
        raise VerificationFailed(
            "The receipt is of none of the versions 1 to 10, the ones known here.",
            hint="Use a newer TrustGate to check it.",
        )
    if missing := sorted(expected - members.keys()):
        raise VerificationFailed(f"The receipt of version {version} lacks {', '.join(missing)}.")
    if unknown := sorted(members.keys() - expected):
        raise VerificationFailed(
            f"The receipt has members that none of version {version} has: {', '.join(map(ascii, unknown))}."
        )
    for name, value in members.items():
        if isinstance(value, int) and value < 0:
            raise VerificationFailed(f"The receipt's {name} is less than nothing.")
    for name in _HASHES:
        if not isinstance(members[name], str) or not _HASH.fullmatch(members[name]):
            raise VerificationFailed(f"The receipt's {name} is not 64 hexadecimal digits in lower case.")
    if version not in PAYMENT_VERSIONS and members["finish"] == "credited":
        raise VerificationFailed(f"The receipt is of version {version}, which has no finish 'credited'.")
    try:
        receipt = msgspec.convert(members, Receipt)
    except msgspec.ValidationError as error:
        raise VerificationFailed(f"A member of the receipt is not what it has to be: {error}.") from None
    if isinstance(receipt.payment_amount, str) and not _AMOUNT.fullmatch(receipt.payment_amount):
        raise VerificationFailed("The receipt's payment_amount is not decimal digits.")
    return receipt


def _not_a_bundle(why: str) -> VerificationFailed:
    return VerificationFailed(
        f"This is not a receipt bundle: {why}.", hint="A bundle is what `trustgate receipt export` writes."
    )
