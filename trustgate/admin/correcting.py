"""Giving back what a mistaken price billed: which receipts, what they were billed, and what they cost by today's price.

Owns the comparison. A receipt is priced again by what it counts, at its own time, times the factor it was billed at; so
the difference is exactly what the price made. A receipt that was corrected is never corrected again. The credit has a
receipt like every other, which commits to the receipts that it corrects.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import UNSET

from trustgate.admin.context import AdminContext
from trustgate.admin.crediting import book_note, checked_reference, finish_notes
from trustgate.admin.money import Correction, CorrectionRow, TenantCorrect
from trustgate.errors import Conflict, InvalidRequest, NotFound
from trustgate.models.passports import check_prices
from trustgate.models.prices import NOT_PRICED
from trustgate.models.pricing import PriceTable, billed_nano_usd
from trustgate.payment.x402_wire import usd
from trustgate.receipts.receipt import billed_of
from trustgate.statements.prices import find_prices
from trustgate.statements.summed import summed_of
from trustgate.store import ReceiptFilter
from trustgate.types import (
    BATCHES_ENDPOINT,
    COUNTED,
    FACTOR_ONE_PPM,
    PAYMENT_VERSIONS,
    CreditNote,
    Entry,
    Receipt,
    Tenant,
    Usage,
)

_PAGE = 1_000
_MOST = 200_000


async def tenant_correct(context: AdminContext, command: TenantCorrect) -> Correction:
    """Returns what is to be given back; with ``book_nano_usd`` exactly that is credited.

    Raises ``Conflict`` where there is nothing to give back, or another amount than was expected.
    """
    tenant = context.tenant(command.tenant)
    reference = checked_reference(command.reference)
    notes = await finish_notes(context, tenant)
    if reference and any(note.reference == reference for note in notes):
        raise Conflict(f"The reference {reference!r} was used before.", hint="Give another.", code="reference_used")
    given = _given_price(command)
    sums = _Sums(notes, given, command.price_factor_ppm)
    tables: dict[str, PriceTable | None] = {}
    async for entry in _selected(context, tenant, command):
        price_hash = entry.receipt.price_hash
        if price_hash not in tables:
            prices = (await find_prices(context.store, context.catalog, {price_hash})).get(price_hash)
            tables[price_hash] = None if prices is None else PriceTable(prices)
        sums.add(context, entry, tables[price_hash])
    terms = context.directory.terms(tenant.id)
    found = sums.correction(tenant, draws=terms is not None and terms.mode != "off")
    if command.book_nano_usd is None:
        return found
    if found.credit_nano_usd <= 0:
        raise Conflict(
            f"There is nothing to give back to {tenant.name}: by that price it would have been billed "
            f"{usd(-found.credit_nano_usd)} USD more.",
            hint="Give the price that it should have been: --input-price USD --output-price USD",
            code="nothing_to_give_back",
        )
    if found.credit_nano_usd != command.book_nano_usd:
        raise Conflict(
            f"The credit is {usd(found.credit_nano_usd)} USD by now, not {usd(command.book_nano_usd)}.",
            hint=f"Look at it again: trustgate tenant correct {shlex.quote(tenant.name)}",
            code="correction_changed",
        )
    change = await book_note(context, tenant, found.credit_nano_usd, reference=reference, corrects=tuple(sums.corrects))
    return msgspec.structs.replace(found, change=change)


def _given_price(command: TenantCorrect) -> PriceTable | None:
    if command.prices == NOT_PRICED:
        return None
    if command.receipt is None and command.model is None:
        raise InvalidRequest("A price is one model's.", hint="Name it: --model MODEL", param="model")
    check_prices(command.prices)
    return PriceTable(command.prices)


async def _selected(context: AdminContext, tenant: Tenant, command: TenantCorrect) -> AsyncIterator[Entry]:
    await context.flush()
    if command.receipt is not None:
        entry = await context.store.entry(command.receipt)
        if entry is None or entry.receipt.tenant != tenant.id:
            raise NotFound(
                f"{tenant.name} has no receipt {command.receipt!r}.",
                hint=f"trustgate receipt list --tenant {shlex.quote(tenant.name)}",
                code="receipt_not_found",
            )
        yield entry
        return
    if command.since_us is None:
        raise InvalidRequest("It is not said which receipts.", hint="Give --for RECEIPT, or --since DATE.")
    after_seq, read = 0, 0
    while True:
        query = ReceiptFilter(
            tenant_id=tenant.id,
            model=command.model,
            since_us=command.since_us,
            until_us=command.until_us,
            after_seq=after_seq,
            oldest_first=True,
            limit=_PAGE,
        )
        entries = await context.store.entries(query)
        for entry in entries:
            yield entry
        read += len(entries)
        if len(entries) < _PAGE:
            return
        if read >= _MOST:
            raise InvalidRequest(
                f"More than {_MOST:,} receipts would be corrected at once.", hint="Correct a shorter time: --until DATE"
            )
        after_seq = entries[-1].seq
        await asyncio.sleep(0)  # requests go on meanwhile


class _Sums:
    """What the receipts come to, receipt by receipt."""

    def __init__(self, notes: list[CreditNote], given: PriceTable | None, factor_ppm: int | None) -> None:
        self.corrects: list[int] = []
        self._before = {seq for note in notes for seq in note.corrects}
        self._given = given
        self._factor_ppm = factor_ppm
        self._rows: dict[str, list[int]] = {}
        self._same = self._corrected = self._otherwise = self._unpriced = 0

    def add(self, context: AdminContext, entry: Entry, before: PriceTable | None) -> None:
        """``before``: the table that the receipt was priced by, where it is still known."""
        receipt = entry.receipt
        if receipt.finish not in COUNTED:
            return
        was = billed_of(receipt)
        if entry.seq in self._before:
            self._corrected += 1
            return
        if receipt.v in PAYMENT_VERSIONS and receipt.charged_nano_usd != was:
            self._otherwise += 1  # a price for each request, or an answer that was cut and not charged
            return
        price = self._given or _price_now(context, receipt)
        if price is None or not price.known:
            self._unpriced += 1
            return
        if before is not None and before.without_call is before:
            # By itself it cost nothing, as what only looks at another call: neither does it now.
            price = price.without_call
        cost_nano_usd = cost_by(price, receipt, before)
        if cost_nano_usd is None:
            self._unpriced += 1
            return
        factor = FACTOR_ONE_PPM if receipt.price_factor_ppm is UNSET else receipt.price_factor_ppm
        factor = factor if self._factor_ppm is None else self._factor_ppm
        now = billed_nano_usd(cost_nano_usd, factor)
        if now == was:
            self._same += 1
            return
        self.corrects.append(entry.seq)
        row = self._rows.setdefault(receipt.model, [0, 0, 0])
        for n, amount in enumerate((1, was, now)):
            row[n] += amount

    def correction(self, tenant: Tenant, *, draws: bool) -> Correction:
        rows = tuple(
            CorrectionRow(model=model, requests=count, billed_nano_usd=was, now_nano_usd=now)
            for model, (count, was, now) in sorted(self._rows.items())
        )
        return Correction(
            tenant=tenant,
            rows=rows,
            credit_nano_usd=sum(row.billed_nano_usd - row.now_nano_usd for row in rows),
            same=self._same,
            corrected=self._corrected,
            otherwise=self._otherwise,
            unpriced=self._unpriced,
            draws=draws,
        )


def cost_by(price: PriceTable, receipt: Receipt, before: PriceTable | None) -> int | None:
    """Returns what a receipt costs by a price; None where that does not follow from what it counts.

    ``before``: the table that it was priced by, where it is still known.
    """
    usage, at_us, summed = usage_of(receipt), receipt.created_us, summed_of(receipt)
    if summed is None:
        calls = _calls_in(receipt, before)
        return None if calls is None else price.batch_nano_usd(usage, at_us, calls)
    calls, step = summed
    step_now = _step_by(price, usage, at_us, calls, step, before)
    return None if step_now is None else price.summed_nano_usd(usage, at_us, calls, step_now)


def _step_by(
    price: PriceTable, usage: Usage, at_us: int, calls: int, step: int, before: PriceTable | None
) -> int | None:
    """Returns the step of a price that holds for each of the calls that a receipt sums up; None: for some, or unknown.

    All that is known of their prompts: each is above the step of the former price, none is above the next one, and what
    they come to in all.
    """
    if calls == 1 or not (calls or usage.prompt_tokens):
        return price.step(usage, at_us)
    least = step + 1 if step else 0
    most = usage.prompt_tokens - max(calls - 1, 0) * least if calls else None
    if before is not None:
        above = min([each for each in before.steps(usage, at_us) if each > step], default=None)
        most = above if most is None else most if above is None else min(most, above)
    found = 0
    for each in price.steps(usage, at_us):
        if least > each:
            found = each
        elif most is None or most > each:
            return None
    return found


def _calls_in(receipt: Receipt, before: PriceTable | None) -> int | None:
    """Returns how many calls a receipt is the bill of: a batch's as many as its cost shows by the price of its time.

    None where that price is not known any more, or does not come to the cost.
    """
    if receipt.endpoint != BATCHES_ENDPOINT or not receipt.cost_nano_usd:
        return 1
    if before is None:
        return None
    return before.calls_of(receipt.cost_nano_usd, usage_of(receipt), receipt.created_us)


def usage_of(receipt: Receipt) -> Usage:
    """Returns what a receipt counts, as far as its version has it."""
    told: dict[str, Any] = {
        name: value
        for name in Usage.__struct_fields__
        if (value := getattr(receipt, name, UNSET)) is not UNSET and name not in ("estimated", "contradictory")
    }
    return Usage(**told)


def _price_now(context: AdminContext, receipt: Receipt) -> PriceTable | None:
    """Returns the price that holds for the model now; where a fallback had answered, that passport's."""
    resolved = context.catalog.resolve(receipt.model)
    if resolved is not None and resolved.passport.id == receipt.passport:
        return resolved.price
    answered = next((each for each in context.catalog.passports() if each.id == receipt.passport), None)
    if answered is None or answered.status == "revoked":
        return None if resolved is None else resolved.price
    upstream_model = answered.api_model_id if not answered.is_wildcard else receipt.upstream_model or receipt.model
    return context.catalog.price_of(answered, upstream_model, receipt.model if answered.is_wildcard else answered.slug)
