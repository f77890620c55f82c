"""Whether a statement's opening balance follows from the receipts before its month, as earlier statements show them.

Owns how the files of several months are joined: each receipt once, without a gap, of one tenant and one log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from trustgate.errors import VerificationFailed
from trustgate.receipts.verify import Examination
from trustgate.statements.account import StatementAccount
from trustgate.statements.document import StatementDocument
from trustgate.statements.months import Month, parse_month


class Opening(NamedTuple):
    """What an earlier statement shows of the time before: its own receipts, and where its account began."""

    account: StatementAccount
    #: By the tenant's own number: leaf hash, time, and what the balance changed by.
    receipts: Mapping[int, tuple[bytes, int, int]]
    key: str


def examine_opening(
    record: Examination, document: StatementDocument, month: Month, own: Opening, earlier: Sequence[Opening]
) -> None:
    """The opening balance follows from the receipts before the month, as far as they are in the files."""
    record.begin("opening balance")
    account = document.account
    first = min(own.receipts)
    if first != 1 and not earlier:
        record.skipped(
            f"The receipts before the tenant's number {first} are not in the file. The statements of the months before "
            "show whether they come to the opening balance: give them as well."
        )
        return
    base, known = _joined(document, own, earlier)
    lacking = _lacking(own, known, month)
    if lacking:
        raise VerificationFailed(
            f"The tenant's receipt {lacking[0]} is one of {month.title}: another statement has it, this one does not.",
            hint="It was left out, or the statement was made before it was written. Ask for it again.",
        )
    start = 0 if base is None else base.from_us
    opening = 0 if base is None else base.opening_nano_usd
    opening += sum(change for _, at_us, change in known.values() if start <= at_us < month.from_us)
    if opening != account.opening_nano_usd:
        raise VerificationFailed(
            f"account.opening_nano_usd is {account.opening_nano_usd}; the receipts before the month come to {opening}."
        )
    late = [
        f" The statement of {statement.account.month} lacks {len(found)} receipts of its month: ask for it again."
        for statement in earlier
        if (found := _lacking(statement, known, parse_month(statement.account.month)))
    ]
    record.passed(
        (
            "There are the tenant's receipts from the first one on: they come to the opening balance."
            if base is None
            else f"It continues the statement of {base.month}, without a gap; that one's opening balance is not shown "
            "here."
        )
        + "".join(late)
    )


def _lacking(statement: Opening, known: Mapping[int, tuple[bytes, int, int]], month: Month) -> list[int]:
    """Returns the tenant's numbers of receipts of the month that are known, and not in its statement.

    Receipts stand in the order in which they were written, which is not quite that of their times: what a statement
    lacks before its first receipt or after its last one, only another statement shows.
    """
    return sorted(
        number
        for number, (_, at_us, _) in known.items()
        if month.from_us <= at_us < month.until_us and number not in statement.receipts
    )


def _joined(
    document: StatementDocument, own: Opening, earlier: Sequence[Opening]
) -> tuple[StatementAccount | None, dict[int, tuple[bytes, int, int]]]:
    """Returns the account that the receipts of all files begin with (None: the tenant's first one), and them all."""
    known = dict(own.receipts)
    for statement in earlier:
        month = statement.account.month
        if statement.account.tenant != document.account.tenant:
            raise VerificationFailed(f"The statement of {month} is one of {statement.account.tenant}.")
        if statement.key != document.key:
            raise VerificationFailed(f"The statement of {month} is of another log: {statement.key}.")
        if statement.account.from_us >= document.account.from_us:
            raise VerificationFailed(f"The statement of {month} is not of a month before {document.account.month}.")
        for number, found in statement.receipts.items():
            if known.setdefault(number, found) != found:
                raise VerificationFailed(
                    f"The tenant's receipt {number} is another one in the statement of {month}: the log has two "
                    "histories."
                )
    numbers = sorted(known)
    for one, other in pairwise(numbers):
        if other != one + 1:
            raise VerificationFailed(
                f"The tenant's receipts {one + 1} to {other - 1} are in none of the statements: one is missing, or "
                "receipts were left out."
            )
    if numbers[0] == 1:
        return None, known
    return min(earlier, key=lambda statement: statement.account.from_us).account, known
