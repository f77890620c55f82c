"""What counts once of receipts that several processes may have written of one thing: payments, credits, work.

Which one counts is decided by a row of its own (``rows.OnceRow``, ``lasting_work.WorkRow``), in the transaction that
puts the receipt on record. Where one process serves alone there are no such transactions; ``counted_by_others`` is for
what it finds in the journal of one that served among several.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from trustgate.cluster.database import DatabaseConnection
from trustgate.cluster.lasting_work import EndedWork, is_settled
from trustgate.cluster.rows import credited_key
from trustgate.payment.credit import payment_members
from trustgate.receipts.receipt import balance_change
from trustgate.types import Entry, Receipt

#: The members of a receipt with what was used, and what that costs.
_USED = (
    *("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cache_write_tokens"),
    *("cache_write_1h_tokens", "audio_prompt_tokens", "audio_completion_tokens", "image_prompt_tokens"),
    *("image_completion_tokens", "images", "audio_ms", "characters", "searches", "cost_nano_usd"),
    *("billed_nano_usd", "charged_nano_usd", "calls"),
)

_ROWS = "SELECT key, state::text AS state FROM shared_state WHERE key = ANY($1)"


def credited_as(receipt: Receipt | None) -> str:
    """Returns the id under which a receipt's credit counts once: its payment's, or its own where the operator has
    credited or refunded it; else "".

    A process that finds a credit without its receipt writes another one, while the first may be in another's journal.
    """
    if receipt is None:
        return ""
    payment = "" if receipt.payment is UNSET else receipt.payment
    return payment or (receipt.id if is_of_balance(receipt) else "")


def is_of_balance(receipt: Receipt | None) -> bool:
    """Returns whether a receipt is of a change of a balance alone, without a request: a credit, or a refund."""
    return receipt is not None and receipt.finish == "credited"


def without_credit(receipt: Receipt) -> Receipt | None:
    """Returns the receipt of a request whose credit another receipt has; None: it was of nothing but the credit."""
    if receipt.finish == "credited":
        return None
    return msgspec.structs.replace(receipt, credited_nano_usd=0, **payment_members(None))


def charging_nothing(receipt: Receipt) -> Receipt:
    """Returns the receipt with nothing used: its request saw the end of work that another receipt has charged."""
    nothing = {name: 0 for name in _USED if isinstance(getattr(receipt, name), int)}
    return msgspec.structs.replace(receipt, **nothing)


async def counted_by_others(connection: DatabaseConnection, entries: Sequence[Entry]) -> list[Entry]:
    """Leave out of receipts, which a journal alone has, what other processes have put on record meanwhile.

    Args:
        connection: To the database, which only this process uses now.
        entries: As one process among several journaled them.

    Returns:
        Those that are still to be put on record: without the credits, and without the use of work upstream, that
        another receipt has.
    """
    works = {entry.receipt.id: EndedWork.of_mark(entry.receipt.tprev) for entry in entries}
    credited = {
        entry.receipt.id: credited_key(credited_as(entry.receipt))
        for entry in entries
        if credited_as(entry.receipt) and (balance_change(entry.receipt)[1] > 0 or is_of_balance(entry.receipt))
    }
    keys = [*credited.values(), *(work.key for work in works.values() if work is not None)]
    rows = {row["key"]: row["state"] for row in await connection.fetch(_ROWS, keys)}
    found = []
    for entry in entries:
        receipt: Receipt | None = entry.receipt
        work, credit = works[entry.receipt.id], credited.get(entry.receipt.id)
        if work is not None and work.key in rows and is_settled(rows[work.key]):
            receipt = None if work.is_look else charging_nothing(entry.receipt)
        if receipt is not None and credit is not None and rows.get(credit) == "true":
            receipt = without_credit(receipt)
        if receipt is not None:
            found.append(msgspec.structs.replace(entry, receipt=receipt))
    return found
