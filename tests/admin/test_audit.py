"""The audit of the books over a real store and log: what is changed in one book alone is named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.entries import make_receipt
from tests.support.loop_turns import turns_until
from tests.support.shop import FAILS, LOSES_REQUEST, Shop, order, signed
from trustgate.access.quota import Ask, Quota
from trustgate.admin.audit import BooksAuditor, BooksSnapshot
from trustgate.admin.audit_quotas import QuotaAudit
from trustgate.admin.money import BooksReport
from trustgate.errors import TrustGateError
from trustgate.ids import now_us
from trustgate.payment.credit import append_credit
from trustgate.receipts.tree import Tree
from trustgate.store import ReceiptFilter
from trustgate.types import ApiKey, Payment, Plan, Tenant

CENT = 10_000_000
#: Atomic units of a cent.
CENT_UNITS = 10_000


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop with every kind of record: paid, failed and undecided payments, credits, refunds, use of a balance."""
    shop = await Shop.open(tmp_path / "shop")
    for number in range(300):
        tenant_id = f"tenant_{number % 3}"
        append_credit(shop.log, tenant_id, credited_nano_usd=2 * CENT)
        shop.balances.change(tenant_id, 2 * CENT)
        await shop.serve(order(CENT, tenant_id=tenant_id, body=b"%d" % number), cost=CENT // 2)
    append_credit(shop.log, "tenant_0", charged_nano_usd=CENT)
    shop.balances.change("tenant_0", -CENT)
    for number, plan in enumerate(("moves", "moves", FAILS, LOSES_REQUEST)):
        shop.paper.plan = [plan]
        paid = order(CENT, tenant_id="tenant_poor", body=b"paid %d" % number, paying=signed(CENT_UNITS))
        try:
            await shop.serve(paid, cost=CENT)
        except TrustGateError:
            assert plan in (FAILS, LOSES_REQUEST)
    gone = order(CENT, tenant_id="tenant_poor", body=b"gone", paying=signed(CENT_UNITS))
    with pytest.raises(ConnectionError):
        await shop.serve(gone, cost=CENT, dies="after")
    await shop.cashier.close()
    yield shop
    await shop.close()


async def audit(shop: Shop, quota: Quota | None = None) -> BooksReport:
    moment = BooksSnapshot.take(shop.log.last_seq, shop.balances, quota)
    await shop.log.flush()
    return await BooksAuditor(shop.store, await Tree.open(shop.store), moment, lambda stage: None).run()


async def change(shop: Shop, sql: str, *values: Any) -> None:
    """What another program does to the database's file."""
    await shop.store._engine.run(lambda connection: connection.execute(sql, list(values)))  # type: ignore[attr-defined]


async def test_books_in_order_balance(shop: Shop) -> None:
    report = await audit(shop)
    assert report.differences == ()
    assert report.receipts == shop.log.last_seq > 600
    assert (report.payments, report.open_payments) == (5, 1)
    assert report.paid_nano_usd == 3 * CENT
    assert (report.added_nano_usd, report.refunded_nano_usd) == (600 * CENT, CENT)
    assert report.credited_nano_usd == report.paid_nano_usd + report.added_nano_usd
    assert report.balance_nano_usd == report.credited_nano_usd - report.charged_nano_usd


async def test_a_payment_whose_request_still_runs_is_no_difference(shop: Shop) -> None:
    sale = await shop.cashier.admit(order(CENT, tenant_id="tenant_poor", body=b"slow", paying=signed(CENT_UNITS)))
    async with sale:  # type: ignore[union-attr]
        await sale.settle()  # type: ignore[union-attr]
        report = await audit(shop)
        assert report.differences == ()
        assert report.open_payments == 2


def _first(entries: list[Any], test: Callable[[Any], bool]) -> Any:
    return next(entry for entry in entries if test(entry.receipt))


@pytest.mark.parametrize(
    ("column", "value"), [("cost_nano_usd", 1), ("charged_nano_usd", 0), ("model", "'other'"), ("tseq", 999)]
)
async def test_a_changed_receipt_is_named(shop: Shop, column: str, value: object) -> None:
    await shop.log.flush()
    entry = _first(
        await shop.store.entries(ReceiptFilter(oldest_first=True, limit=900)),
        lambda receipt: receipt.finish == "complete",
    )
    await change(shop, f"UPDATE receipts SET {column} = {value} WHERE seq = ?", entry.seq)
    report = await audit(shop)
    assert any(entry.receipt.id in found.record and "tree" in found.detail for found in report.differences)
    # The tenant's next receipt names the hash that it had.
    assert any("tprev" in found.detail or "tseq" in found.detail for found in report.differences)


async def test_a_missing_receipt_is_named(shop: Shop) -> None:
    await shop.log.flush()
    await change(shop, "DELETE FROM receipts WHERE seq = 7")
    moment = BooksSnapshot.take(shop.log.last_seq, shop.balances, None)
    tree = shop.log._tree
    report = await BooksAuditor(shop.store, tree, moment, lambda stage: None).run()
    assert any(found.record == "log" and "number 7" in found.detail for found in report.differences)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ("amount = '1'", "its amount is 10000, in the ledger 1"),
        ("value_nano_usd = 5", "its value is 10000000, in the ledger 5"),
        ("\"transaction\" = '0xother'", "in the ledger 0xother"),
        ("tenant_id = 'tenant_0'", "its tenant is tenant_poor, in the ledger tenant_0"),
        ("receipt_id = 'rcpt_other'", "its receipt is"),
        ("state = 'credited'", "its end is delivered, in the ledger credited"),
        ("state = 'failed'", "it is failed, and receipt"),
    ],
)
async def test_a_changed_payment_is_named(shop: Shop, changes: str, says: str) -> None:
    payment = await _delivered(shop)
    await change(shop, f"UPDATE payments SET {changes} WHERE id = ?", payment.id)
    report = await audit(shop)
    assert any(says in found.detail and payment.id in found.record + found.detail for found in report.differences), (
        report.differences
    )


