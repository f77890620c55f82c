"""The ledger: of two that have one payment, the first that moves it on has it, and the other changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.shop import OFFER
from trustgate.errors import Unavailable
from trustgate.ids import new_id, now_us
from trustgate.payment.interfaces import Settlement
from trustgate.payment.ledger import Ledger
from trustgate.store import open_store
from trustgate.types import Payment


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    store = await open_store(tmp_path / "trustgate.duckdb")
    yield Ledger(store, lambda: "node_1")
    await store.close()


def payment(number: int) -> Payment:
    return Payment(
        id=new_id("pay"),
        key=f"{number:064x}",
        tenant_id="tenant_1",
        key_id="key_1",
        receipt_id=new_id("rcpt"),
        request_sha256="00" * 32,
        x402_version=2,
        offer=OFFER,
        amount="10",
        value_nano_usd=10_000,
        payload=b"{}",
        requirements=b"{}",
        created_us=now_us(),
        updated_us=now_us(),
    )


async def test_of_two_that_have_a_payment_one_settles_it(ledger: Ledger) -> None:
    first = await ledger.claim(payment(1))
    assert first.node == "node_1"
    assert await ledger.claim(payment(1)) == first, "it is the same payment"
    settling = await ledger.settling(first)
    with pytest.raises(Unavailable, match="Another request"):
        await ledger.settling(first)
    with pytest.raises(Unavailable, match="Another request"):
        await ledger.sending(first, "0xlate")
    sent = await ledger.sending(settling, "0xsent")
    assert sent.transaction == "0xsent"

    settled = await ledger.settled(sent, Settlement("settled", "", "0xpayer"))
    assert (settled.state, settled.transaction, settled.payer) == ("settled", "0xsent", "0xpayer")
    assert await ledger.settled(sent, Settlement("failed", "0xother", "", "expired")) == settled, "as it stands"
    assert await ledger.end(settled, "credited")
    assert not await ledger.end(settled, "delivered")


async def test_what_was_not_settled_is_as_new_and_a_credit_is_spent_while_there_is_one(ledger: Ledger) -> None:
    given_up = await ledger.claim(payment(1))
    await ledger.release(given_up)
    again = await ledger.claim(payment(1))
    assert again.id != given_up.id
    with pytest.raises(Unavailable, match="Another request"):
        await ledger.spend(again, "rcpt_1")
    settled = await ledger.settled(await ledger.settling(again), Settlement("settled", "0xsent", "0xpayer"))
    assert await ledger.end(settled, "credited")
    credited = await ledger.claim(payment(1))
    assert credited.state == "credited" and credited.spent_on == ""
    spent = await ledger.spend(credited, "rcpt_1")
    assert spent.spent_on == "rcpt_1" and (await ledger.claim(payment(1))).spent_on == "rcpt_1"
    assert (await ledger.spend(spent, "")).spent_on == ""
