"""What a request owes and how it is paid: never served unpaid, never charged twice, nothing lost."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import PATIENCE_S
from tests.support.shop import AMOUNT, FAILS, LOSES_ANSWER, LOSES_REQUEST, OFFER, PRICE, Shop, order, signed, terms
from trustgate.errors import Conflict, PaymentRequired, Unavailable
from trustgate.payment.interfaces import Settlement
from trustgate.payment.order import Order
from trustgate.payment.sale import Sale
from trustgate.payment.x402_wire import Presented
from trustgate.types import Payment


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = await Shop.open(tmp_path / "home")
    yield shop
    await shop.check_books()
    await shop.close()


async def reopened(shop: Shop, tmp_path: Path) -> Shop:
    """A crash: nothing is said to anybody, and another process takes the home over."""
    await shop.abandon()
    return await Shop.open(tmp_path / "home")


# the challenge


async def test_a_request_that_pays_nothing_is_told_what_would_do(shop: Shop) -> None:
    with pytest.raises(PaymentRequired) as refused:
        await shop.cashier.admit(order(PRICE))

    required = json.loads(base64.b64decode(refused.value.headers["payment-required"]))
    assert required["accepts"][0]["amount"] == str(AMOUNT)
    assert required["accepts"][0]["payTo"] == OFFER.pay_to
    assert "payment-identifier" in required["extensions"]
    assert refused.value.beside["accepts"][0]["maxAmountRequired"] == str(AMOUNT)
    assert refused.value.beside["x402Version"] == 1


async def test_a_prepaid_tenant_is_asked_for_a_top_up_or_the_worst_case_if_that_is_more(shop: Shop) -> None:
    for top_up, price, asked in ((50 * PRICE, PRICE, 50 * AMOUNT), (PRICE, 3 * PRICE, 3 * AMOUNT)):
        with pytest.raises(PaymentRequired) as refused:
            await shop.cashier.admit(order(price, terms=terms("prepaid", top_up_nano_usd=top_up)))
        assert refused.value.beside["accepts"][0]["maxAmountRequired"] == str(asked)


async def test_a_price_is_rounded_up_to_the_next_atomic_unit(shop: Shop) -> None:
    with pytest.raises(PaymentRequired) as refused:
        await shop.cashier.admit(order(1_001))
    assert refused.value.beside["accepts"][0]["maxAmountRequired"] == "2"


# paying


async def test_what_a_request_does_not_use_is_drawn_on_by_the_next(shop: Shop) -> None:
    await shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=PRICE // 4)
    assert shop.balances.balance("tenant_1") == PRICE - PRICE // 4

    await shop.serve(order(PRICE // 2, body=b"next"), cost=PRICE // 2)

    assert shop.balances.balance("tenant_1") == PRICE // 4
    [first, second] = await shop.receipts()
    assert (first.credited_nano_usd, first.charged_nano_usd) == (PRICE, PRICE // 4)
    assert first.payment_amount == str(AMOUNT) and first.payment_payer == "0xpayer"
    assert (second.credited_nano_usd, second.charged_nano_usd, second.payment) == (0, PRICE // 2, "")


async def test_nothing_is_charged_when_the_upstream_fails_before_the_first_byte(shop: Shop) -> None:
    paying = signed(AMOUNT)
    with pytest.raises(ConnectionError):
        await shop.serve(order(PRICE, paying=paying), cost=1, dies="before")
    assert not shop.paper.moved()
    await shop.cashier.close()
    assert await shop.payments() == []

    # The same payment is as good as new.
    assert await shop.serve(order(PRICE, paying=paying), cost=1) == b"answer"


async def test_what_settled_and_was_not_served_is_credited(shop: Shop) -> None:
    with pytest.raises(ConnectionError):
        await shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=1, dies="after")
    assert shop.balances.balance("tenant_1") == PRICE


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("payTo", "0x" + "dd" * 20),
        ("asset", "0x" + "ee" * 20),
        ("amount", str(AMOUNT - 1)),
        ("amount", str(AMOUNT + 1)),
    ],
)
async def test_a_payment_on_other_terms_is_refused_before_anybody_is_asked(shop: Shop, member: str, value: str) -> None:
    paying = signed(AMOUNT)
    assert paying.accepted is not None
    with pytest.raises(PaymentRequired, match="not the required one"):
        await shop.cashier.admit(order(PRICE, paying=paying._replace(accepted={**paying.accepted, member: value})))
    assert shop.paper.verified == 0


async def test_a_cheaper_quote_does_not_pay_a_dearer_request(shop: Shop) -> None:
    with pytest.raises(PaymentRequired):
        await shop.cashier.admit(order(2 * PRICE, paying=signed(AMOUNT)))


async def test_a_payment_on_a_network_that_is_not_offered_is_refused(shop: Shop) -> None:
    with pytest.raises(PaymentRequired, match="no offer has that") as refused:
        await shop.cashier.admit(order(PRICE, paying=signed(AMOUNT)._replace(network="eip155:1")))
    assert refused.value.code == "invalid_network"


async def test_what_the_facilitator_refuses_is_a_new_402_with_its_reason(shop: Shop) -> None:
    shop.paper.refusal = "insufficient_funds"
    with pytest.raises(PaymentRequired) as refused:
        await shop.cashier.admit(order(PRICE, paying=signed(AMOUNT)))
    assert refused.value.code == "insufficient_funds"
    assert "payment-required" in refused.value.headers
    await shop.cashier.close()
    assert await shop.payments() == []


async def test_a_payment_that_fails_to_settle_buys_nothing(shop: Shop) -> None:
    shop.paper.plan = [FAILS]
    paying = signed(AMOUNT)
    with pytest.raises(PaymentRequired) as refused:
        await shop.serve(order(PRICE, paying=paying), cost=1)
    assert refused.value.code == "insufficient_funds"
    assert shop.balances.balance("tenant_1") == 0

    with pytest.raises(PaymentRequired):
        await shop.serve(order(PRICE, paying=paying), cost=1)
    assert not shop.paper.moved()


# the same payment again


async def test_a_retry_with_the_same_payment_gets_the_answer_that_it_bought(shop: Shop) -> None:
    paying = signed(AMOUNT)
    assert await shop.serve(order(PRICE, paying=paying), cost=1) == b"answer"
    assert await shop.serve(order(PRICE, paying=paying), cost=1) == b"again: answer"
    assert len(await shop.receipts()) == 1


async def test_a_payment_counts_for_one_request(shop: Shop) -> None:
    paying = signed(AMOUNT)
    await shop.serve(order(PRICE, paying=paying), cost=1)
    with pytest.raises(Conflict, match="another request"):
        await shop.serve(order(PRICE, body=b"other", paying=paying), cost=1)


async def test_a_payment_counts_for_one_tenant(shop: Shop) -> None:
    paying = signed(AMOUNT)
    await shop.serve(order(PRICE, paying=paying), cost=1)
    with pytest.raises(PaymentRequired, match="has been used"):
        await shop.serve(order(PRICE, paying=paying, tenant_id="tenant_2"), cost=1)


async def test_eight_at_once_with_one_payment_settle_once_and_all_get_its_answer(shop: Shop) -> None:
    paying = signed(AMOUNT)
    answers = await asyncio.gather(*(shop.serve(order(PRICE, paying=paying), cost=7) for _ in range(8)))
    assert sorted(answers) == [b"again: answer"] * 7 + [b"answer"]
    assert sum(shop.paper.moved().values()) == 1
    assert shop.balances.balance("tenant_1") == PRICE - 7


async def test_an_identifier_gets_the_stored_answer_whatever_payment_comes_with_it(shop: Shop) -> None:
    name = "order-1234567890-abc"
    await shop.serve(order(PRICE, paying=signed(AMOUNT, identifier=name)), cost=1)
    again = await shop.serve(order(PRICE, paying=signed(AMOUNT, identifier=name)), cost=1)
    assert again == b"again: answer"
    assert sum(shop.paper.moved().values()) == 1

    with pytest.raises(Conflict, match="payment identifier"):
        await shop.serve(order(PRICE, body=b"other", paying=signed(AMOUNT, identifier=name)), cost=1)
    # Another tenant may use the same words.
    await shop.serve(order(PRICE, paying=signed(AMOUNT, identifier=name), tenant_id="tenant_2"), cost=1)


async def test_an_identifier_in_parallel_settles_once(shop: Shop) -> None:
    name = "order-1234567890-abc"
    answers = await asyncio.gather(
        *(shop.serve(order(PRICE, paying=signed(AMOUNT, identifier=name)), cost=1) for _ in range(6))
    )
    assert answers.count(b"answer") == 1
    assert sum(shop.paper.moved().values()) == 1


async def test_a_failed_payment_frees_its_identifier(shop: Shop) -> None:
    name = "order-1234567890-abc"
    shop.paper.plan = [FAILS]
    with pytest.raises(PaymentRequired):
        await shop.serve(order(PRICE, paying=signed(AMOUNT, identifier=name)), cost=1)
    assert await shop.serve(order(PRICE, paying=signed(AMOUNT, identifier=name)), cost=1) == b"answer"


async def test_after_a_restart_a_used_payment_is_used(shop: Shop, tmp_path: Path) -> None:
    paying = signed(AMOUNT)
    await shop.serve(order(PRICE, paying=paying), cost=1)
    await shop.cashier.close()
    await shop.abandon()
    again = await Shop.open(tmp_path / "home")
    with pytest.raises(Conflict, match="no longer kept"):
        await again.serve(order(PRICE, paying=paying), cost=1)
    await again.check_books()
    await again.close()
    shop.__dict__.update((await Shop.open(tmp_path / "home")).__dict__)


# the outcome is not known


@pytest.mark.parametrize("fault", [LOSES_ANSWER, LOSES_REQUEST])
async def test_while_nobody_knows_nothing_is_served_and_no_second_payment_taken(shop: Shop, fault: str) -> None:
    shop.paper.plan = [fault]
    shop.paper.unreachable = True
    paying = signed(AMOUNT)
    for attempt in (paying, paying, None, signed(AMOUNT)):
        with pytest.raises(Unavailable) as refused:
            await shop.serve(order(PRICE, paying=attempt), cost=1)
        assert refused.value.code == "payment_pending"
    # Another request is another matter.
    assert await shop.serve(order(PRICE, body=b"other", paying=signed(AMOUNT)), cost=PRICE) == b"answer"

    await shop.reconciler.reconcile()
    assert [payment.state for payment in await shop.payments()].count("unknown") == 1
    shop.paper.unreachable = False
    await shop.reconciler.reconcile()

    if fault == LOSES_ANSWER:
        # The money is there, and so a retry, with the payment or without one, is served from it.
        assert await shop.serve(order(PRICE, paying=paying), cost=PRICE) == b"answer"
        assert shop.balances.balance("tenant_1") == 0
    else:
        with pytest.raises(PaymentRequired):
            await shop.serve(order(PRICE, paying=paying), cost=1)
        assert await shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=1) == b"answer"


# interruptions


async def test_a_client_that_leaves_while_it_pays_gets_its_answer_later(shop: Shop) -> None:
    paying = signed(AMOUNT)
    paying_now, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        paying_now.set()
        await go_on.wait()

    shop.paper.before_move = wait
    request = asyncio.ensure_future(shop.serve(order(PRICE, paying=paying), cost=5))
    await paying_now.wait()
    request.cancel()
    await asyncio.sleep(0)
    assert not request.done(), "it sees the settling to its end"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await request

    assert await shop.serve(order(PRICE, paying=paying), cost=5) == b"again: answer"
    assert shop.balances.balance("tenant_1") == PRICE - 5


@pytest.mark.parametrize("pays", [True, False])
async def test_a_retry_with_a_fresh_payment_or_none_gets_what_was_paid_for(shop: Shop, pays: bool) -> None:
    paying_now, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        paying_now.set()
        await go_on.wait()

    shop.paper.before_move = wait
    request = asyncio.ensure_future(shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=5))
    await paying_now.wait()
    request.cancel()
    await asyncio.sleep(0)
    retry = asyncio.ensure_future(shop.serve(order(PRICE, paying=signed(AMOUNT) if pays else None), cost=5))
    await asyncio.sleep(0)
    go_on.set()

    assert await retry == b"again: answer"
    with pytest.raises(asyncio.CancelledError):
        await request
    assert sum(shop.paper.moved().values()) == 1
    # Once: who asks the same again buys it again.
    assert await shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=5) == b"answer"


async def test_two_who_ask_the_same_at_once_each_buy_it(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=1) for _ in range(5)))
    assert answers == [b"answer"] * 5
    assert sum(shop.paper.moved().values()) == 5


async def test_a_client_that_leaves_while_it_is_verified_has_paid_nothing(shop: Shop) -> None:
    verifying = asyncio.Event()

    async def wait() -> None:
        verifying.set()
        await asyncio.Event().wait()

    shop.paper.before_verify = wait
    paying = signed(AMOUNT)
    request = asyncio.ensure_future(shop.serve(order(PRICE, paying=paying), cost=5))
    await verifying.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await shop.cashier.close()
    assert await shop.payments() == []


# the balance


async def test_concurrent_requests_cannot_spend_the_same_money(shop: Shop) -> None:
    await shop.serve(order(10 * PRICE, paying=signed(10 * AMOUNT)), cost=0)
    sales = []
    for number in range(20):
        try:
            sale = await shop.cashier.admit(order(PRICE, body=b"%d" % number))
        except PaymentRequired:
            continue
        assert isinstance(sale, Sale)
        sales.append((sale, order(PRICE)))
    assert len(sales) == 10
    for sale, asked in sales:
        async with sale:
            shop.receipt(asked, sale, PRICE // 2)
    assert shop.balances.balance("tenant_1") == 5 * PRICE


async def test_what_is_not_closed_gives_its_hold_back(shop: Shop) -> None:
    await shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=0)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await shop.serve(order(PRICE), cost=PRICE, dies="before")
    assert shop.balances.held("tenant_1") == 0
    assert shop.balances.balance("tenant_1") == PRICE


# debts


async def overdrawn(shop: Shop, debt: int) -> None:
    """The tenant's last request used more than was held for it."""
    await shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=PRICE + debt)
    assert shop.balances.balance("tenant_1") == -debt


