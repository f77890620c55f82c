"""Credits that count once, whatever breaks off between their note and their receipt."""

from __future__ import annotations

import hashlib

import pytest

from tests.admin.conftest import Plane
from trustgate.admin.commands import TenantAdd, TenantRemove
from trustgate.admin.log_commands import ReceiptShow
from trustgate.admin.money import PaymentRefundCredit, PaymentSet, TenantCredit
from trustgate.errors import Conflict, InvalidRequest, Unavailable
from trustgate.ids import new_id, now_us
from trustgate.receipts import journal as journal_module
from trustgate.receipts.receipt import balance_change, commitment
from trustgate.types import CreditNote, Tenant

CENT = 10_000_000


@pytest.fixture
async def acme(plane: Plane) -> Tenant:
    added = await plane.admin.execute(TenantAdd(name="acme"))
    await plane.admin.execute(PaymentSet(tenant="acme", mode="prepaid", price_nano_usd=CENT))
    return added.tenant


async def _left_by_a_crash(
    plane: Plane, tenant: Tenant, reference: str, nano_usd: int, at_us: int | None = None
) -> CreditNote:
    """Returns a note of a credit or, below zero, a refund, as a crash leaves it before its receipt is written."""
    at_us = now_us() if at_us is None else at_us
    note = CreditNote(
        id=new_id("credit", at_us),
        tenant_id=tenant.id,
        reference=reference,
        receipt_id=new_id("rcpt", at_us),
        credited_nano_usd=nano_usd,
        created_us=at_us,
    )
    await plane.store.put(note)
    return note


async def test_a_note_whose_receipt_a_crash_prevented_gets_it_once(plane: Plane, acme: Tenant) -> None:
    """The same reference again, as its operator would try, and another one: neither adds it twice."""
    note = await _left_by_a_crash(plane, acme, "invoice 1", 3 * CENT, now_us() - 3_600_000_000)
    again = await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=3 * CENT, reference="invoice 1"))
    assert (again.receipt, again.balance_nano_usd, again.repeated) == (note.receipt_id, 3 * CENT, True)
    other = await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=CENT, reference="invoice 2"))
    assert (other.balance_nano_usd, other.repeated) == (4 * CENT, False)
    found = await plane.admin.execute(ReceiptShow(receipt=note.receipt_id))
    assert found.receipt.credited_nano_usd == 3 * CENT
    assert await plane.store.last_seq() == 2


async def test_another_command_gives_a_note_its_receipt_too(plane: Plane, acme: Tenant) -> None:
    await _left_by_a_crash(plane, acme, "invoice 1", 3 * CENT)
    other = await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=CENT, reference="invoice 2"))
    assert (other.balance_nano_usd, other.repeated, await plane.store.last_seq()) == (4 * CENT, False, 2)


async def test_the_receipt_commits_to_the_reference(plane: Plane, acme: Tenant) -> None:
    change = await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=CENT, reference="invoice 1"))
    found = await plane.admin.execute(ReceiptShow(receipt=change.receipt))
    assert found.secret is not None
    told = hashlib.sha256(b'{"corrects":[],"reference":"invoice 1"}').digest()
    assert found.receipt.request_commitment == commitment(bytes.fromhex(found.secret), "request", told)


@pytest.mark.parametrize("reference", ["x" * 201, " padded", "line\nbreak", "\x1b[31m"])
async def test_a_reference_is_one_line(plane: Plane, acme: Tenant, reference: str) -> None:
    with pytest.raises(InvalidRequest, match="reference"):
        await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=CENT, reference=reference))


async def test_a_reference_of_another_amount_is_refused(plane: Plane, acme: Tenant) -> None:
    await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=CENT, reference="invoice 1"))
    with pytest.raises(Conflict, match=r"was used for 0\.01 USD"):
        await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=2 * CENT, reference="invoice 1"))


