"""When a payment is settled: with its answer in hand, or before it is void, or before the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

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
from trustgate.errors import ChainError, PaymentRequired, Unavailable
from trustgate.payment.cashier import Cashier
from trustgate.payment.credit import append_credit
from trustgate.payment.interfaces import Settlement, VerifyResult
from trustgate.payment.order import Order
from trustgate.payment.reconciler import Reconciler
from trustgate.payment.sale import Sale
from trustgate.payment.x402_wire import Presented, requirements
from trustgate.types import Payment


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = await Shop.open(tmp_path / "home")
    yield shop
    await shop.check_books()
    await shop.close()


def solana_order(paying: Presented) -> Order:
    return order(PRICE, paying=paying, terms=terms(offers=(SOLANA_OFFER,)))


async def test_a_payment_is_settled_before_it_is_void_and_credited_where_no_answer_follows(shop: Shop) -> None:
    settled = asyncio.Event()

    async def after_move() -> None:
        settled.set()

    shop.paper.after_move = after_move
    shop.cashier.settle_within_s = 0.05
    paying = signed(AMOUNT, offer=SOLANA_OFFER)
    admitted = await shop.cashier.admit(solana_order(paying))
    assert isinstance(admitted, Sale)
    async with admitted, asyncio.timeout(10):
        # The upstream works for longer than the payment lives, and then fails.
        await settled.wait()
    await shop.cashier.close()
    [payment] = await shop.payments()
    assert payment.state == "credited"
    assert shop.balances.balance("tenant_1") == PRICE
    # The same payment buys the answer after all.
    assert await shop.serve(solana_order(paying), cost=1) == b"answer"


async def test_a_request_that_ends_while_its_payment_settles_loses_none_of_it(shop: Shop) -> None:
    """Its receipt is written while the timer's settling is under way: the payment gets one of its own, once."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def before_move() -> None:
        started.set()
        await go_on.wait()

    shop.paper.before_move = before_move
    shop.cashier.settle_within_s = 0.0
    wanted = solana_order(signed(AMOUNT, offer=SOLANA_OFFER))
    admitted = await shop.cashier.admit(wanted)
    assert isinstance(admitted, Sale)
    async with admitted:
        async with asyncio.timeout(10):
            await started.wait()
        shop.receipt(wanted, admitted, 5)
        go_on.set()
    assert shop.balances.balance("tenant_1") == PRICE
    assert [receipt.credited_nano_usd for receipt in await shop.receipts()] == [0, PRICE]


async def test_a_payment_that_is_void_before_the_answer_is_refused_and_raises_nothing_by_itself(shop: Shop) -> None:
    shop.paper.plan = [FAILS]
    shop.cashier.settle_within_s = 0.0
    admitted = await shop.cashier.admit(solana_order(signed(AMOUNT, offer=SOLANA_OFFER)))
    assert isinstance(admitted, Sale)
    with pytest.raises(PaymentRequired, match="insufficient_funds"):
        async with admitted:
            await admitted.settle()
    assert shop.balances.balance("tenant_1") == 0


@pytest.mark.parametrize("network", ["solana", "eip155"])
def test_the_offer_names_the_deadline(network: str) -> None:
    offer = SOLANA_OFFER if network == "solana" else OFFER
    assert requirements(offer, AMOUNT)["maxTimeoutSeconds"] == (60 if network == "solana" else 300)


async def test_further_payments_of_one_wallet_are_settled_before_the_work(shop: Shop) -> None:
    orders = [order(PRICE, body=str(number).encode(), paying=signed(AMOUNT)) for number in range(5)]
    sales = [await shop.cashier.admit(each) for each in orders]
    upfront = [sale.is_upfront for sale in sales if isinstance(sale, Sale)]
    assert upfront == [False, False, True, True, True]
    # Once the first is settled, the next may wait again.
    first = sales[0]
    assert isinstance(first, Sale)
    async with first:
        await first.settle()
        shop.receipt(orders[0], first, 1)
    again = await shop.cashier.admit(order(PRICE, body=b"again", paying=signed(AMOUNT)))
    assert isinstance(again, Sale) and not again.is_upfront
    for sale in (*sales[1:], again):
        assert isinstance(sale, Sale)
        async with sale:
            pass