async def asked_for(shop: Shop, wanted: Order) -> int:
    """Atomic units that the challenge asks for."""
    with pytest.raises(PaymentRequired) as refused:
        await shop.cashier.admit(wanted)
    return int(refused.value.beside["accepts"][0]["maxAmountRequired"])


@pytest.mark.parametrize(
    ("price", "wanted", "asked"),
    [
        (PRICE, {}, 3 * AMOUNT),
        (PRICE, {"terms": terms("prepaid", top_up_nano_usd=PRICE)}, 3 * AMOUNT),
        (PRICE, {"terms": terms("prepaid", top_up_nano_usd=50 * PRICE)}, 50 * AMOUNT),
        (0, {}, 2 * AMOUNT),
    ],
)
async def test_what_is_asked_for_covers_the_debt(shop: Shop, price: int, wanted: dict[str, Any], asked: int) -> None:
    await overdrawn(shop, 2 * PRICE)
    assert await asked_for(shop, order(price, body=b"next", **wanted)) == asked
    await shop.serve(order(price, body=b"next", paying=signed(asked), **wanted), cost=price)
    assert shop.balances.balance("tenant_1") == (asked * 1_000) - 2 * PRICE - price


async def test_overuse_is_paid_for_by_the_next_request_again_and_again(shop: Shop) -> None:
    """Each request uses five times what it is asked for: the tenant never owes more than one of them."""
    for number in range(4):
        body = str(number).encode()
        units = await asked_for(shop, order(PRICE, body=body))
        await shop.serve(order(PRICE, body=body, paying=signed(units)), cost=5 * PRICE)
        assert shop.balances.balance("tenant_1") == -4 * PRICE


