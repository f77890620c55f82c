"""Rows that no TrustGate wrote: each is named by the audit, with the way out, and the rest works on."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from tests.support.entries import FIRST_US
from tests.support.old_receipts import fill
from tests.support.payments import evm_payload, evm_requirements, payment_of
from trustgate.admin.commands import Admin, PlanList, TenantAdd
from trustgate.admin.local import open_local_admin
from trustgate.admin.log_commands import AnchorList, AnchorStatus, ReceiptExport, ReceiptList
from trustgate.admin.money import BooksAudit, BooksReport, PaymentList, TenantCredit
from trustgate.errors import StoreDamaged
from trustgate.settings import Settings
from trustgate.store import open_store
from trustgate.types import Anchor, PaymentTerms

#: More than a tile of the tree: a start reads what is beyond it.
COUNT = 300
_OF_RECEIPTS = "UPDATE receipts SET payment_detail = '[', v = 2 WHERE seq = 7"


async def _make(home: Path) -> list[str]:
    admin = await open_local_admin(Settings(home=home))
    added = await admin.execute(TenantAdd(name="acme"))
    await admin.close()
    import asyncio

    ids = await asyncio.to_thread(fill, home, COUNT, [(added.tenant.id, added.key.id)])
    store = await open_store(home / "trustgate.duckdb")
    await store.put(PaymentTerms(tenant_id=added.tenant.id, mode="prepaid", created_us=FIRST_US))
    for number in range(2):
        await store.put(
            Anchor(
                id=f"anchor_{number}",
                genesis="genesis",
                fee_payer="payer",
                tree_size=0,
                root="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                note="log\n0\n",
                created_us=FIRST_US,
            )
        )
    for number in range(2):
        payment = payment_of(
            evm_payload(evm_requirements()), evm_requirements(), state="failed", key=str(number), id=f"payment_{number}"
        )
        await store.claim_payment(payment)
    await store.close()
    return ids


async def _audit(admin: Admin) -> BooksReport:
    while (state := await admin.execute(BooksAudit(audit="audit_1"))).report is None:
        pass
    return state.report


@pytest.mark.parametrize(
    ("table", "damage"),
    [
        ("anchors", "UPDATE anchors SET attempts = '[{' WHERE id = 'anchor_0'"),
        ("anchors", "UPDATE anchors SET state = 'lost' WHERE id = 'anchor_0'"),
        ("payments", "UPDATE payments SET offer = '{}' WHERE id = 'payment_0'"),
        ("payments", "UPDATE payments SET state = 'spent' WHERE id = 'payment_0'"),
        ("receipts", _OF_RECEIPTS),
        ("log_names", None),
    ],
)
async def test_a_damaged_row_is_named_and_the_rest_works(tmp_path: Path, table: str, damage: str | None) -> None:
    ids = await _make(tmp_path)
    if damage is not None:
        with duckdb.connect(tmp_path / "trustgate.duckdb") as connection:
            connection.execute(damage)

    admin = await open_local_admin(Settings(home=tmp_path))
    try:
        report = await _audit(admin)
        told = [difference for difference in report.differences if "cannot be read" in difference.detail]
        assert len(told) == (damage is not None), report.differences
        for difference in told:
            assert table in f"{difference.record} {difference.detail}" and "trustgate restore" in difference.detail
        assert [anchor.id for anchor in await admin.execute(AnchorList())][-1] == "anchor_1"
        assert "payment_1" in [payment.id for payment in await admin.execute(PaymentList())]
        assert ids[0] in await admin.execute(ReceiptExport(receipt=ids[0]))
        if table == "receipts":
            with pytest.raises(StoreDamaged, match="Receipt number 7"):
                await admin.execute(ReceiptList(limit=COUNT))
        else:
            listed = await admin.execute(ReceiptList())
            assert len(listed) == 50
    finally:
        await admin.close()


@pytest.mark.parametrize("table", ["tenants", "keys", "plans", "passports"])
async def test_what_decides_who_may_call_is_never_left_out(tmp_path: Path, table: str) -> None:
    """A home without a revocation, say, must not serve."""
    await _make(tmp_path)
    column = {"tenants": "status", "keys": "limits", "plans": "scope", "passports": "prices"}[table]
    with duckdb.connect(tmp_path / "trustgate.duckdb") as connection:
        connection.execute(f"UPDATE {table} SET {column} = '{{'")
    with pytest.raises(StoreDamaged, match=f"of table {table} cannot be read") as refused:
        await open_local_admin(Settings(home=tmp_path))
    assert "restore" in str(refused.value.hint)


async def test_commands_append_nothing_to_a_log_that_a_start_would_refuse(tmp_path: Path) -> None:
    """An older copy of the database beside a checkpoint of more receipts: the log would fork."""
    await _make(tmp_path)
    older = tmp_path / "older"
    older.mkdir()
    for name in ("trustgate.duckdb", "trustgate.duckdb.changes", "trustgate.duckdb.mark"):
        shutil.copy2(tmp_path / name, older / name)
    admin = await open_local_admin(Settings(home=tmp_path))
    await admin.execute(TenantCredit(tenant="acme", add_nano_usd=5))
    await admin.close()
    admin = await open_local_admin(Settings(home=tmp_path))
    assert (await admin.execute(AnchorStatus())).tree_size == COUNT + 1, "which is signed now"
    await admin.close()
    for path in older.iterdir():
        shutil.copy2(path, tmp_path / path.name)
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "journal.mark").unlink()

    admin = await open_local_admin(Settings(home=tmp_path))
    try:
        with pytest.raises(StoreDamaged, match="signed a checkpoint of 301"):
            await admin.execute(TenantCredit(tenant="acme", add_nano_usd=7))
        listed = await admin.execute(ReceiptList())
        assert len(listed) == 50
        report = await _audit(admin)
        assert [difference.record for difference in report.differences] == ["log"]
        assert await admin.execute(PlanList()), "what appends nothing works"
    finally:
        await admin.close()
