"""What a sale does while its request runs, and what a reconciler does with payments that it finds."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.entries import make_receipt
from tests.support.shop import (
    AMOUNT,
    FAILS,
    LOSES_ANSWER,
    OFFER,
    PRICE,
    SOLANA_OFFER,
    UPFRONT,
    Shop,
    order,
    signed,
    terms,
)
from trustgate.errors import ChainError, Conflict, PaymentRequired, Unavailable
from trustgate.payment import paid_answers, reconciler
from trustgate.payment.credit import append_credit, payment_members
from trustgate.payment.interfaces import Settlement
from trustgate.payment.order import Order, claim_of
from trustgate.payment.reconciler import Reconciler
from trustgate.payment.sale import Sale, to_its_end
from trustgate.payment.x402_wire import Presented
from trustgate.types import Payment


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = await Shop.open(tmp_path / "home")
    yield shop
    await shop.close()


def solana_order() -> Order:
    return order(PRICE, paying=signed(AMOUNT, offer=SOLANA_OFFER), terms=terms(offers=(SOLANA_OFFER,)))


async def admit(shop: Shop, wanted: Order) -> Sale:
    sale = await shop.cashier.admit(wanted)
    assert isinstance(sale, Sale)
    return sale


async def test_the_receipts_part_of_the_balance_is_known_once_the_request_has_ended(shop: Shop) -> None:
    shop.balances.change("tenant_1", PRICE)
    append_credit(shop.log, "tenant_1", credited_nano_usd=PRICE)
    for wanted, charged in ((order(PRICE), 3), (order(PRICE, paying=signed(AMOUNT)), 4), (order(0), 5)):
        async with await admit(shop, wanted) as sale:
            await sale.settle()
            assert sale.charging is None
            assert shop.receipt(wanted, sale, charged).receipt.charged_nano_usd == charged
            assert sale.charging is not None
    shop.paper.plan = [FAILS]
    unpaid = order(PRICE, paying=signed(AMOUNT))
    async with await admit(shop, unpaid) as sale:
        with pytest.raises(PaymentRequired):
            await sale.settle()
        assert shop.receipt(unpaid, sale, 6).receipt.charged_nano_usd == 0
        assert sale.charging is None
    assert shop.balances.balance("tenant_1") == 2 * PRICE - 3 - 4 - 5


@pytest.mark.parametrize("awaits", [False, True])
async def test_work_is_ended_where_its_payment_fails_before_there_is_an_answer(shop: Shop, awaits: bool) -> None:
    """One that waits for the settling learns of it there."""
    shop.paper.plan = [FAILS]
    began, unpaid = asyncio.Event(), asyncio.Event()

    async def before_move() -> None:
        began.set()
        if awaits:
            await settling.wait()

    settling = asyncio.Event()
    shop.paper.before_move = before_move
    shop.cashier.settle_within_s = 0.0
    sale = await admit(shop, solana_order())
    sale.on_unpaid = unpaid.set
    async with asyncio.timeout(20), sale:
        await began.wait()
        if awaits:
            waiting = asyncio.ensure_future(sale.settle())
            await asyncio.sleep(0)
            settling.set()
            with pytest.raises(PaymentRequired):
                await waiting
            assert (sale.failure, unpaid.is_set()) == (None, False)
        else:
            await unpaid.wait()
            assert isinstance(sale.failure, PaymentRequired)


async def test_nothing_settles_behind_a_request_that_has_ended(shop: Shop) -> None:
    sale = await admit(shop, solana_order())
    async with sale:
        assert sale._timer is not None
    assert sale._timer.cancelled()
    await shop.cashier.close()
    assert [payment.state for payment in await shop.payments()] == []
    assert not shop.paper.moved()


async def test_of_an_answer_that_was_too_large_a_retry_is_told_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paid_answers, "MOST_ANSWER_BYTES", 5)
    paying = signed(AMOUNT)
    await shop.serve(order(PRICE, paying=paying), cost=1, answer=b"answer")
    await shop.cashier.close()
    with pytest.raises(Conflict, match="larger than 5 bytes"):
        await shop.cashier.admit(order(PRICE, paying=paying))


async def test_an_answer_is_owed_only_where_its_client_has_left(shop: Shop) -> None:
    """The same request comes again: it buys an answer of its own."""
    for number in range(2):
        assert await shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=1) == b"answer", number
    assert len(shop.paper.moved()) == 2


async def _headers(shop: Shop, paying: Presented | None) -> list[bytes]:
    wanted = order(PRICE, paying=paying, terms=terms(offers=(UPFRONT,)) if paying else None)
    async with await admit(shop, wanted) as sale:
        names = [name for name, _ in await sale.settle()]
        shop.receipt(wanted, sale, 1)
    return names


async def test_an_answer_names_its_settled_payment_the_second_time_too(shop: Shop) -> None:
    shop.balances.change("tenant_1", PRICE)
    append_credit(shop.log, "tenant_1", credited_nano_usd=PRICE)
    assert b"payment-response" not in await _headers(shop, None), "it draws on the balance"
    assert b"payment-response" in await _headers(shop, signed(AMOUNT, offer=UPFRONT))
    paying = signed(AMOUNT, offer=UPFRONT)
    with pytest.raises(ConnectionError):
        await shop.serve(order(PRICE, paying=paying, terms=terms(offers=(UPFRONT,))), cost=1, dies="before")
    await shop.cashier.close()
    assert b"payment-response" in await _headers(shop, paying), "it buys what its credit pays for"


async def test_without_a_key_an_answer_is_charged_what_was_paid_the_second_time_too(shop: Shop) -> None:
    """There is no balance that the rest could be kept on."""
    paying, value = signed(AMOUNT), 0
    shop.paper.plan = [LOSES_ANSWER]
    with pytest.raises(Unavailable):
        await shop.serve(order(PRICE, paying=paying, is_keyless=True), cost=1)
    await shop.reconciler.reconcile()
    for again in (paying, signed(AMOUNT)):
        assert await shop.serve(order(PRICE, paying=again, is_keyless=True), cost=1) == b"answer"
        charged = (await shop.receipts())[-1].charged_nano_usd
        value = value or charged
        assert charged == value > 1
    assert shop.balances.balance("tenant_1") == 0


async def test_a_failure_behind_a_caller_that_was_cancelled_is_not_one_that_nothing_has_seen() -> None:
    loop, told = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: told.append(context))
    over = asyncio.Event()

    async def fail() -> None:
        await over.wait()
        raise OSError

    waiting = asyncio.ensure_future(to_its_end(asyncio.ensure_future(fail()), over.set))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gc.collect()
    assert told == []


async def claimed(shop: Shop, number: int) -> Payment:
    paying = signed(AMOUNT)
    payment = claim_of(order(PRICE, body=b"%d" % number), paying, OFFER, AMOUNT, "http://127.0.0.1:4010")
    return await shop.cashier.ledger.claim(payment)


async def lost(shop: Shop, times: int = 1) -> list[Payment]:
    """Payments whose outcome is unknown; their money has moved."""
    shop.paper.plan = [LOSES_ANSWER] * times
    for number in range(times):
        with pytest.raises(Unavailable):
            await shop.serve(order(PRICE, body=b"%d" % number, paying=signed(AMOUNT)), cost=1)
    return await shop.payments()


class Deaf:
    """A network of which nothing can be learned, and a facilitator with scripted answers."""

    def __init__(self, *answers: Settlement | ChainError) -> None:
        self.answers = list(answers)

    async def outcome(self, payment: Payment) -> Settlement:
        raise ChainError("No RPC node is known for the network.")

    async def close(self) -> None: ...

    async def settle_again(self, payment: Payment) -> Settlement:
        answer = self.answers.pop(0)
        if isinstance(answer, ChainError):
            raise answer
        return answer


class Clock:
    """Stands for ``time`` in the reconciler."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now