async def test_what_costs_nothing_anywhere_is_not_refused_for_a_debt(shop: Shop) -> None:
    await overdrawn(shop, PRICE)
    assert await shop.serve(order(0, body=b"list", is_sold=False), cost=0) == b"answer"
    with pytest.raises(PaymentRequired):
        await shop.cashier.admit(order(0, body=b"seconds of audio"))


# one payment, one answer


async def credited(shop: Shop, paying: Presented) -> None:
    """The payment settled, and its request was not served."""
    shop.paper.plan = [LOSES_ANSWER]
    with pytest.raises(Unavailable):
        await shop.serve(order(PRICE, paying=paying), cost=PRICE)
    await shop.reconciler.reconcile()
    [payment] = await shop.payments()
    assert (payment.state, shop.balances.balance("tenant_1")) == ("credited", PRICE)


async def test_a_credited_payment_buys_one_answer(shop: Shop) -> None:
    """Other credit is there: it must not pay for the same answer again."""
    paying = signed(AMOUNT)
    await credited(shop, paying)
    await shop.serve(order(PRICE, body=b"other", paying=signed(AMOUNT)), cost=0)
    answers = [await shop.serve(order(PRICE, paying=paying), cost=PRICE) for _ in range(4)]
    assert answers == [b"answer", *[b"again: answer"] * 3]
    assert shop.balances.balance("tenant_1") == PRICE
    assert [receipt.charged_nano_usd for receipt in await shop.receipts()] == [0, 0, PRICE]