async def test_a_wallet_is_one_however_its_address_is_spelled(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A facilitator repeats the address as the client wrote it."""
    spelled = iter(["0x" + "ab" * 20, "0x" + "AB" * 20, "0x" + "aB" * 20])

    async def verify(_: Payment) -> VerifyResult:
        return VerifyResult(True, "", next(spelled))

    monkeypatch.setattr(shop.paper, "verify", verify)
    orders = [order(PRICE, body=str(number).encode(), paying=signed(AMOUNT)) for number in range(3)]
    sales = [await shop.cashier.admit(each) for each in orders]
    assert [sale.is_upfront for sale in sales if isinstance(sale, Sale)] == [False, False, True]
    for sale in sales:
        assert isinstance(sale, Sale)
        async with sale:
            pass


async def test_an_upfront_offer_says_so_and_is_settled_before_the_work(shop: Shop) -> None:
    assert requirements(UPFRONT, AMOUNT)["extra"]["paymentFlow"] == "upfront"
    admitted = await shop.cashier.admit(
        order(PRICE, paying=signed(AMOUNT, offer=UPFRONT), terms=terms(offers=(UPFRONT,)))
    )
    assert isinstance(admitted, Sale) and admitted.is_upfront
    async with admitted:
        pass


@pytest.mark.parametrize(("reason", "doubts"), [("fee_payer_not_managed_by_facilitator", 1), ("insufficient_funds", 0)])
async def test_a_payment_refused_for_its_fee_payer_puts_the_offer_in_doubt(
    shop: Shop, reason: str, doubts: int
) -> None:
    heard: list[None] = []
    cashier = Cashier(
        shop.cashier.ledger,
        shop.balances,
        shop.log,
        shop.paper,
        public_url="http://127.0.0.1:4010",
        on_doubt=lambda: heard.append(None),
    )
    shop.paper.refusal = reason
    with pytest.raises(PaymentRequired, match=reason):
        await cashier.admit(order(PRICE, paying=signed(AMOUNT)))
    await cashier.close()
    assert len(heard) == doubts


async def test_a_crash_after_a_failed_request_was_paid_for_leaves_its_payment_credited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its receipt is there and says that it failed; the ledger's row had not followed yet."""
    shop = await Shop.open(tmp_path / "home")
    paying = signed(AMOUNT, offer=UPFRONT)
    chosen = terms(offers=(UPFRONT,))
    monkeypatch.setattr(shop.cashier, "behind", lambda work: work.close())
    with pytest.raises(ConnectionError):
        await shop.serve(order(PRICE, paying=paying, terms=chosen), cost=1, dies="before")
    assert [payment.state for payment in await shop.payments()] == ["settled"]
    await shop.log.flush()
    await shop.abandon()

    again = await Shop.open(tmp_path / "home")
    assert [payment.state for payment in await again.payments()] == ["credited"]
    assert await again.serve(order(PRICE, paying=paying, terms=chosen), cost=1) == b"answer"
    await again.check_books()
    await again.close()


async def test_twelve_prepaid_requests_at_once_overdraw_by_one_overshoot_at_most(shop: Shop) -> None:
    """The upstream keeps to no bound: each uses three times its worst case. All are served, one debt is made."""
    await shop.serve(order(PRICE, paying=signed(AMOUNT)), cost=0)
    shop.balances.change("tenant_1", 11 * PRICE)
    append_credit(shop.log, "tenant_1", credited_nano_usd=11 * PRICE)
    orders = [order(PRICE, body=str(number).encode()) for number in range(12)]
    sales = [await shop.cashier.admit(each) for each in orders]
    for each, sale in zip(orders, sales, strict=True):
        assert isinstance(sale, Sale)
        async with sale:
            await sale.settle()
            shop.receipt(each, sale, 3 * PRICE)
    assert shop.balances.balance("tenant_1") == -2 * PRICE
    charged = sum(receipt.charged_nano_usd for receipt in await shop.receipts())
    assert charged == 14 * PRICE, "what receipts say is what was taken"
    shop.paper.path.write_text(shop.paper.path.read_text() + f"operator tenant_1 {11 * PRICE}\n")


class Deaf:
    """A network that no node can be asked about, and a facilitator that can be asked to settle again."""

    def __init__(self, *answers: Settlement) -> None:
        self.answers = list(answers)

    async def outcome(self, payment: Payment) -> Settlement:
        raise ChainError("No RPC node is known for the network.")

    async def close(self) -> None: ...

    async def settle_again(self, payment: Payment) -> Settlement:
        return self.answers.pop(0)


@pytest.mark.parametrize("says", ["settled", "failed", "unknown"])
async def test_where_no_node_can_tell_the_facilitator_is_asked_again_and_only_a_settlement_is_believed(
    shop: Shop, says: Literal["settled", "failed", "unknown"]
) -> None:
    shop.paper.plan = [LOSES_ANSWER]
    wanted = order(PRICE, paying=signed(AMOUNT))
    with pytest.raises(Unavailable):
        await shop.serve(wanted, cost=1)
    [payment] = await shop.payments()
    network = Deaf(Settlement(says, "0x" + payment.key if says == "settled" else "", reason="insufficient_funds"))
    reconciler = Reconciler(
        shop.store,
        shop.cashier.ledger,
        shop.log,
        shop.balances,
        network,
        on_decided=shop.cashier.decided,
        settle_again=network.settle_again,
    )
    await reconciler.reconcile()
    # At once it is not asked a third time.
    await reconciler.reconcile()
    assert not network.answers
    [payment] = await shop.payments()
    if says == "settled":
        assert payment.state == "credited"
        assert shop.balances.balance("tenant_1") == PRICE
    else:
        # Its money did move: a refusal of the second time says nothing of the first.
        assert payment.state == "unknown"
        assert "No RPC node" in reconciler.problems[payment.id]
