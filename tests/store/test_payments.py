"""The payment verbs of a ``Store``: the claim is what keeps a payment from being used twice, so it is the contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import duckdb
import pytest
from msgspec.structs import replace

from tests.support.entries import make_entry
from tests.support.shop import OFFER
from trustgate.store import Balance, PaymentFilter, Store, open_store
from trustgate.types import Payment, PaymentState, PaymentTerms

FIRST_US = 1_770_000_000_000_000
#: The members of a receipt of version 2 without a payment.
PAID_NOTHING: dict[str, Any] = {"v": 2, "charged_nano_usd": 0, "credited_nano_usd": 0} | dict.fromkeys(
    (
        *("payment", "payment_network", "payment_transaction", "payment_asset", "payment_amount"),
        "payment_payer",
    ),
    "",
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path / "trustgate.duckdb")
    yield opened
    await opened.close()


def payment(number: int, **members: Any) -> Payment:
    defaults: dict[str, Any] = {
        "id": f"pay_{number:032x}",
        "key": f"{number:064x}",
        "tenant_id": "tenant_1",
        "key_id": "key_1",
        "receipt_id": f"rcpt_{number:032x}",
        "request_sha256": "ab" * 32,
        "x402_version": 2,
        "offer": OFFER,
        "amount": "1000000000000000000000000",
        "value_nano_usd": 2**53,
        "payload": b'{"x402Version": 2}',
        "requirements": b"\x00\xff",
        "created_us": FIRST_US + number,
        "updated_us": FIRST_US + number,
    }
    return Payment(**{**defaults, **members})


async def test_a_claim_keeps_every_member_across_a_restart(store: Store, tmp_path: Path) -> None:
    whole = payment(1, identifier="mine-0123456789abcdef", state="settled", transaction="0xé", payer="ü", reason="why")
    assert await store.claim_payment(whole) == whole
    await store.close()
    store = await open_store(tmp_path / "trustgate.duckdb")
    assert await store.payment(whole.id) == whole
    assert await store.claim_payment(payment(2, key=whole.key)) == whole, "its key is used for ever"
    await store.close()


async def test_of_many_claims_of_one_payment_one_holds(store: Store) -> None:
    claims = [payment(number, key="ee" * 32) for number in range(30)]
    standing = await asyncio.gather(*map(store.claim_payment, claims))
    assert len({each.id for each in standing}) == 1
    assert len(await store.payments(PaymentFilter())) == 1


async def test_of_many_claims_of_one_identifier_one_holds(store: Store) -> None:
    claims = [payment(number, identifier="mine-0123456789abcdef") for number in range(30)]
    standing = await asyncio.gather(*map(store.claim_payment, claims))
    assert len({each.id for each in standing}) == 1


async def test_an_identifier_is_its_tenants_own(store: Store) -> None:
    first = payment(1, identifier="mine-0123456789abcdef")
    other = payment(2, identifier="mine-0123456789abcdef", tenant_id="tenant_2")
    unnamed = [payment(3), payment(4)]
    for each in (first, other, *unnamed):
        assert await store.claim_payment(each) == each


async def test_a_failed_payment_frees_its_identifier_and_not_its_key(store: Store) -> None:
    failed = payment(1, identifier="mine-0123456789abcdef")
    await store.claim_payment(failed)
    assert await store.move_payment(replace(failed, state="failed"), before="reserved")
    fresh = payment(2, identifier="mine-0123456789abcdef")
    assert await store.claim_payment(fresh) == fresh
    again = await store.claim_payment(payment(3, key=failed.key))
    assert (again.id, again.state) == (failed.id, "failed")


async def test_a_payments_own_key_comes_before_its_identifier(store: Store) -> None:
    named = payment(1, identifier="mine-0123456789abcdef")
    unnamed = payment(2)
    await store.claim_payment(named)
    await store.claim_payment(unnamed)
    both = payment(3, key=unnamed.key, identifier=named.identifier)
    assert await store.claim_payment(both) == unnamed


@pytest.mark.parametrize("state", get_args(PaymentState))
async def test_a_payment_moves_from_the_expected_state_alone(store: Store, state: PaymentState) -> None:
    claimed = payment(1, state=state)
    await store.claim_payment(claimed)
    moved = replace(claimed, state="settled", transaction="0x1", payer="p", reason="r", updated_us=FIRST_US + 9)
    for before in get_args(PaymentState):
        if before != state:
            assert not await store.move_payment(moved, before=before)
            assert await store.payment(claimed.id) == claimed
    assert not await store.move_payment(replace(moved, id="pay_other"), before=state), "the key is another claim's"
    assert await store.move_payment(moved, before=state)
    assert await store.payment(claimed.id) == moved


async def test_of_many_who_move_a_payment_one_does(store: Store) -> None:
    claimed = payment(1)
    await store.claim_payment(claimed)
    settling = replace(claimed, state="settling")
    moved = await asyncio.gather(*(store.move_payment(settling, before="reserved") for _ in range(20)))
    assert sum(moved) == 1


@pytest.mark.parametrize("state", get_args(PaymentState))
async def test_only_a_reservation_is_released(store: Store, state: PaymentState) -> None:
    claimed = payment(1, state=state)
    await store.claim_payment(claimed)
    await store.release_payment(replace(claimed, id="pay_other"))
    assert await store.payment(claimed.id) == claimed
    await store.release_payment(claimed)
    if state == "reserved":
        assert await store.payment(claimed.id) is None
        assert await store.claim_payment(payment(2, key=claimed.key)) == payment(2, key=claimed.key)
    else:
        assert await store.payment(claimed.id) == claimed


async def test_payments_are_found_by_tenant_and_state_and_paged(store: Store) -> None:
    states = get_args(PaymentState)
    kept = [
        payment(number, tenant_id=f"tenant_{number % 2}", state=states[number % len(states)]) for number in range(20)
    ]
    for each in kept:
        await store.claim_payment(each)
    newest_first = kept[::-1]
    assert await store.payments(PaymentFilter()) == newest_first
    assert await store.payments(PaymentFilter(limit=3)) == newest_first[:3]
    assert await store.payments(PaymentFilter(limit=None, oldest_first=True)) == kept
    assert await store.payments(PaymentFilter(before_id=kept[10].id)) == kept[:10][::-1]
    assert await store.payments(PaymentFilter(after_id=kept[10].id, oldest_first=True)) == kept[11:]
    wanted = PaymentFilter(tenant_id="tenant_1", states=("unknown", "settled"))
    assert await store.payments(wanted) == [
        each for each in newest_first if each.tenant_id == "tenant_1" and each.state in ("unknown", "settled")
    ]


async def test_terms_are_kept_one_a_tenant(store: Store) -> None:
    terms = PaymentTerms(tenant_id="tenant_1", mode="prepaid", price_nano_usd=5, offers=(OFFER,), created_us=1)
    await store.put(terms)
    off = replace(terms, mode="off", price_nano_usd=None, offers=())
    await store.put(off, PaymentTerms(tenant_id="tenant_2", mode="per-request", offers=(OFFER, OFFER)))
    kept = {each.tenant_id: each for each in (await store.load_state()).payment_terms}
    assert kept["tenant_1"] == off
    assert kept["tenant_2"].offers == (OFFER, OFFER)


async def test_balances_are_the_sums_of_receipts_of_version_2(store: Store) -> None:
    entries = [
        make_entry(1),
        make_entry(2, **{**PAID_NOTHING, "credited_nano_usd": 2**53 - 1}),
        make_entry(3, **{**PAID_NOTHING, "credited_nano_usd": 2**53 - 1, "charged_nano_usd": 7}),
        make_entry(4, tenant="tenant_2", **{**PAID_NOTHING, "charged_nano_usd": 1}),
        make_entry(5, tenant="tenant_3"),
    ]
    await store.append_entries(entries)
    assert await store.balances() == [
        Balance(tenant_id="tenant_1", credited_nano_usd=2**54 - 2, charged_nano_usd=7),
        Balance(tenant_id="tenant_2", credited_nano_usd=0, charged_nano_usd=1),
    ]


async def test_the_receipt_of_a_payment_is_found(store: Store) -> None:
    paid = payment(1, created_us=FIRST_US + 5_000_000)
    of_it = make_entry(2, created_us=paid.created_us - 60_000_000, **{**PAID_NOTHING, "payment": paid.id})
    of_another = make_entry(3, **{**PAID_NOTHING, "payment": payment(2).id})
    await store.append_entries([make_entry(1), of_it, of_another])
    assert await store.payment_receipt(paid) == of_it
    assert await store.payment_receipt(payment(4)) is None


async def test_a_payment_released_and_claimed_again_at_the_same_moment_is_claimed(store: Store) -> None:
    """Both share a transaction, in which a key that was released does not count as free."""
    first, again = payment(1), replace(payment(1), id="pay_again")
    await store.claim_payment(first)

    _, claimed = await asyncio.gather(store.release_payment(first), store.claim_payment(again))

    assert claimed.id == "pay_again"
    assert [one.id for one in await store.payments(PaymentFilter())] == ["pay_again"]


async def test_many_claims_of_one_payment_at_the_same_moment_have_one_winner(store: Store) -> None:
    claims = [replace(payment(1), id=f"pay_{number}") for number in range(8)]
    others = [payment(number) for number in range(2, 6)]

    claimed = await asyncio.gather(*(store.claim_payment(one) for one in (*claims, *others)))

    assert {one.id for one in claimed[:8]} == {"pay_0"}
    assert [one.id for one in claimed[8:]] == [one.id for one in others]


async def test_a_copy_has_no_payment_that_ended_without_its_receipt(store: Store, tmp_path: Path) -> None:
    """Its receipt was in the journal, which a copy of the database has not: restored, the payment is credited."""
    for number, state in enumerate(("delivered", "credited", "delivered", "failed"), start=1):
        await store.claim_payment(payment(number, state=state))
    await store.append_entries([make_entry(1, **PAID_NOTHING | {"payment": payment(1).id})])
    (tmp_path / "copy").mkdir()
    await store.copy_to(tmp_path / "copy" / "trustgate.duckdb")
    with duckdb.connect(tmp_path / "copy" / "trustgate.duckdb", read_only=True) as copy:
        states = dict(copy.execute("SELECT id, state FROM payments").fetchall())
    wanted = ("delivered", "settled", "settled", "failed")
    assert states == {payment(number).id: state for number, state in enumerate(wanted, start=1)}
    kept = {found.state for found in await store.payments(PaymentFilter(limit=None))}
    assert kept == {"delivered", "credited", "failed"}, "the original is as it was"