async def test_a_credited_payment_sent_eight_times_at_once_buys_one_answer(shop: Shop) -> None:
    paying = signed(AMOUNT)
    await credited(shop, paying)
    answers = await asyncio.gather(*(shop.serve(order(PRICE, paying=paying), cost=PRICE) for _ in range(8)))
    assert sorted(answers) == [*[b"again: answer"] * 7, b"answer"]
    assert shop.balances.balance("tenant_1") == 0


async def test_a_credited_payment_stays_spent_after_a_restart(shop: Shop, tmp_path: Path) -> None:
    paying = signed(AMOUNT)
    await credited(shop, paying)
    await shop.serve(order(PRICE, paying=paying), cost=PRICE // 2)
    again = await reopened(shop, tmp_path)
    with pytest.raises(Conflict, match="used") as refused:
        await again.serve(order(PRICE, paying=paying), cost=PRICE)
    assert refused.value.headers["x-should-retry"] == "false"
    assert again.balances.balance("tenant_1") == PRICE // 2
    await again.close()
    shop.__dict__.update((await Shop.open(tmp_path / "home")).__dict__)


async def test_a_credited_payment_whose_retry_is_not_served_is_as_good_as_before(shop: Shop) -> None:
    paying = signed(AMOUNT)
    await credited(shop, paying)
    with pytest.raises(ConnectionError):
        await shop.serve(order(PRICE, paying=paying), cost=PRICE, dies="before")
    await shop.cashier.close()
    assert shop.balances.balance("tenant_1") == PRICE
    assert await shop.serve(order(PRICE, paying=paying), cost=PRICE) == b"answer"


async def test_credit_that_other_requests_have_spent_pays_for_nothing(shop: Shop) -> None:
    paying = signed(AMOUNT)
    await credited(shop, paying)
    await shop.serve(order(PRICE, body=b"other"), cost=PRICE)
    for _ in range(2):
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(PaymentRequired, match="other requests have spent its credit"):
                await shop.serve(order(PRICE, paying=paying), cost=PRICE)


async def test_a_pending_payment_is_named(shop: Shop) -> None:
    shop.paper.plan = [LOSES_ANSWER]
    paying = signed(AMOUNT)
    for attempt in (paying, paying, None):
        with pytest.raises(Unavailable) as pending:
            await shop.serve(order(PRICE, paying=attempt), cost=PRICE)
        [payment] = await shop.payments()
        for named in (payment.id, payment.transaction, payment.offer.network, f"GET /v1/payments/{payment.id}"):
            assert named in pending.value.message


# looking at payments of unknown outcome


async def test_a_look_does_not_wait_for_another_and_several_run_at_once(shop: Shop) -> None:
    for number in range(4):
        shop.paper.plan = [LOSES_ANSWER]
        with pytest.raises(Unavailable):
            await shop.serve(order(PRICE, body=str(number).encode(), paying=signed(AMOUNT)), cost=PRICE)
    looking, gate = asyncio.Barrier(5), asyncio.Event()
    look_up = shop.paper.outcome

    async def slow(payment: Payment) -> Settlement:
        await looking.wait()
        await gate.wait()
        return await look_up(payment)

    shop.paper.outcome = slow  # type: ignore[method-assign]
    background = asyncio.ensure_future(shop.reconciler.reconcile())
    await asyncio.wait_for(looking.wait(), 10)
    command = asyncio.ensure_future(shop.reconciler.reconcile())
    gate.set()
    found = await asyncio.wait_for(asyncio.gather(background, command), 10)
    assert [[payment.state for payment in each] for each in found] == [["credited"] * 4] * 2


@pytest.mark.parametrize("transaction", ["0x" + "ab" * 32, None])
async def test_an_operator_resolves_what_no_node_tells(shop: Shop, transaction: str | None) -> None:
    shop.paper.plan = [LOSES_ANSWER if transaction else LOSES_REQUEST]
    with pytest.raises(Unavailable):
        await shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=PRICE)
    [payment] = await shop.payments()
    resolved = await shop.reconciler.resolve(payment, transaction)
    assert resolved.state == ("credited" if transaction else "failed")
    assert resolved.reason == "resolved by the operator"
    assert shop.balances.balance("tenant_1") == (PRICE if transaction else 0)
    # Its request is not held up any longer.
    with pytest.raises(PaymentRequired) if transaction is None else contextlib.nullcontext():
        await shop.serve(order(PRICE), cost=PRICE)
