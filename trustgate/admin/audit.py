"""The audit of the books: every receipt compared with the log's tree, the ledger and the state in memory.

    receipts   seq 1, 2, 3 … to the size of the tree; each hashes to the leaf that the tree has for it
    tenants    tseq 1, 2, 3 …, each naming the hash of the one before
    usage      the sums of ``usage`` are those of the receipts
    payments   each that moved money has the one receipt that records it, with the same figures; and the other way
    balances   credited less charged is the balance that requests draw on
    quotas     what the running windows count is what the receipts of that time say

Owns what is compared with what. Everything is read, nothing sampled: a page of receipts at a time, so that a server
goes on serving. The state of memory is taken at one moment, and the receipts up to that moment are what it must equal.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from trustgate.access.budget_counter import BudgetStanding
from trustgate.access.quota import Quota, QuotaUsage
from trustgate.admin.audit_payments import expected_of, figures_of, pack, payment_number, recorded_by, seq_of
from trustgate.admin.audit_quotas import ADMISSION_US, QuotaAudit
from trustgate.admin.background_work import ReportProgress
from trustgate.admin.money import BooksReport, Difference
from trustgate.errors import StoreDamaged
from trustgate.ids import now_us
from trustgate.payment.balance import Balances
from trustgate.receipts.merkle import HASH_BYTES
from trustgate.receipts.receipt import FIRST_TPREV, billed_of, leaf_hash
from trustgate.receipts.tiles import TILE_WIDTH, Edge, TileId
from trustgate.receipts.tree import Tree
from trustgate.store import ArchiveFile, PaymentFilter, ReceiptFilter, Store, UsageFilter, UsageRow
from trustgate.store.queries import SUM_MOST, BudgetUseFilter
from trustgate.types import (
    COUNTED,
    OPEN,
    PAID,
    PAYMENT_VERSIONS,
    RECEIPT_PAYMENT_MEMBERS,
    ApiKey,
    Entry,
    Payment,
    Receipt,
)

#: Whole tiles, so that a page's leaves can be held against them.
_PAGE_ENTRIES = 8 * TILE_WIDTH
_PAGE_PAYMENTS = 2_000
#: Leaves hashed before the event loop gets its turn.
_SLICE = 64
_MOST_DIFFERENCES = 1_000
_SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost_nano_usd")


class BooksSnapshot(NamedTuple):
    """What memory held at one moment: the last receipt then, the balances, the quotas where there are any."""

    last_seq: int
    balances: dict[str, int]
    quota: QuotaUsage | None
    #: What keys that came from a rotation are counted under, by their ids.
    key_accounts: dict[str, str]
    #: Whether the quotas of those alone are counted who have limits.
    counts_limited: bool = False
    #: Where budgets stood, and when, microseconds UTC; with one process they are read from its memory instead.
    standings: tuple[BudgetStanding, ...] = ()
    at_us: int = 0

    @classmethod
    def take(cls, last_seq: int, balances: Balances, quota: Quota | None, keys: Iterable[ApiKey] = ()) -> BooksSnapshot:
        """No await may stand between the reading of ``last_seq`` and this."""
        if quota is not None and quota.was_set_back:
            quota = None  # its counters are not what the receipts of its windows say
        accounts = {key.id: key.account_id for key in keys if key.origin_id}
        return cls(last_seq, balances.on_record(), None if quota is None else quota.current_usage(now_us()), accounts)


class _Tenant:
    """What the receipts of one tenant come to."""

    __slots__ = ("charged", "credited", "tail", "tseq", "usage")

    def __init__(self) -> None:
        #: -1: not known, after receipts that cannot be read.
        self.tseq = 0
        self.tail = FIRST_TPREV
        self.credited = 0
        self.charged = 0
        self.usage: defaultdict[str, int] = defaultdict(int)


class BooksAuditor:
    """One audit. ``run`` once."""

    def __init__(self, store: Store, tree: Tree, moment: BooksSnapshot, report: ReportProgress) -> None:
        """The store, and the tree over it, have at least what was in the log at the moment."""
        self._store = store
        self._tree = tree
        self._moment = moment
        self._report = report
        self._edge = Edge()
        self._tenants: defaultdict[str, _Tenant] = defaultdict(_Tenant)
        self._windows = None
        if moment.quota is not None:
            self._windows = QuotaAudit(moment.quota, moment.key_accounts, counts_limited=moment.counts_limited)
        #: By payment id, as a number: the place of the receipt that records it, with a hash of what it records.
        #: A million of them are 200 MB.
        self._receipt_of: dict[int, int] = {}
        self._counted = {aside.entry.seq: aside.counted for aside in store.set_aside}
        self._differences: list[Difference] = []
        self._count = 0
        self._sums: defaultdict[str, int] = defaultdict(int)
        #: The last receipt that is in an archive file, and by tenant and key what those up to it come to.
        self._archived_seq = max((file.last_seq for file in store.archives), default=0)
        self._archived: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        #: Archive files that cannot be read: what they hold is neither checked nor added up.
        self._unread: list[ArchiveFile] = []

    async def run(self) -> BooksReport:
        for damaged in await self._store.damaged_rows():
            self._differ(
                f"table {damaged.table}",
                f"{damaged.problem} It is left out; put back a copy of the database: trustgate restore FILE",
            )
        await self._check_archives()
        await self._read_receipts()
        await self._check_tree_size()
        if not self._unread:
            await self._check_usage()
            await self._check_archived()
            self._check_balances()
        await self._read_payments()
        if self._windows is not None:
            async for what, detail in self._windows.differences():
                self._differ(what, detail)
        sums = self._sums
        return BooksReport(
            receipts=self._moment.last_seq,
            tenants=len(self._tenants),
            payments=sums["payments"],
            open_payments=sums["open"],
            paid_nano_usd=sums["paid"],
            added_nano_usd=sums["added"],
            refunded_nano_usd=sums["refunded"],
            credited_nano_usd=sum(tenant.credited for tenant in self._tenants.values()),
            charged_nano_usd=sum(tenant.charged for tenant in self._tenants.values()),
            balance_nano_usd=sum(self._moment.balances.values()),
            quotas_checked=self._windows is not None,
            differences=tuple(self._differences),
            difference_count=self._count,
        )

    def _differ(self, record: str, detail: str) -> None:
        self._count += 1
        if len(self._differences) < _MOST_DIFFERENCES:
            self._differences.append(Difference(record=record, detail=detail))

    # receipts

    async def _read_receipts(self) -> None:
        last = self._moment.last_seq
        done = 0
        while done < last:
            unread = next((file for file in self._unread if file.first_seq == done + 1), None)
            if unread is not None:
                done = unread.last_seq
                for tenant in self._tenants.values():
                    tenant.tseq = -1
                continue
            # To the end of an archive file at most, which is the end of a tile.
            ends = [file.last_seq for file in self._store.archives if file.last_seq > done]
            until = min(last, done + _PAGE_ENTRIES, *ends[:1])
            entries = await self._page(done, until)
            await self._check_page(entries, done, until)
            done = until
            self._report(f"Read {done:,} of {last:,} receipts")

    async def _page(self, done: int, until: int) -> list[Entry]:
        query = ReceiptFilter(after_seq=done, until_seq=until, oldest_first=True, limit=_PAGE_ENTRIES + TILE_WIDTH)
        try:
            return await self._store.entries(query)
        except StoreDamaged:
            pass
        entries: list[Entry] = []
        for seq in range(done + 1, until + 1):
            try:
                entries += await self._store.entries(replace(query, after_seq=seq - 1, until_seq=seq))
            except StoreDamaged as error:
                self._differ("receipts", f"{error.message} Put back a copy of the database: trustgate restore FILE")
        return entries

    async def _check_page(self, entries: list[Entry], done: int, until: int) -> None:
        found = [entry.seq for entry in entries]
        if found != list(range(done + 1, until + 1)):
            self._differ("log", f"{_gaps(found, done, until)}; what is there is checked, the tree's hashes are not")
        leaves: list[bytes] = []
        for start in range(0, len(entries), _SLICE):
            for entry in entries[start : start + _SLICE]:
                leaf = leaf_hash(entry.receipt)
                leaves.append(leaf)
                self._check_entry(entry, leaf)
            await asyncio.sleep(0)
        if len(leaves) == until - done:
            if self._edge.size == done:
                self._edge.append(leaves)
            await self._check_leaves(entries, leaves, done)

    async def _check_leaves(self, entries: list[Entry], leaves: list[bytes], done: int) -> None:
        """Hold the leaves of a page, which begins with a tile, against the tree's tiles."""
        for start in range(0, len(leaves), TILE_WIDTH):
            hashes = leaves[start : start + TILE_WIDTH]
            tile = await self._tree.tile(TileId(0, (done + start) // TILE_WIDTH), len(hashes))
            if tile == b"".join(hashes):
                continue
            for place, leaf in enumerate(hashes):
                if tile is None or tile[place * HASH_BYTES : (place + 1) * HASH_BYTES] != leaf:
                    entry = entries[start + place]
                    self._differ(_name(entry), "its hash is not the leaf of the log's tree: it has been changed")

    def _check_entry(self, entry: Entry, leaf: bytes) -> None:
        receipt = entry.receipt
        tenant = self._tenants[receipt.tenant]
        if self._unread and (tenant.tseq == -1 or (not tenant.tseq and entry.seq > self._unread[0].first_seq)):
            tenant.tseq, tenant.tail = receipt.tseq - 1, receipt.tprev  # where its chain goes on cannot be told
        # What the database could not hold as it is counts as what stands in its place.
        counted = self._counted.get(entry.seq, receipt)
        if receipt.tseq != tenant.tseq + 1:
            self._differ(_name(entry), f"its tseq is {receipt.tseq}, after {tenant.tseq} of tenant {receipt.tenant}")
        elif receipt.tprev != tenant.tail:
            self._differ(_name(entry), "its tprev is not the hash of the receipt before it")
        tenant.tseq, tenant.tail = receipt.tseq, leaf.hex()
        if receipt.finish in COUNTED:
            tenant.usage["requests"] += 1
            tenant.usage["estimated"] += receipt.usage_source == "estimate"
            tenant.usage["billed_nano_usd"] += billed_of(counted)
            tenant.usage["unpriced"] += receipt.price_known is False
            for member in _SUMS:
                tenant.usage[member] += getattr(counted, member)
            if entry.seq <= self._archived_seq:
                use = 1, counted.prompt_tokens + counted.completion_tokens, billed_of(counted)
                for unit, amount in enumerate(use):
                    self._archived[receipt.tenant, receipt.key][unit] += amount
        elif receipt.finish == "refused":
            tenant.usage["refused"] += 1
        elif receipt.finish == "upstream_error":
            tenant.usage["failed"] += 1
        if self._windows is not None:
            self._windows.add(counted)
        if receipt.v in PAYMENT_VERSIONS:
            self._check_money(entry, counted, tenant)

    def _check_money(self, entry: Entry, counted: Receipt, tenant: _Tenant) -> None:
        receipt = entry.receipt
        missing = [member for member in RECEIPT_PAYMENT_MEMBERS if not isinstance(getattr(receipt, member), str | int)]
        if missing:
            self._differ(_name(entry), f"it is of version {receipt.v} and lacks {', '.join(missing)}")
            return
        charged, credited = _money(counted)
        tenant.charged += charged
        tenant.credited += credited
        if receipt.payment:
            number = payment_number(str(receipt.payment))
            first = seq_of(self._receipt_of.setdefault(number, pack(entry.seq, recorded_by(receipt))))
            if first != entry.seq:
                self._differ(_name(entry), f"payment {receipt.payment} is in receipt number {first} already")
        elif receipt.finish == "credited":
            self._sums["added"] += credited
            self._sums["refunded"] += charged
        elif credited:
            self._differ(_name(entry), f"it credits {credited} nano-USD and names no payment")

    async def _check_tree_size(self) -> None:
        size, last = self._tree.size, self._moment.last_seq
        if size < last:
            self._differ("log", f"the tree has {size} leaves for {last} receipts")
        elif self._edge.size == last and self._edge.root() != await self._tree.root_at(last):
            self._differ("log", f"the root over {last} receipts is not the root of the tree")

    # usage

    async def _check_usage(self) -> None:
        self._report("Comparing usage")
        rows = await self._store.usage(UsageFilter(by="tenant", until_seq=self._moment.last_seq))
        told = {row.group: row for row in rows}
        members = [name for name in UsageRow.__struct_fields__ if name != "group"]
        for tenant_id in self._tenants.keys() | told.keys():
            row, usage = told.get(tenant_id), self._tenants[tenant_id].usage
            for member in members:
                said = 0 if row is None else getattr(row, member)
                if said != min(usage[member], SUM_MOST):
                    self._differ(f"usage of tenant {tenant_id}", f"{member}: {said}, by its receipts {usage[member]}")

    # archive files

    async def _check_archives(self) -> None:
        if self._store.archives:
            self._report("Reading the archive files")
        for found in await self._store.archive_problems(deep=True):
            file = found.file
            self._unread.append(file)
            self._differ(
                f"archive file {found.path}",
                f"{found.problem}: receipts {file.first_seq} to {file.last_seq} cannot be checked, nor usage and "
                "balances be added up; put back a copy, for instance out of a backup",
            )

    async def _check_archived(self) -> None:
        """What the database knows of archived receipts, for quotas and budgets, and the ends of the tenants' chains."""
        told: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        if self._archived_seq:
            for used in await self._store.budget_use(BudgetUseFilter(0, SUM_MOST, until_seq=self._archived_seq)):
                for unit, amount in enumerate((used.requests, used.tokens, used.cost_nano_usd)):
                    told[used.tenant_id, used.key_id][unit] += amount
        for tenant_id, key_id in told.keys() | self._archived.keys():
            said, counted = told[tenant_id, key_id], self._archived[tenant_id, key_id]
            if said != [min(amount, SUM_MOST) for amount in counted]:
                self._differ(
                    f"archived usage of key {key_id}", f"requests, tokens, cost: {said}, by the receipts {counted}"
                )
        for head in await self._store.load_heads():
            tenant = self._tenants[head.tenant_id]
            if head.entry.seq <= self._archived_seq and (
                head.entry.receipt.tseq != tenant.tseq or leaf_hash(head.entry.receipt).hex() != tenant.tail
            ):
                self._differ(f"tenant {head.tenant_id}", "its last archived receipt is not what the database has of it")

    # payments

    async def _read_payments(self) -> None:
        after = ""
        while True:
            query = PaymentFilter(after_id=after, oldest_first=True, limit=_PAGE_PAYMENTS)
            payments = await self._store.payments(query)
            for payment in payments:
                await self._check_payment(payment)
            if len(payments) < _PAGE_PAYMENTS:
                break
            after = payments[-1].id
            self._report(f"Read {self._sums['payments']:,} payments")
        for packed in self._receipt_of.values():
            entry = await self._entry(seq_of(packed))
            self._differ(_name(entry), f"it names payment {entry.receipt.payment}, which the ledger does not have")

    async def _check_payment(self, payment: Payment) -> None:
        self._sums["payments"] += 1
        packed = self._receipt_of.pop(payment_number(payment.id), None)
        if payment.state in OPEN:
            self._sums["open"] += 1
        if packed is None:
            # A receipt of after the moment does as well.
            is_due = payment.state in ("delivered", "credited") and not self._may_be_unread(payment)
            if is_due and await self._store.payment_receipt(payment) is None:
                self._differ(f"payment {payment.id}", f"it is {payment.state}, and no receipt records it")
            return
        self._sums["paid"] += payment.value_nano_usd
        seq = seq_of(packed)
        if packed == pack(seq, expected_of(payment)):
            return
        entry = await self._entry(seq)
        if payment.state not in PAID:
            self._differ(f"payment {payment.id}", f"it is {payment.state}, and {_name(entry)} records it as paid")
        for what, theirs, ours in figures_of(entry.receipt, payment):
            if theirs != ours:
                self._differ(_name(entry), f"payment {payment.id}: its {what} is {theirs}, in the ledger {ours}")

    def _may_be_unread(self, payment: Payment) -> bool:
        return any(file.last_us >= payment.created_us - ADMISSION_US for file in self._unread)

    async def _entry(self, seq: int) -> Entry:
        (entry,) = await self._store.entries(ReceiptFilter(after_seq=seq - 1, until_seq=seq, limit=1))
        return entry

    # balances

    def _check_balances(self) -> None:
        balances = self._moment.balances
        for tenant_id in self._tenants.keys() | balances.keys():
            tenant = self._tenants[tenant_id]
            expected, held = tenant.credited - tenant.charged, balances.get(tenant_id, 0)
            if expected != held:
                self._differ(
                    f"balance of tenant {tenant_id}",
                    f"{held} nano-USD, by its receipts {expected} ({tenant.credited} credited, {tenant.charged} "
                    "charged)",
                )


def _gaps(found: list[int], done: int, until: int) -> str:
    """Returns what is wrong with the numbers of a page that should have ``done`` + 1 to ``until``."""
    expected = set(range(done + 1, until + 1))
    missing = sorted(expected - set(found))
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
        return f"of the receipts {done + 1} to {until}, {len(missing)} are missing: number {shown}"
    twice = sorted({seq for seq in found if found.count(seq) > 1})
    return (
        f"of the receipts {done + 1} to {until}, {len(twice)} are there twice: number {', '.join(map(str, twice[:5]))}"
    )


def _name(entry: Entry) -> str:
    return f"receipt {entry.receipt.id} (number {entry.seq})"


def _money(receipt: Receipt) -> tuple[int, int]:
    """Charged and credited, nano-USD; 0 for a receipt of version 1."""
    charged, credited = receipt.charged_nano_usd, receipt.credited_nano_usd
    return charged if isinstance(charged, int) else 0, credited if isinstance(credited, int) else 0
