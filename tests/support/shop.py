"""The payment room over a real store, journal and log, with a network whose coins are lines in a file.

The network is the seam that the tests own: it settles, refuses, loses answers and remembers what really moved, in a
file that outlives every process. What the room does with that is the room's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.support.entries import make_receipt
from trustgate.ids import new_id, now_us
from trustgate.payment.balance import Balances
from trustgate.payment.cashier import Cashier
from trustgate.payment.interfaces import Kind, OnTransaction, Settlement, VerifyResult
from trustgate.payment.ledger import Ledger
from trustgate.payment.networks import SOLANA_DEVNET
from trustgate.payment.order import Order
from trustgate.payment.paid_answers import Answers, Recorded
from trustgate.payment.reconciler import Reconciler
from trustgate.payment.sale import Sale
from trustgate.payment.x402_wire import Presented, requirements
from trustgate.receipts.journal import Journal
from trustgate.receipts.log import Log
from trustgate.receipts.tree import Tree
from trustgate.store import PaymentFilter, ReceiptFilter, Store, open_store
from trustgate.types import Entry, Offer, Payment, PaymentMode, PaymentTerms

TOKEN = "0x" + "a5" * 20
OFFER = Offer(
    network="eip155:84532",
    asset=TOKEN,
    decimals=6,
    pay_to="0x" + "b6" * 20,
    facilitator="paper",
    extra={"name": "USDC", "version": "2"},
)

SOLANA_OFFER = msgspec.structs.replace(OFFER, network=SOLANA_DEVNET)
UPFRONT = msgspec.structs.replace(OFFER, extra={**OFFER.extra, "paymentFlow": "upfront"})
#: 1 USD is 10⁶ atomic units of the offers' token, so an atomic unit is worth 1,000 nano-USD.
PRICE = 10_000_000
AMOUNT = PRICE // 1_000

#: What settling does, and what it answers: moved or not, and the outcome that the gateway gets.
MOVES, FAILS, LOSES_ANSWER, LOSES_REQUEST = "moves", "fails", "loses answer", "loses request"


class Paper:
    """A network on paper, its facilitator and its node. ``plan``: what the next settlings do; then all goes well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan: list[str] = []
        self.refusal = ""
        self.before_verify: Callable[[], Awaitable[None]] = _at_once
        self.before_move: Callable[[], Awaitable[None]] = _at_once
        self.after_move: Callable[[], Awaitable[None]] = _at_once
        self.verified = 0
        self.unreachable = False
        path.touch()

    def moved(self) -> Counter[str]:
        """How often each payment's money moved, by the payment's key."""
        return Counter(line.split()[0] for line in self.path.read_text().splitlines())

    def total(self, tenant_id: str) -> int:
        """What moved for a tenant, nano-USD."""
        lines = (line.split() for line in self.path.read_text().splitlines())
        return sum(int(value) for _, tenant, value in lines if tenant == tenant_id)

    async def get(self, name: str) -> Self:
        assert name == "paper"
        return self

    async def supported(self) -> tuple[Kind, ...]:
        return (Kind(x402_version=2, scheme="exact", network=OFFER.network),)

    async def verify(self, payment: Payment) -> VerifyResult:
        self.verified += 1
        await self.before_verify()
        return VerifyResult(not self.refusal, self.refusal, "0xpayer")

    async def settle(self, payment: Payment, on_transaction: OnTransaction) -> Settlement:
        plan = self.plan.pop(0) if self.plan else MOVES
        transaction = "0x" + payment.key
        await on_transaction(transaction)
        await self.before_move()
        if plan in (MOVES, LOSES_ANSWER):
            line = f"{payment.key} {payment.tenant_id} {payment.value_nano_usd}\n"
            with self.path.open("ab", buffering=0) as file:
                file.write(line.encode())
        await self.after_move()
        if plan == MOVES:
            return Settlement("settled", transaction, "0xpayer")
        if plan == FAILS:
            return Settlement("failed", transaction, "0xpayer", "insufficient_funds")
        return Settlement("unknown", transaction, reason=plan)

    async def outcome(self, payment: Payment) -> Settlement:
        """On paper nothing moves late: what has not moved never will."""
        if self.unreachable:
            return Settlement("unknown")
        if self.moved()[payment.key]:
            return Settlement("settled", "0x" + payment.key, "0xpayer")
        return Settlement("failed", reason="expired")

    async def close(self) -> None:
        return None


async def _at_once() -> None:
    return None