async def test_a_refund_that_was_broken_off_never_takes_a_balance_below_zero(plane: Plane, acme: Tenant) -> None:
    """Requests used the balance meanwhile. Once there is enough again its own command takes it, and no other does."""
    await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=CENT))
    note = await _left_by_a_crash(plane, acme, "out 1", -2 * CENT)
    repeated = PaymentRefundCredit(tenant="acme", amount_nano_usd=2 * CENT, reference="out 1")
    with pytest.raises(Conflict, match=r"was broken off, and acme has less than 0\.02 USD by now") as refused:
        await plane.admin.execute(repeated)
    assert refused.value.code == "balance_too_small"
    added = await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=3 * CENT, reference="in 1"))
    assert added.balance_nano_usd == 4 * CENT
    done = await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=CENT, reference="in 2"))
    assert done.balance_nano_usd == 5 * CENT
    for _ in range(2):
        taken = await plane.admin.execute(repeated)
        assert (taken.change.receipt, taken.change.balance_nano_usd) == (note.receipt_id, 3 * CENT)


async def test_a_refund_that_was_broken_off_takes_what_is_free_to_the_last(plane: Plane, acme: Tenant) -> None:
    """What requests that run hold is not free."""
    await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=3 * CENT))
    await _left_by_a_crash(plane, acme, "out 1", -2 * CENT)
    repeated = PaymentRefundCredit(tenant="acme", amount_nano_usd=2 * CENT, reference="out 1")
    balances = (await plane.payment_service()).balances
    hold = balances.hold(acme.id, CENT + 1)
    assert hold is not None
    with pytest.raises(Conflict, match="was broken off"):
        await plane.admin.execute(repeated)
    hold.settle(0)
    assert balances.hold(acme.id, CENT) is not None
    taken = await plane.admin.execute(repeated)
    assert taken.change.balance_nano_usd == CENT


async def test_a_refund_whose_receipt_a_crash_prevented_is_taken_once(plane: Plane, acme: Tenant) -> None:
    await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=5 * CENT))
    note = await _left_by_a_crash(plane, acme, "out 1", -2 * CENT)
    for asked in (2 * CENT, None, 2 * CENT):
        again = await plane.admin.execute(PaymentRefundCredit(tenant="acme", amount_nano_usd=asked, reference="out 1"))
        assert (again.refunded_nano_usd, again.change.repeated) == (2 * CENT, True)
        assert (again.change.receipt, again.change.balance_nano_usd) == (note.receipt_id, 3 * CENT)
    assert await plane.store.last_seq() == 2
    found = await plane.admin.execute(ReceiptShow(receipt=note.receipt_id))
    assert balance_change(found.receipt) == (2 * CENT, 0)
    with pytest.raises(Conflict, match=r"was used for a refund of 0\.02 USD"):
        await plane.admin.execute(PaymentRefundCredit(tenant="acme", amount_nano_usd=CENT, reference="out 1"))


async def test_a_credit_whose_receipt_the_database_refused_counts_once(
    plane: Plane, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its receipt is in the log by then, and waits to be written."""
    command = TenantCredit(tenant="acme", add_nano_usd=3 * CENT, reference="invoice 1")
    await plane.payment_service()

    async def refuse(*_: object) -> None:
        raise Unavailable("The disk is full.")

    with monkeypatch.context() as failing:
        failing.setattr(plane.store, "append_entries", refuse)
        with pytest.raises(Unavailable, match="disk is full"):
            await plane.admin.execute(command)
    again = await plane.admin.execute(command)
    assert (again.balance_nano_usd, again.repeated) == (3 * CENT, True)
    assert await plane.store.last_seq() == 1


async def test_nothing_is_noted_that_no_receipt_could_be_written_of(
    plane: Plane, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=CENT))
    assert plane.journal is not None

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr(journal_module, "_fdatasync", broken)
        with pytest.raises(Unavailable):
            plane.journal.maintain()
        for reference in ("", "invoice 1"):
            with pytest.raises(Unavailable):
                await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=CENT, reference=reference))
        assert await plane.store.credit_notes(acme.id) == []
    plane.journal.maintain()
    change = await plane.admin.execute(TenantCredit(tenant="acme", add_nano_usd=CENT, reference="invoice 1"))
    assert (change.balance_nano_usd, change.repeated) == (2 * CENT, False)
    assert await plane.store.last_seq() == 2


async def test_a_removed_tenant_gets_no_credit(plane: Plane, acme: Tenant) -> None:
    await plane.admin.execute(TenantRemove(tenant="acme"))
    with pytest.raises(Conflict, match="was removed"):
        await plane.admin.execute(TenantCredit(tenant=acme.id, add_nano_usd=CENT))