async def _delivered(shop: Shop) -> Payment:
    return next(payment for payment in await shop.payments() if payment.state == "delivered")


async def test_a_payment_without_a_receipt_and_a_receipt_without_its_payment_are_named(shop: Shop) -> None:
    payment = await _delivered(shop)
    await change(shop, "DELETE FROM payments WHERE id = ?", payment.id)
    (difference,) = (await audit(shop)).differences
    assert payment.receipt_id in difference.record
    assert f"names payment {payment.id}, which the ledger does not have" in difference.detail
    failed = next(payment for payment in await shop.payments() if payment.state == "failed")
    await change(shop, "UPDATE payments SET state = 'delivered' WHERE id = ?", failed.id)
    found = {difference.record: difference.detail for difference in (await audit(shop)).differences}
    assert found[f"payment {failed.id}"] == "it is delivered, and no receipt records it"


async def test_a_balance_in_memory_that_no_receipt_explains_is_named(shop: Shop) -> None:
    shop.balances.change("tenant_1", -3)
    (difference,) = (await audit(shop)).differences
    assert difference.record == "balance of tenant tenant_1"


async def test_quotas_are_held_against_the_receipts_of_their_windows(shop: Shop) -> None:
    await shop.log.flush()
    quota, at_us = Quota(), now_us()
    for window, since_us in enumerate(quota.begin(at_us).starts):
        for used in await shop.store.window_usage(since_us):
            for subject in (used.tenant_id, used.key_id):
                quota.restore(window, subject, used.requests, used.tokens, used.cost_nano_usd)
    assert (await audit(shop, quota)).differences == ()
    tenant, key = Tenant(id="tenant_0", name="t", plan="p"), "key of tenant_0"
    api_key = ApiKey(id=key, tenant_id="tenant_0", name="", secret_sha256="", redacted="")
    hold = quota.reserve(tenant, Plan(name="p"), api_key, Ask(10, 10), at_us)
    assert (await audit(shop, quota)).differences == (), "a request in flight"
    quota.post(hold, 10, 10)
    records = {difference.record for difference in (await audit(shop, quota)).differences}
    assert records == {"quota of tenant_0", f"quota of {key}"}


@pytest.fixture
def at_us(monkeypatch: pytest.MonkeyPatch) -> int:
    """The time of the audits of a test: no minute ends between its lines."""
    stopped_us = now_us()
    monkeypatch.setattr("trustgate.admin.audit.now_us", lambda: stopped_us)
    return stopped_us


async def test_a_minute_that_the_clock_has_left_and_come_back_to_is_not_held_against_its_receipts(
    shop: Shop, at_us: int
) -> None:
    """A server that starts while the clock is back counts such a minute anew when it comes again."""
    quota = Quota()
    quota.begin(at_us)

    async def windows() -> set[str]:
        await shop.log.flush()
        found = (await audit(shop, quota)).differences
        return {word for one in found for word in ("minute", "day", "month") if f"this {word}" in one.detail}

    def ended(seconds_ago: int) -> None:
        tseq, tprev = shop.log.link("tenant_9")
        created_us = at_us - seconds_ago * 1_000_000
        shop.log.append(make_receipt(tseq, tenant="tenant_9", tprev=tprev, created_us=created_us), bytes(32))

    ended(0)
    assert await windows() == {"minute", "day", "month"}, "nothing of it was counted"
    ended(120)
    assert "minute" not in await windows()
    assert "month" in await windows() or at_us - 120_000_000 < quota.begin(at_us).starts[2]


async def test_receipts_of_a_clock_that_ran_ahead_do_not_count_in_this_minute(shop: Shop, at_us: int) -> None:
    tseq, tprev = shop.log.link("tenant_9")
    shop.log.append(make_receipt(tseq, tenant="tenant_9", tprev=tprev, created_us=at_us + 90_000_000), bytes(32))
    await shop.log.flush()
    quota = Quota()
    windows = quota.begin(at_us)
    for window, (since_us, until_us) in enumerate(zip(windows.starts, windows.ends, strict=True)):
        for used in await shop.store.window_usage(since_us, until_us):
            for subject in (used.tenant_id, used.key_id):
                quota.restore(window, subject, used.requests, used.tokens, used.cost_nano_usd)
    assert (await audit(shop, quota)).differences == ()


async def test_requests_go_on_while_the_quotas_of_very_many_are_compared() -> None:
    quota, at_us = Quota(), now_us()
    quota.begin(at_us)
    for number in range(1_000):
        quota.restore(1, f"ten_{number}", 1, 2, 3)

    async def compare() -> list[str]:
        compared = QuotaAudit(quota.current_usage(at_us), {}, counts_limited=False)
        return [what async for what, _ in compared.differences()]

    found, turns = await turns_until(compare())
    assert len(found) == 3_000, "no receipt explains them"
    assert turns >= 10
