"""Making a tenant's statement from the books: the receipts, their sums, and the proofs, in one document.

A page of receipts is in memory at a time; they are read twice, first to add up and then to write. The event loop gets
its turn every few receipts.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping

import msgspec

from trustgate.errors import NotFound
from trustgate.receipts.archive import Archive
from trustgate.statements.account import Adding, StatementAccount
from trustgate.statements.batch import uncovered
from trustgate.statements.document import DocumentWriter, Head, StatementAnchor, StatementNames, Write
from trustgate.statements.months import Month, month_of
from trustgate.statements.prices import fits_statements
from trustgate.store import ReceiptFilter, StatementSpan, Store
from trustgate.types import Anchor, ApiKey, Entry, Prices, Tenant

_PAGE_RECEIPTS = 1_000
_SLICE_RECEIPTS = 50
_SLICE_RANGES = 256

#: Gives the price tables of these hashes, as far as they are known.
FindPrices = Callable[[Collection[str]], Awaitable[Mapping[str, Prices]]]


class StatementMade(msgspec.Struct, frozen=True, kw_only=True):
    """What was made: the account, how many receipts the document has, and the hash over all of it."""

    account: StatementAccount
    receipts: int
    sha256: str


class Statements:
    """Statements out of a store and its log."""

    def __init__(self, store: Store, archive: Archive, find_prices: FindPrices) -> None:
        self._store = store
        self._archive = archive
        self._find_prices = find_prices

    async def months(self, tenant_id: str) -> list[Month]:
        """Returns the months in which the tenant has receipts, the newest first."""
        return [month_of(at_us) for at_us in await self._store.receipt_months(tenant_id)]

    async def make(
        self, tenant_id: str, month: Month, names: StatementNames, *, issued_us: int, write: Write
    ) -> StatementMade:
        """Write the document. Raises ``NotFound`` for a tenant without any receipt."""
        note = await self._archive.renewed()
        size = self._archive.checkpoint_size
        span = await self._store.statement_span(tenant_id, month.from_us, month.until_us, size)
        if span is None:
            raise NotFound(
                "The tenant has no receipts yet, so it has no statement.",
                code="statement_not_found",
                param="month",
            )
        anchor = await self._anchor(span.last_seq, size)
        if anchor is not None and anchor.tree_size >= span.last_seq:
            # What is anchored proves it all by itself.
            size, note = anchor.tree_size, anchor.note.encode()
        adding, leaves, hashes = Adding(tenant_id, month), [], set()
        async for entry in self._entries(tenant_id, span):
            adding.add(entry.receipt)
            leaves.append(entry.seq - 1)
            if adding.counts(entry.receipt):
                hashes.add(entry.receipt.price_hash)
        account = adding.account(opening_nano_usd=span.opening_nano_usd, issued_us=issued_us)
        used = {line.price_hash for line in account.by_price}
        found = await self._find_prices(hashes & used)
        writer = DocumentWriter(write)
        await writer.begin(
            Head(
                account=account,
                anchor=None if anchor is None else await self._proven(anchor, size),
                checkpoint=note.decode(),
                key=self._archive.vkey,
                leaves=leaves,
                names=_only(names, account),
                prices={name: prices for name, prices in found.items() if fits_statements(prices)},
                proof=await self._proof(leaves, size),
            )
        )
        page = []
        async for entry in self._entries(tenant_id, span):
            page.append(entry.receipt)
            if len(page) == _SLICE_RECEIPTS:
                await writer.receipts(page)
                page = []
        await writer.receipts(page)
        return StatementMade(account=account, receipts=len(leaves), sha256=await writer.end())

    async def _entries(self, tenant_id: str, span: StatementSpan) -> AsyncIterator[Entry]:
        after_seq = span.first_seq - 1
        while True:
            page = await self._store.entries(
                ReceiptFilter(
                    tenant_id=tenant_id,
                    after_seq=after_seq,
                    until_seq=span.last_seq,
                    oldest_first=True,
                    limit=_PAGE_RECEIPTS,
                )
            )
            for number, entry in enumerate(page, start=1):
                yield entry
                if number % _SLICE_RECEIPTS == 0:
                    await asyncio.sleep(0)
            if len(page) < _PAGE_RECEIPTS:
                return
            after_seq = page[-1].seq

    async def _anchor(self, last_seq: int, size: int) -> Anchor | None:
        """Returns the smallest anchored state that has the receipts, else the largest there is."""
        anchored = [
            anchor
            for anchor in await self._store.anchors()
            if anchor.state == "anchored"
            and 0 < anchor.tree_size <= size
            and anchor.note.partition("\n")[0] == self._archive.origin
        ]
        covering = [anchor for anchor in anchored if anchor.tree_size >= last_seq]
        if covering:
            return min(covering, key=lambda anchor: anchor.tree_size)
        return max(anchored, key=lambda anchor: anchor.tree_size, default=None)

    async def _proven(self, anchor: Anchor, size: int) -> StatementAnchor:
        final = next(attempt for attempt in anchor.attempts if attempt.signature == anchor.signature)
        consistency = await self._archive.tree.consistency(anchor.tree_size, size)
        return StatementAnchor(
            checkpoint=anchor.note,
            consistency=tuple(base64.b64encode(found).decode() for found in consistency),
            transaction=base64.b64encode(final.transaction).decode(),
        )

    async def _proof(self, leaves: list[int], size: int) -> list[bytes]:
        ranges = await asyncio.to_thread(uncovered, leaves, size)
        proof: list[bytes] = []
        for start in range(0, len(ranges), _SLICE_RANGES):
            proof += await self._archive.tree.range_roots(ranges[start : start + _SLICE_RANGES])
            await asyncio.sleep(0)
        return proof


def statement_names(tenant: Tenant, keys: Iterable[ApiKey], *, issuer: str = "") -> StatementNames:
    """Returns what people call the tenant and its keys, in a statement by ``issuer``."""
    return StatementNames(
        issuer=issuer, tenant=tenant.name, keys={key.id: f"{key.name} {key.redacted}" for key in keys}
    )


def _only(names: StatementNames, account: StatementAccount) -> StatementNames:
    """Returns the names without those of keys that the account does not have."""
    keys = {group.name: names.keys[group.name] for group in account.by_key if group.name in names.keys}
    return msgspec.structs.replace(names, keys=keys)