async def test_a_facilitator_is_asked_again_after_longer_and_longer(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(reconciler, "time", clock)
    [payment] = await lost(shop)
    waits = [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]
    answers = [Settlement("unknown") if number % 2 else ChainError("It is away.") for number in range(len(waits) + 1)]
    network = Deaf(*answers)
    looking = Reconciler(
        *(shop.store, shop.cashier.ledger, shop.log, shop.balances, network), settle_again=network.settle_again
    )
    await looking.reconcile()
    for number, wait_s in enumerate(waits, 1):
        clock.now += wait_s - 0.5
        await looking.reconcile()
        assert len(network.answers) == len(answers) - number, "it is too soon"
        clock.now += 0.5
        await looking.reconcile()
        assert len(network.answers) == len(answers) - number - 1
        assert "No RPC node" in looking.problems[payment.id]
    network.answers.append(Settlement("settled", "0x" + payment.key))
    clock.now += 3600.0
    [found] = await looking.reconcile()
    assert (found.state, shop.balances.balance("tenant_1")) == ("credited", PRICE)
    # Nothing is kept of what has been decided.
    assert (looking.problems, looking._asks) == ({}, {})


async def test_rounds_are_made_for_ever_and_a_store_that_fails_ends_none(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    [payment] = await lost(shop)
    rounds, failed_twice, shop_was_paid = 0, asyncio.Event(), asyncio.Event()

    def count() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            failed_twice.set()

    def decided(payment: Payment) -> None:
        shop.cashier.decided(payment)
        shop_was_paid.set()

    class Pauses:
        taken: list[float] = []  # noqa: RUF012 - of this test

        def __getattr__(self, name: str) -> object:
            return getattr(asyncio, name)

        async def sleep(self, seconds: float) -> None:
            self.taken.append(seconds)
            await asyncio.sleep(0)

    find, fails = shop.store.payments, True

    async def failing(*arguments: object) -> object:
        if fails:
            raise Unavailable("The disk is full.")
        return await find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(reconciler, "asyncio", Pauses())
    monkeypatch.setattr(shop.store, "payments", failing)
    looking = Reconciler(
        *(shop.store, shop.cashier.ledger, shop.log, shop.balances, shop.paper),
        on_round=count,
        on_decided=decided,
    )
    running = asyncio.ensure_future(looking.run(60.0))
    async with asyncio.timeout(20):
        await failed_twice.wait()
        fails = False
        await shop_was_paid.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert "payments cannot be looked up: The disk is full." in caplog.messages
    assert set(Pauses.taken) == {60.0}
    assert rounds <= len(Pauses.taken) + 1
    await looking.close()
    found = await shop.store.payment(payment.id)
    assert found is not None
    assert found.state == "credited"


async def test_a_look_that_fails_is_told_and_ends_no_other(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = await lost(shop, 2)
    find = shop.store.payment

    async def failing(payment_id: str) -> Payment | None:
        if payment_id == first.id:
            raise Unavailable("The disk is full.")
        return await find(payment_id)

    with monkeypatch.context() as patched:
        patched.setattr(shop.store, "payment", failing)
        with pytest.raises(Unavailable, match="disk is full"):
            await shop.reconciler.reconcile()
        await shop.reconciler.close()
    await shop.reconciler.reconcile()
    assert {payment.state for payment in await shop.payments()} == {"credited"}
    assert shop.balances.balance("tenant_1") == 2 * PRICE
    assert {second.id, first.id} == {receipt.payment for receipt in await shop.receipts()}


async def test_looks_end_with_the_gateway(shop: Shop) -> None:
    await lost(shop, 2)
    looking = asyncio.Event()

    class Slow(Deaf):
        async def outcome(self, payment: Payment) -> Settlement:
            looking.set()
            await asyncio.Event().wait()
            raise AssertionError

    slow = Reconciler(shop.store, shop.cashier.ledger, shop.log, shop.balances, Slow())
    waiting = asyncio.ensure_future(slow.reconcile())
    async with asyncio.timeout(20):
        await looking.wait()
        await slow.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert not slow._looks


async def test_what_a_dead_process_left_is_brought_as_far_as_receipts_tell(shop: Shop) -> None:
    """One that was claimed, one whose settling was under way, one that settled with its receipt in the log alone."""
    ledger = shop.cashier.ledger
    reserved, settling, settled = [await claimed(shop, number) for number in range(3)]
    await ledger.settling(settling)
    settled = await ledger.settling(settled)
    done = await ledger.settled(settled, Settlement("settled", "0x" + settled.key))
    append_credit(shop.log, "tenant_1", credited_nano_usd=done.value_nano_usd, payment=done)
    unknown = await shop.reconciler.recover()
    assert [(payment.id, payment.state, payment.reason) for payment in unknown] == [
        (settling.id, "unknown", "the gateway stopped while the payment settled")
    ]
    assert await shop.store.payment(reserved.id) is None, "no facilitator was given it"
    found = await shop.store.payment(settled.id)
    assert found is not None
    assert found.state == "credited"
    assert len(await shop.receipts()) == 1, "its receipt was there, though not in the store yet"
    assert shop.balances.balance("tenant_1") == 0


@pytest.mark.parametrize(
    ("finish", "ends_as", "credited"),
    [
        ("complete", "delivered", 0),
        ("upstream_cut", "credited", 0),
        ("upstream_error", "credited", 0),
        ("", "credited", PRICE),
    ],
)
async def test_a_payment_that_settled_ends_as_its_receipt_tells(
    shop: Shop, finish: Any, ends_as: str, credited: int
) -> None:
    """Without a receipt it gets one, and its credit."""
    ledger = shop.cashier.ledger
    payment = await ledger.settling(await claimed(shop, 1))
    payment = await ledger.settled(payment, Settlement("settled", "0x" + payment.key))
    if finish:
        tseq, tprev = shop.log.link("tenant_1")
        members = {"id": payment.receipt_id, "created_us": payment.created_us, "v": 4, **payment_members(payment)}
        receipt = make_receipt(tseq, tprev=tprev, finish=finish, credited_nano_usd=PRICE, charged_nano_usd=1, **members)
        shop.log.append(receipt, bytes(32))
    [found] = await shop.reconciler.reconcile()
    assert (found.state, shop.balances.balance("tenant_1")) == (ends_as, credited)
    assert len(await shop.receipts()) == 1


async def test_a_claim_that_no_request_has_any_more_is_released(shop: Shop) -> None:
    payment = await claimed(shop, 1)
    assert [one.id for one in await shop.reconciler.reconcile()] == [payment.id]
    assert await shop.payments() == []


async def test_of_several_processes_only_what_no_other_ones_request_has_is_looked_at(shop: Shop) -> None:
    first, second = await lost(shop, 2)

    async def are_free(payments: object) -> list[Payment]:
        return [second]

    looking = Reconciler(*(shop.store, shop.cashier.ledger, shop.log, shop.balances, shop.paper), are_free=are_free)
    assert [payment.id for payment in await looking.reconcile()] == [second.id]
    states = {payment.id: payment.state for payment in await shop.payments()}
    assert states == {first.id: "unknown", second.id: "credited"}