class Shop:
    """Everything behind the counter. ``abandon`` is what a killed process leaves behind."""

    def __init__(self, store: Store, journal: Journal, log: Log, paper: Paper, balances: Balances) -> None:
        self.store = store
        self.journal = journal
        self.log = log
        self.paper = paper
        self.balances = balances
        ledger = Ledger(store)
        self.cashier = Cashier(
            ledger,
            balances,
            log,
            paper,
            public_url="http://127.0.0.1:4010",
            answers=Answers(paper.path.parent / "answers"),
        )
        self.reconciler = Reconciler(
            store, ledger, log, balances, paper, is_active=self.cashier.is_active, on_decided=self.cashier.decided
        )

    @classmethod
    async def open(cls, home: Path) -> Self:
        home.mkdir(exist_ok=True)
        store = await open_store(home / "trustgate.duckdb")
        journal = Journal.open(
            home / "journal", store_id=store.store_id, last_seq=await store.last_seq(), segment_bytes=1 << 20
        )
        log = await Log.recover(store, journal, await Tree.open(store))
        shop = cls(store, journal, log, Paper(home / "paper"), Balances(await store.balances()))
        shop.cashier.undecided(await shop.reconciler.recover())
        return shop

    async def close(self) -> None:
        await self.cashier.close()
        await self.log.flush()
        await self.abandon()

    async def abandon(self) -> None:
        self.journal.close()
        await self.store.close()

    # what the gateway does with a request

    async def serve(
        self, order: Order, *, cost: int, answer: bytes = b"answer", dies: str = "", work_s: float = 0.0
    ) -> bytes:
        """Walk a request through its sale as the path does. ``dies``: ``before`` or ``after`` its first byte.

        ``work_s``: how long the upstream works before it answers, or dies.
        """
        admitted = await self.cashier.admit(order)
        if isinstance(admitted, Recorded):
            return b"again: " + admitted.body
        async with admitted as sale:
            if sale.is_upfront:
                await sale.settle()
            if work_s:
                await asyncio.sleep(work_s)
            if dies == "before":
                if sale.is_settled:
                    self.receipt(order, sale, 0, delivered=False)
                raise ConnectionError
            try:
                await sale.settle()
            except asyncio.CancelledError:
                if sale.is_settled:
                    self.receipt(order, sale, cost)
                    self._record(sale, answer)
                raise
            if dies == "after":
                self.receipt(order, sale, 0)
                raise ConnectionError
            self.receipt(order, sale, cost)
            self._record(sale, answer)
            return answer

    def receipt(self, order: Order, sale: Sale, cost: int, *, delivered: bool = True) -> Entry:
        tseq, tprev = self.log.link(order.tenant_id)
        members = sale.close(cost, delivered=delivered)
        receipt = make_receipt(
            tseq,
            id=order.receipt_id,
            created_us=now_us(),
            tenant=order.tenant_id,
            tprev=tprev,
            key=order.key_id,
            finish="complete" if delivered else "upstream_error",
            v=4,
            **members,
        )
        return self.log.append(receipt, bytes(32))

    def _record(self, sale: Sale, answer: bytes) -> None:
        if sale.recorder is not None:
            sale.recorder.begin(200, [])
            sale.recorder.write(answer, last=True)

    # the books

    async def payments(self) -> list[Payment]:
        return await self.store.payments(PaymentFilter(limit=None))

    async def receipts(self) -> list[Any]:
        await self.log.flush()
        return [entry.receipt for entry in await self.store.entries(ReceiptFilter(oldest_first=True, limit=1_000_000))]

    async def check_books(self) -> None:
        """Money in = what was credited; what was credited − what was charged = the balance. To the unit."""
        await self.cashier.close()
        await self.reconciler.reconcile()
        assert all(times == 1 for times in self.paper.moved().values()), "money moved twice for one payment"
        receipts = await self.receipts()
        payments = await self.payments()
        assert {payment.state for payment in payments} <= {"delivered", "credited", "failed"}
        told = Counter(receipt.payment for receipt in receipts if receipt.payment)
        assert told == Counter(payment.id for payment in payments if payment.state != "failed")
        for tenant_id in {receipt.tenant for receipt in receipts} | {payment.tenant_id for payment in payments}:
            own = [receipt for receipt in receipts if receipt.tenant == tenant_id]
            credited = sum(receipt.credited_nano_usd for receipt in own)
            charged = sum(receipt.charged_nano_usd for receipt in own)
            assert self.paper.total(tenant_id) == credited, "credited is not what moved"
            assert self.balances.balance(tenant_id) == credited - charged
            assert self.balances.held(tenant_id) == 0


def terms(mode: PaymentMode = "per-request", *, tenant_id: str = "tenant_1", **members: Any) -> PaymentTerms:
    return PaymentTerms(**{"tenant_id": tenant_id, "mode": mode, "offers": (OFFER,), **members})


def order(
    price: int, *, body: bytes = b"{}", paying: Presented | None = None, tenant_id: str = "tenant_1", **members: Any
) -> Order:
    chosen = members.pop("terms", None) or terms(tenant_id=tenant_id)
    return Order(
        tenant_id=tenant_id,
        key_id=f"key of {tenant_id}",
        terms=chosen,
        receipt_id=new_id("rcpt"),
        request_sha256=hashlib.sha256(body).hexdigest(),
        path="/v1/chat/completions",
        description="Answer a conversation.",
        price_nano_usd=price,
        presented=paying,
        **members,
    )


def signed(amount: int, *, nonce: str | None = None, identifier: str = "", offer: Offer = OFFER) -> Presented:
    """A payment as a client would sign it, of so many atomic units; each is another, unless ``nonce`` says not."""
    nonce = nonce or os.urandom(32).hex()
    accepted = requirements(offer, amount)
    authorization = {
        "from": "0x" + "c7" * 20,
        "to": offer.pay_to,
        "value": str(amount),
        "validAfter": "0",
        "validBefore": "99999999999",
        "nonce": "0x" + nonce,
    }
    payload = {"signature": "0x00", "authorization": authorization}
    raw = msgspec.json.encode({"x402Version": 2, "accepted": accepted, "payload": payload})
    return Presented(2, offer.scheme, offer.network, accepted, payload, identifier, raw)


def shuffled(chance: random.Random) -> str:
    return chance.choices([MOVES, FAILS, LOSES_ANSWER, LOSES_REQUEST], [80, 5, 8, 7])[0]
