"""The commands on terms, payments and balances: one contract, every way to reach the control plane."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.admin.conftest import Plane
from tests.support.entries import make_entry
from tests.support.facilitator import FacilitatorDouble
from trustgate.admin.commands import Admin, Command, TenantAdd, TenantRemove, TenantWithKey
from trustgate.admin.log_commands import ReceiptShow
from trustgate.admin.model_commands import PassportAdd, PassportStatus
from trustgate.admin.money import (
    BooksAudit,
    BooksReport,
    OfferWanted,
    PaymentCheck,
    PaymentKeygen,
    PaymentList,
    PaymentOff,
    PaymentReconcile,
    PaymentRefundCredit,
    PaymentResolve,
    PaymentSet,
    PaymentShow,
    PaymentTermsList,
    Reconciled,
    TenantCredit,
    TermsDetail,
)
from trustgate.admin.payment_terms import _facilitator_for
from trustgate.errors import ChainError, Conflict, FacilitatorUnavailable, InvalidRequest, NotFound, TrustGateError
from trustgate.ids import new_id, now_us
from trustgate.models.passports import PassportFields
from trustgate.payment.credit import payment_members
from trustgate.payment.networks import BASE, BASE_SEPOLIA, SOLANA, SOLANA_DEVNET
from trustgate.settings import Settings
from trustgate.types import NANO_USD_PER_USD, Offer, Payment, PaymentTerms, Prices

WALLET = "0x" + "b6" * 20
OTHER_WALLET = "0x" + "c7" * 20
CENT = NANO_USD_PER_USD // 100


@pytest.fixture(scope="module")
def facilitator() -> Iterator[FacilitatorDouble]:
    with FacilitatorDouble() as double:
        yield double


@pytest.fixture
async def acme(admin: Admin) -> TenantWithKey:
    return await admin.execute(TenantAdd(name="acme"))


def wanted(double: FacilitatorDouble, network: str = "base-sepolia", **members: Any) -> OfferWanted:
    return OfferWanted(**{"network": network, "pay_to": WALLET, "facilitator": double.url, **members})


async def set_terms(admin: Admin, facilitator: FacilitatorDouble, **members: Any) -> TermsDetail:
    offers = members.pop("offers", (wanted(facilitator),))
    return await admin.execute(PaymentSet(tenant="acme", price_nano_usd=CENT, offers=offers, **members))


async def refusal(admin: Admin, command: Command[Any], kind: type[TrustGateError], says: str) -> TrustGateError:
    with pytest.raises(kind, match=says) as refused:
        await admin.execute(command)
    return refused.value


def terms_in_memory(plane: Plane, made: TenantWithKey) -> PaymentTerms | None:
    """What the request path finds; None where the tenant owes nothing."""
    return plane.directory.authenticate(made.secret.encode(), now_us()).terms


# terms


async def test_terms_hold_from_the_next_request_on_and_are_durable(
    admin: Admin, plane: Plane, acme: TenantWithKey, facilitator: FacilitatorDouble
) -> None:
    assert terms_in_memory(plane, acme) is None
    detail = await set_terms(admin, facilitator)
    assert detail.terms == terms_in_memory(plane, acme)
    assert detail.terms in (await plane.store.load_state()).payment_terms
    assert (detail.terms.mode, detail.terms.price_nano_usd) == ("per-request", CENT)
    (offer,) = detail.terms.offers
    assert (offer.network, offer.decimals, offer.pay_to.lower()) == (BASE_SEPOLIA, 6, WALLET)
    assert offer.extra == {"name": "USDC", "version": "2"}


async def test_what_is_not_given_stays(admin: Admin, acme: TenantWithKey, facilitator: FacilitatorDouble) -> None:
    first = (await set_terms(admin, facilitator)).terms
    offers = (wanted(facilitator, "base"),)
    second = (await admin.execute(PaymentSet(tenant="acme", mode="prepaid", top_up_nano_usd=5, offers=offers))).terms
    assert (second.mode, second.price_nano_usd, second.top_up_nano_usd) == ("prepaid", CENT, 5)
    assert second.offers[0] == first.offers[0]
    assert second.offers[1].network == BASE
    replaced = (wanted(facilitator, pay_to=OTHER_WALLET),)
    third = (await admin.execute(PaymentSet(tenant="acme", offers=replaced))).terms
    assert third.mode == "prepaid"
    assert [(offer.network, offer.pay_to.lower()) for offer in third.offers] == [
        (BASE_SEPOLIA, OTHER_WALLET),
        (BASE, WALLET),
    ]


async def test_payment_is_switched_off_and_on(
    admin: Admin, plane: Plane, acme: TenantWithKey, facilitator: FacilitatorDouble
) -> None:
    both = (wanted(facilitator), wanted(facilitator, "base"))
    await set_terms(admin, facilitator, mode="per-request", offers=both)
    less = await admin.execute(PaymentOff(tenant="acme", network="base"))
    assert [offer.network for offer in less.terms.offers] == [BASE_SEPOLIA]
    await refusal(admin, PaymentOff(tenant="acme", network="base"), NotFound, "does not pay on base")
    last = await refusal(admin, PaymentOff(tenant="acme", network="base-sepolia"), Conflict, "the only network")
    assert last.hint == "trustgate payment off acme"
    assert (await admin.execute(PaymentOff(tenant="acme"))).terms.mode == "off"
    assert terms_in_memory(plane, acme) is None
    again = await admin.execute(PaymentSet(tenant="acme", mode="prepaid"))
    assert again.terms.offers == less.terms.offers
    assert terms_in_memory(plane, acme) == again.terms
    credit_only = await admin.execute(PaymentOff(tenant="acme", network="base-sepolia"))
    assert (credit_only.terms.mode, credit_only.terms.offers) == ("prepaid", ())


_WOULD_NOT_DO: tuple[tuple[dict[str, str], type[TrustGateError], str], ...] = (
    ({"network": "bass"}, InvalidRequest, "no network 'bass'"),
    ({"pay_to": "0x12"}, InvalidRequest, "0x12"),
    ({"pay_to": "9xQeWvG816bUx9EPjHmaT23yvVM2ZWbrrpZb9PusVFin"}, InvalidRequest, "address"),
    ({"asset": "usdd"}, InvalidRequest, "No token 'usdd'"),
    ({"asset": "0x" + "d8" * 20}, ChainError, "127.0.0.1"),
    ({"network": "polygon"}, InvalidRequest, "polygon cannot be looked up"),
    ({"facilitator": "http://127.0.0.1:9"}, FacilitatorUnavailable, "facilitator"),
    ({"facilitator": "ftp://example.com"}, InvalidRequest, "http"),
    ({"facilitator": "embedded"}, InvalidRequest, "settles on Solana alone"),
)


async def test_what_would_not_do_is_refused_when_it_is_set(
    admin: Admin, plane: Plane, acme: TenantWithKey, facilitator: FacilitatorDouble
) -> None:
    for members, kind, says in _WOULD_NOT_DO:
        command = PaymentSet(tenant="acme", price_nano_usd=CENT, offers=(wanted(facilitator, **members),))
        await refusal(admin, command, kind, says)
        assert terms_in_memory(plane, acme) is None
    assert not (await plane.store.load_state()).payment_terms


async def test_terms_that_sell_nothing_are_refused(
    admin: Admin, acme: TenantWithKey, facilitator: FacilitatorDouble
) -> None:
    offers = (wanted(facilitator),)
    # Of the names under it the price list knows some.
    await admin.execute(PassportStatus(passport="*", status="revoked"))
    refused = await refusal(admin, PaymentSet(tenant="acme", offers=offers), Conflict, "No passport has a price")
    assert "--price" in str(refused.hint)
    await refusal(admin, PaymentSet(tenant="acme", price_nano_usd=CENT), InvalidRequest, "No network is set")
    for amount in (0, -1, 10**18):
        command = PaymentSet(tenant="acme", price_nano_usd=amount, offers=offers)
        await refusal(admin, command, InvalidRequest, "price must be more than 0")
    await admin.execute(PassportAdd(slug="dear", fields=PassportFields(prices=Prices(input_pico_usd=5))))
    await admin.execute(PassportAdd(slug="unpriced", fields=PassportFields()))
    detail = await admin.execute(PaymentSet(tenant="acme", offers=offers))
    assert detail.terms.price_nano_usd is None
    assert any("unpriced" in note and "dear" not in note and "echo" not in note for note in detail.notes)


async def test_terms_are_listed_and_a_removed_tenant_has_none(
    admin: Admin, acme: TenantWithKey, facilitator: FacilitatorDouble
) -> None:
    assert await admin.execute(PaymentTermsList()) == ()
    refused = await refusal(admin, PaymentTermsList(tenant="acme"), NotFound, "never been switched on for acme")
    assert str(refused.hint).startswith("trustgate payment set acme")
    detail = await set_terms(admin, facilitator)
    assert [found.terms for found in await admin.execute(PaymentTermsList())] == [detail.terms]
    assert (await admin.execute(PaymentTermsList(tenant="acme")))[0].terms == detail.terms
    await admin.execute(TenantRemove(tenant="acme"))
    assert await admin.execute(PaymentTermsList()) == ()
    removed = PaymentSet(tenant=acme.tenant.id, price_nano_usd=CENT, offers=(wanted(facilitator),))
    await refusal(admin, removed, Conflict, "was removed")


def test_who_settles_where_nobody_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("X402_FACILITATOR_URL", raising=False)
    settings = Settings(home=tmp_path)
    public = "https://x402.org/facilitator"
    assert _facilitator_for(settings, SOLANA_DEVNET) == public
    assert _facilitator_for(settings, BASE_SEPOLIA) == public
    for network, hint in ((SOLANA, "trustgate payment keygen"), (BASE, "--facilitator URL")):
        with pytest.raises(InvalidRequest, match="No facilitator is known") as refused:
            _facilitator_for(settings, network)
        assert hint in str(refused.value.hint)
    settings.payment_keypair.touch()
    assert _facilitator_for(settings, SOLANA_DEVNET) == _facilitator_for(settings, SOLANA) == "embedded"
    assert _facilitator_for(settings, BASE_SEPOLIA) == public
    monkeypatch.setenv("X402_FACILITATOR_URL", "https://pay.example.com/")
    for network in (SOLANA, SOLANA_DEVNET, BASE, BASE_SEPOLIA):
        assert _facilitator_for(settings, network) == "https://pay.example.com"


# balances


async def _draws_on_credit(admin: Admin) -> None:
    await admin.execute(PaymentSet(tenant="acme", mode="prepaid", price_nano_usd=CENT))


async def test_what_the_operator_adds_is_a_receipt_and_a_balance(
    admin: Admin, plane: Plane, acme: TenantWithKey
) -> None:
    assert (await admin.execute(TenantCredit(tenant="acme"))).balance_nano_usd == 0
    await _draws_on_credit(admin)
    change = await admin.execute(TenantCredit(tenant="acme", add_nano_usd=5 * CENT))
    assert change.balance_nano_usd == 5 * CENT
    receipt = (await admin.execute(ReceiptShow(receipt=change.receipt))).receipt
    assert (receipt.tenant, receipt.finish, receipt.endpoint) == (acme.tenant.id, "credited", "credits")
    assert (receipt.credited_nano_usd, receipt.charged_nano_usd, receipt.payment) == (5 * CENT, 0, "")
    (balance,) = await plane.store.balances()
    assert (balance.tenant_id, balance.credited_nano_usd) == (acme.tenant.id, 5 * CENT)
    for amount in (-CENT, 10**18):
        command = TenantCredit(tenant="acme", add_nano_usd=amount)
        await refusal(admin, command, InvalidRequest, "credit must be more than 0")


async def test_no_more_is_refunded_than_is_free(admin: Admin, plane: Plane, acme: TenantWithKey) -> None:
    await refusal(admin, PaymentRefundCredit(tenant="acme"), Conflict, "has 0 USD that could be paid back")
    await _draws_on_credit(admin)
    await admin.execute(TenantCredit(tenant="acme", add_nano_usd=5 * CENT))
    hold = (await plane.payment_service()).balances.hold(acme.tenant.id, 3 * CENT)
    assert hold is not None
    command = PaymentRefundCredit(tenant="acme", amount_nano_usd=3 * CENT)
    await refusal(admin, command, Conflict, r"has 0\.02 USD that could be paid back, not 0\.03")
    refund = await admin.execute(PaymentRefundCredit(tenant="acme", amount_nano_usd=CENT))
    assert (refund.refunded_nano_usd, refund.change.balance_nano_usd) == (CENT, 4 * CENT)
    assert refund.change.held_nano_usd == 3 * CENT
    hold.settle(3 * CENT)
    rest = await admin.execute(PaymentRefundCredit(tenant="acme"))
    assert (rest.refunded_nano_usd, rest.change.balance_nano_usd) == (CENT, 0)
    receipt = (await admin.execute(ReceiptShow(receipt=rest.change.receipt))).receipt
    assert (receipt.charged_nano_usd, receipt.credited_nano_usd, receipt.finish) == (CENT, 0, "credited")


# payments


def made_payment(tenant: str, number: int = 1, **members: Any) -> Payment:
    at_us = now_us() + number * 1000
    offer = Offer(network=BASE_SEPOLIA, asset="0x" + "a5" * 20, decimals=6, pay_to=WALLET, facilitator="https://f")
    defaults: dict[str, Any] = {
        "id": new_id("pay", at_us),
        "key": f"{number:064x}",
        "tenant_id": tenant,
        "key_id": "key_1",
        "receipt_id": new_id("rcpt", at_us),
        "request_sha256": "ab" * 32,
        "x402_version": 2,
        "offer": offer,
        "amount": "10000",
        "value_nano_usd": CENT,
        "payload": _signed(number),
        "requirements": b"{}",
        "payer": OTHER_WALLET,
        "created_us": at_us,
        "updated_us": at_us,
    }
    return Payment(**{**defaults, **members})


def _signed(number: int) -> bytes:
    authorization = {"from": OTHER_WALLET, "to": WALLET, "value": "10000", "nonce": f"0x{number:064x}"}
    authorization |= {"validAfter": "0", "validBefore": "99999999999"}
    return msgspec.json.encode({"x402Version": 2, "payload": {"signature": "0x00", "authorization": authorization}})


async def test_payments_are_listed_by_tenant_and_state_without_what_was_signed(
    admin: Admin, plane: Plane, acme: TenantWithKey
) -> None:
    own = [made_payment(acme.tenant.id, n, state="unknown" if n == 2 else "delivered") for n in (1, 2, 3)]
    foreign = made_payment("ten_other", 4, state="unknown")
    for payment in (*own, foreign):
        await plane.store.claim_payment(payment)
    listed = await admin.execute(PaymentList())
    assert [payment.id for payment in listed] == [foreign.id, *(payment.id for payment in reversed(own))]
    assert all(payment.payload == b"" for payment in listed)
    unknown = await admin.execute(PaymentList(tenant="acme", states=("unknown",)))
    assert [payment.id for payment in unknown] == [own[1].id]
    page = await admin.execute(PaymentList(before_id=own[2].id, limit=1))
    assert [payment.id for payment in page] == [own[1].id]
    await refusal(admin, PaymentList(limit=0), InvalidRequest, "limit")
    shown = await admin.execute(PaymentShow(payment=own[1].id))
    assert (shown.payment, shown.receipt) == (own[1], None)
    await refusal(admin, PaymentShow(payment="pay_none"), NotFound, "no payment 'pay_none'")


async def reconcile(admin: Admin) -> tuple[Reconciled, ...]:
    command = PaymentReconcile(reconcile=new_id("reconcile"))
    while (state := await admin.execute(command)).payments is None:
        pass
    return state.payments


async def test_reconciling_tells_what_came_of_each(admin: Admin, plane: Plane, acme: TenantWithKey) -> None:
    payments = [
        made_payment(acme.tenant.id, number, state=state)
        for number, state in enumerate(("reserved", "settling", "settled", "delivered"), start=1)
    ]
    for payment in payments:
        await plane.store.claim_payment(payment)
    found = {each.payment.id: each for each in await reconcile(admin)}
    reserved, settling, settled, _ = (payment.id for payment in payments)
    assert found.keys() == {reserved, settling, settled}
    assert found[reserved].released
    assert await plane.store.payment(reserved) is None
    assert (found[settling].before, found[settling].payment.state) == ("settling", "unknown")
    assert "127.0.0.1" in found[settling].problem, "its chain cannot be asked"
    assert found[settled].payment.state == "credited"
    shown = await admin.execute(PaymentShow(payment=settled))
    assert shown.receipt is not None
    assert shown.receipt.receipt.payment == settled
    assert (await admin.execute(TenantCredit(tenant="acme"))).balance_nano_usd == CENT
    assert [each.payment.id for each in await reconcile(admin)] == [settling]
    refund = await admin.execute(PaymentRefundCredit(tenant="acme"))
    (payer,) = refund.payers
    assert (payer.payer, payer.amount, payer.value_nano_usd) == (OTHER_WALLET, "20000", 2 * CENT)


async def test_a_payment_of_unknown_fate_is_resolved_by_hand(admin: Admin, plane: Plane, acme: TenantWithKey) -> None:
    settled, failed, known = (
        made_payment(acme.tenant.id, number, state=state)
        for number, state in enumerate(("unknown", "unknown", "delivered"), start=1)
    )
    for payment in (settled, failed, known):
        await plane.store.claim_payment(payment)
    await refusal(admin, PaymentResolve(payment="pay_none"), NotFound, "no payment 'pay_none'")
    await refusal(admin, PaymentResolve(payment=known.id), Conflict, "only one whose outcome is unknown")
    await refusal(admin, PaymentResolve(payment=settled.id, settled="=1+1"), InvalidRequest, "not a transaction")

    transaction = "0x" + "ab" * 32
    shown = await admin.execute(PaymentResolve(payment=settled.id, settled=transaction))
    assert (shown.payment.state, shown.payment.transaction) == ("credited", transaction)
    assert shown.receipt is not None
    assert shown.receipt.receipt.credited_nano_usd == CENT
    assert (await admin.execute(TenantCredit(tenant="acme"))).balance_nano_usd == CENT
    shown = await admin.execute(PaymentResolve(payment=failed.id))
    assert (shown.payment.state, shown.receipt) == ("failed", None)
    await refusal(admin, PaymentResolve(payment=settled.id), Conflict, "is credited")


async def test_a_key_for_fees_is_made_once(admin: Admin, plane: Plane) -> None:
    made = await admin.execute(PaymentKeygen())
    assert made.path == str(plane.settings.payment_keypair)
    assert plane.settings.payment_keypair.stat().st_mode & 0o777 == 0o600
    await refusal(admin, PaymentKeygen(), Conflict, "not overwritten")


# doctor


async def test_nothing_is_found_where_nobody_pays(admin: Admin, acme: TenantWithKey) -> None:
    assert await admin.execute(PaymentCheck()) == ()


async def test_doctor_names_who_owes_and_since_when(admin: Admin, plane: Plane, acme: TenantWithKey) -> None:
    day_us = 86_400_000_000
    figures = [(CENT, 0), (0, 3 * CENT), (CENT, 0), (0, CENT)]
    await plane.store.append_entries(
        [
            make_entry(
                seq,
                **{"v": 2, "tenant": acme.tenant.id, "created_us": seq * day_us, **payment_members(None)},
                credited_nano_usd=credited,
                charged_nano_usd=charged,
            )
            for seq, (credited, charged) in enumerate(figures, start=1)
        ]
    )
    (found,) = await admin.execute(PaymentCheck())
    assert found.status == "warn"
    # Below zero from the second receipt on: 1970-01-03.
    assert "acme owes 0.02 USD since 1970-01-03 00:00 UTC" in found.message
    assert found.hint == "trustgate tenant credit acme"


async def test_doctor_asks_facilitators_prices_and_what_is_unknown(
    admin: Admin, plane: Plane, acme: TenantWithKey, facilitator: FacilitatorDouble
) -> None:
    with FacilitatorDouble() as other:
        await set_terms(admin, facilitator, offers=(wanted(facilitator), wanted(other, "base")))
        assert [found.status for found in await admin.execute(PaymentCheck())] == ["ok", "ok"]
    await admin.execute(PassportAdd(slug="dear", fields=PassportFields(prices=Prices(input_pico_usd=5))))
    await admin.execute(PassportAdd(slug="unpriced", fields=PassportFields()))
    await admin.execute(PaymentSet(tenant="acme", by_passport=True))
    await plane.store.claim_payment(made_payment(acme.tenant.id, state="unknown"))
    found = await admin.execute(PaymentCheck())
    assert [each.status for each in found] == ["warn", "warn", "ok", "fail"]
    assert "1 payment is" in found[0].message
    assert found[0].hint == "trustgate payment reconcile"
    assert "unpriced" in found[1].message and "echo" not in found[1].message
    assert "acme" in found[1].message
    assert "base by http" in found[3].message


# the audit


async def audit(admin: Admin) -> BooksReport:
    command = BooksAudit(audit=new_id("audit"))
    while (state := await admin.execute(command)).report is None:
        pass
    return state.report


async def test_the_books_are_audited_through_every_door(admin: Admin, plane: Plane, acme: TenantWithKey) -> None:
    await _draws_on_credit(admin)
    await admin.execute(TenantCredit(tenant="acme", add_nano_usd=5 * CENT))
    await admin.execute(PaymentRefundCredit(tenant="acme", amount_nano_usd=CENT))
    report = await audit(admin)
    assert report.differences == ()
    assert (report.receipts, report.tenants, report.quotas_checked) == (2, 1, True)
    assert (report.added_nano_usd, report.refunded_nano_usd, report.balance_nano_usd) == (5 * CENT, CENT, 4 * CENT)
    (await plane.payment_service()).balances.change(acme.tenant.id, 1)
    (difference,) = (await audit(admin)).differences
    assert difference.record == f"balance of tenant {acme.tenant.id}"
    assert "40000001 nano-USD, by its receipts 40000000" in difference.detail
