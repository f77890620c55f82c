"""What a request owes where it is least, where it changes meanwhile, and where its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.shop import AMOUNT, FAILS, LOSES_ANSWER, PRICE, UPFRONT, Shop, order, signed, terms
from trustgate.errors import Conflict, PaymentRequired, Unavailable
from trustgate.payment import cashier
from trustgate.payment.cashier import Cashier
from trustgate.payment.sale import Sale
from trustgate.payment.x402_wire import Presented
from trustgate.types import Payment


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = await Shop.open(tmp_path / "home")
    yield shop
    await shop.check_books()
    await shop.close()


@pytest.mark.parametrize("is_keyless", [False, True])
async def test_what_costs_a_billionth_of_a_dollar_is_paid_for(shop: Shop, is_keyless: bool) -> None:
    with pytest.raises(PaymentRequired):
        await shop.cashier.admit(order(1, is_keyless=is_keyless))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({}, "This request requires a payment of 0.01 USD; what it does not use is credited."),
        (
            {"terms": terms("prepaid", top_up_nano_usd=PRICE)},
            "The balance does not cover this request. Top up 0.01 USD: POST /v1/credits.",
        ),
        (
            {"is_keyless": True},
            "This request requires a payment of 0.01 USD. Without an API key no change is given.",
        ),
    ],
)
async def test_the_challenge_tells_how_it_is_paid(shop: Shop, wanted: dict[str, Any], told: str) -> None:
    with pytest.raises(PaymentRequired) as refused:
        await shop.cashier.admit(order(PRICE, **wanted))
    assert refused.value.message == told


async def test_the_least_debt_is_paid_before_what_its_use_may_cost(shop: Shop) -> None:
    await shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=PRICE + 1)
    assert shop.balances.balance("tenant_1") == -1
    with pytest.raises(PaymentRequired):
        await shop.cashier.admit(order(0, body=b"seconds of audio"))


async def test_who_has_no_network_to_pay_on_is_told_whom_to_ask(shop: Shop) -> None:
    parts = (shop.cashier.ledger, shop.balances, shop.log, shop.paper)
    cashier = Cashier(*parts, public_url="http://127.0.0.1:4010", contact="write to ops@example.com")
    for own, told in (("", "write to ops@example.com"), ("call 555", "call 555")):
        with pytest.raises(PaymentRequired, match=f"To get more credit: {told}$"):
            await cashier.admit(order(PRICE, terms=terms(offers=(), contact=own)))
    with pytest.raises(PaymentRequired, match="Ask the operator of this gateway for more credit"):
        await shop.cashier.admit(order(PRICE, terms=terms(offers=())))


async def test_a_payment_that_failed_is_refused_with_the_reason_again(shop: Shop) -> None:
    shop.paper.plan = [FAILS]
    paying = signed(AMOUNT)
    for _ in range(2):
        with pytest.raises(PaymentRequired, match=r"\(insufficient_funds\)"):
            await shop.serve(order(PRICE, paying=paying), cost=1)
    assert not shop.paper.moved()


async def lost_and_credited(shop: Shop, paying: Presented, **members: Any) -> None:
    """Its outcome was not seen, and it turned out that it was settled."""
    shop.paper.plan = [LOSES_ANSWER]
    with pytest.raises(Unavailable):
        await shop.serve(order(PRICE, paying=paying, **members), cost=PRICE)
    await shop.reconciler.reconcile()


async def test_without_a_key_a_credited_payment_buys_only_what_it_covers_by_now(shop: Shop) -> None:
    # As of version 1: it names no amount.
    paying = signed(AMOUNT)._replace(accepted=None)
    await lost_and_credited(shop, paying, is_keyless=True)
    with pytest.raises(PaymentRequired, match="it does not cover what this request costs now"):
        await shop.cashier.admit(order(PRICE + 1, paying=paying, is_keyless=True))
    assert await shop.serve(order(PRICE, paying=paying, is_keyless=True), cost=PRICE) == b"answer"


async def test_a_client_that_leaves_while_its_credit_is_spent_leaves_it_unspent(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    paying = signed(AMOUNT)
    await lost_and_credited(shop, paying)
    spending, go_on = asyncio.Event(), asyncio.Event()
    spend = shop.cashier.ledger.spend

    async def slow(payment: Payment, receipt_id: str) -> Payment:
        spending.set()
        await go_on.wait()
        return await spend(payment, receipt_id)

    with monkeypatch.context() as patched:
        patched.setattr(shop.cashier.ledger, "spend", slow)
        leaving = asyncio.ensure_future(shop.cashier.admit(order(PRICE, paying=paying)))
        async with asyncio.timeout(20):
            await spending.wait()
            leaving.cancel()
            await asyncio.sleep(0)
            assert not leaving.done(), "what is under way is brought to its end"
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await leaving
    await shop.cashier.close()
    assert (shop.balances.held("tenant_1"), shop.balances.balance("tenant_1")) == (0, PRICE)
    [payment] = await shop.payments()
    assert not shop.cashier.is_active(payment)
    assert await shop.serve(order(PRICE, paying=paying), cost=PRICE) == b"answer"


async def test_nothing_is_kept_of_payers_and_payments_whose_requests_have_ended(shop: Shop) -> None:
    for number in range(3):
        await shop.serve(order(PRICE, body=b"%d" % number, paying=signed(AMOUNT)), cost=1)
    await shop.cashier.close()
    kept = (shop.cashier._unsettled, shop.cashier._active, shop.cashier._undecided, shop.cashier._left)
    assert not any(kept)


async def test_an_upfront_payment_takes_no_place_of_those_that_wait(shop: Shop) -> None:
    """And one beyond those places is settled up front, whatever its offer has."""
    chosen = terms(offers=(UPFRONT,))
    upfront = [order(PRICE, body=b"u%d" % n, paying=signed(AMOUNT, offer=UPFRONT), terms=chosen) for n in range(3)]
    waiting = [order(PRICE, body=b"w%d" % n, paying=signed(AMOUNT)) for n in range(3)]
    found = []
    for wanted in (*upfront, *waiting):
        sale = await shop.cashier.admit(wanted)
        assert isinstance(sale, Sale)
        found.append(sale)
    assert [sale.is_upfront for sale in found] == [True, True, True, False, False, True]
    for sale in found:
        async with sale:
            pass


async def test_a_payment_that_waits_no_more_leaves_its_own_place_to_another(shop: Shop) -> None:
    async def admitted(number: int) -> Sale:
        sale = await shop.cashier.admit(order(PRICE, body=b"%d" % number, paying=signed(AMOUNT)))
        assert isinstance(sale, Sale)
        return sale

    first, second = await admitted(1), await admitted(2)
    async with first:
        pass
    third, fourth = await admitted(3), await admitted(4)
    assert [sale.is_upfront for sale in (first, second, third, fourth)] == [False, False, False, True]
    for sale in (second, third, fourth):
        async with sale:
            pass


async def test_what_is_free_is_served_while_more_is_held_than_there_is(shop: Shop) -> None:
    """A request that ran used more than was held for it."""
    shop.balances.change("tenant_1", PRICE)
    hold = shop.balances.hold("tenant_1", PRICE)
    assert hold is not None
    shop.balances.change("tenant_1", -1)
    sale = await shop.cashier.admit(order(0))
    assert isinstance(sale, Sale)
    async with sale:
        pass
    hold.settle(PRICE - 1)


async def test_an_answer_that_was_paid_for_outlives_the_process(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path / "home")
    wanted = order(PRICE, paying=signed(AMOUNT), answer_key=bytes(32))
    await shop.serve(wanted, cost=1)
    await shop.cashier.close()
    await shop.log.flush()
    await shop.abandon()
    again = await Shop.open(tmp_path / "home")
    assert await again.serve(wanted, cost=1) == b"again: answer"
    await again.check_books()
    await again.close()


async def test_a_payment_that_the_database_did_not_take_is_taken_later(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: Payment) -> Payment:
        raise Unavailable("The disk is full.")

    paying = signed(AMOUNT)
    with monkeypatch.context() as failing:
        failing.setattr(shop.cashier.ledger, "claim", refuse)
        with pytest.raises(Unavailable, match="disk is full"):
            await shop.cashier.admit(order(PRICE, paying=paying))
    assert shop.paper.verified == 0
    assert await shop.serve(order(PRICE, paying=paying), cost=PRICE) == b"answer"


async def test_what_was_used_for_another_request_is_not_worth_another_try(shop: Shop) -> None:
    paying = signed(AMOUNT)
    await shop.serve(order(PRICE, body=b"1", paying=paying), cost=PRICE)
    with pytest.raises(Conflict, match="used for another request") as refused:
        await shop.cashier.admit(order(PRICE, body=b"2", paying=paying))
    assert (refused.value.code, refused.value.headers["x-should-retry"]) == ("payment_already_used", "false")


async def test_what_is_behind_for_too_long_ends_with_the_gateway(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cashier, "_BEHIND_S", 0.0)
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    shop.cashier.behind(wait())
    async with asyncio.timeout(20):
        await began.wait()
        await shop.cashier.close()
    assert ended.is_set()
