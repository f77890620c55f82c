"""Whether the costs in a statement follow from what its receipts counted, by the price tables that it carries.

Owns what is checked of each receipt, and what is left open: prices of older versions, and the number of calls in a
batch, which no receipt shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from trustgate.errors import VerificationFailed
from trustgate.models.pricing import PriceTable, billed_nano_usd
from trustgate.receipts.receipt import balance_change, billed_of
from trustgate.statements.account import factor_ppm
from trustgate.statements.document import table_hash
from trustgate.statements.summed import step_fault, summed_of
from trustgate.types import BATCHES_ENDPOINT, COUNTED, PRICE_VERSIONS, Prices, Receipt, Usage


def read_tables(prices: Mapping[str, Any], receipts: Sequence[Receipt]) -> dict[str, PriceTable]:
    """Returns the price tables of a statement by their hashes.

    Raises ``VerificationFailed`` where one was changed, is not valid, or is named by none of the receipts.
    """
    tables: dict[str, PriceTable] = {}
    for price_hash, written in prices.items():
        if (found := table_hash(written)) != price_hash:
            raise VerificationFailed(f"The price table under {price_hash} was changed: its SHA-256 is {found}.")
        try:
            tables[price_hash] = PriceTable(msgspec.convert(written, Prices))
        except msgspec.ValidationError as error:
            raise VerificationFailed(f"The price table under {price_hash} is not valid: {error}.") from None
    if unused := tables.keys() - {receipt.price_hash for receipt in receipts}:
        raise VerificationFailed(f"No receipt names the price table {min(unused)}.")
    return tables


class PriceChecks:
    """The price checks of one statement's receipts, and how many of each kind there were."""

    def __init__(self, tables: Mapping[str, PriceTable]) -> None:
        self._tables = tables
        self._checked = 0
        #: Answered requests without a table in the file, or of an older version.
        self._unknown = 0
        #: Those charged more than they are billed at.
        self._otherwise = 0
        #: Batches whose cost is that of several calls, and how many.
        self._batches = self._lines = 0
        self._summed_calls = 0

    def check(self, receipt: Receipt) -> None:
        """Check what one receipt of the month costs, is billed and charged. Raises ``VerificationFailed``."""
        charged, _ = balance_change(receipt)
        if receipt.finish not in COUNTED:
            if charged and receipt.finish != "credited":
                raise VerificationFailed(
                    f"Receipt {receipt.id} charges {charged} nano-USD for a request that was not answered."
                )
            return
        self._otherwise += charged > billed_of(receipt)
        if receipt.v not in PRICE_VERSIONS:
            self._unknown += 1
            return
        billed = billed_nano_usd(receipt.cost_nano_usd, factor_ppm(receipt))
        if billed_of(receipt) != billed:
            raise VerificationFailed(
                f"Receipt {receipt.id} bills {billed_of(receipt)} nano-USD; its cost times its factor is {billed}."
            )
        table = self._tables.get(receipt.price_hash)
        if table is None:
            self._unknown += 1
        else:
            self._check_cost(receipt, table)
            self._checked += 1

    def _check_cost(self, receipt: Receipt, table: PriceTable) -> None:
        usage, summed = _usage(receipt), summed_of(receipt)
        if summed is not None:
            cost = table.summed_nano_usd(usage, receipt.created_us, *summed)
            self._summed_calls += summed[0] if receipt.endpoint == BATCHES_ENDPOINT else 0
            if fault := step_fault(table, receipt, usage):
                raise VerificationFailed(f"Receipt {receipt.id} cannot be the sum of its calls: {fault}.")
        else:
            cost = table.cost_nano_usd(usage, receipt.created_us)
            if receipt.endpoint == BATCHES_ENDPOINT:
                calls = table.calls_of(receipt.cost_nano_usd, usage, receipt.created_us)
                if calls is not None and calls > 1:
                    self._batches, self._lines = self._batches + 1, self._lines + calls
                    return
        if receipt.cost_nano_usd != cost and (receipt.passport or receipt.cost_nano_usd):
            raise VerificationFailed(
                f"Receipt {receipt.id} costs {receipt.cost_nano_usd} nano-USD; what it counted comes to {cost} by its "
                "price table."
            )

    def found(self) -> str:
        """Returns what the checks came to, and what they leave open, as text for people."""
        text = f"The cost of {self._checked} requests follows from what they counted and their price tables."
        if self._unknown:
            text += f" {self._unknown} have none in the file, or an older version: their prices were not checked."
        if self._otherwise:
            text += (
                f" {self._otherwise} were charged more than they are billed at, as at a fixed price a request: no "
                "price table shows that, so compare it with what was agreed."
            )
        if self._batches:
            text += (
                f" {self._batches} batches are priced as {self._lines} calls in all: how many requests they held is in "
                "no receipt, so compare it with what was sent."
            )
        if self._summed_calls:
            text += (
                f" {self._summed_calls} answered lines of batches are priced each by itself: compare their number with "
                "the results that were sent."
            )
        return text


def _usage(receipt: Receipt) -> Usage:
    """Returns what the price looked at, as the receipt has it."""
    members = {name: getattr(receipt, name) for name in Usage.__struct_fields__ if hasattr(receipt, name)}
    return Usage(**{name: value for name, value in members.items() if value is not msgspec.UNSET})
