"""What facilitators say of networks is looked up again, and offers follow: without a person, and not into anything."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.admin.conftest import Plane
from tests.support.facilitator import FacilitatorDouble
from trustgate.admin.commands import Admin, TenantAdd
from trustgate.admin.money import PaymentLookAgain
from trustgate.formats.solana_transaction import b58encode
from trustgate.observe.notices import Notices
from trustgate.payment.networks import BASE, SOLANA, SOLANA_DEVNET
from trustgate.server import offer_facts
from trustgate.server.offer_facts import Look, follow, follow_for_ever
from trustgate.types import Offer, PaymentTerms


def address(name: str) -> str:
    return b58encode(hashlib.sha256(name.encode()).digest())


@pytest.fixture
def double() -> Iterator[FacilitatorDouble]:
    with FacilitatorDouble(fee_payer=address("new")) as facilitator:
        yield facilitator


def offers(double: FacilitatorDouble) -> tuple[Offer, ...]:
    solana = Offer(
        network=SOLANA_DEVNET,
        asset=address("mint"),
        decimals=6,
        pay_to=address("shop"),
        facilitator=double.url,
        extra={"feePayer": address("old"), "paymentFlow": "upfront"},
    )
    base = Offer(network=BASE, asset="0x" + "a5" * 20, decimals=6, pay_to="0x" + "b6" * 20, facilitator=double.url)
    return solana, base


def looking(admin: Admin) -> Look:
    return lambda: admin.execute(PaymentLookAgain())


async def terms_of(plane: Plane, admin: Admin, *members: Offer) -> PaymentTerms:
    """A tenant with these offers, as they were set once."""
    added = await admin.execute(TenantAdd(name="acme"))
    terms = PaymentTerms(tenant_id=added.tenant.id, mode="per-request", price_nano_usd=1, offers=members)
    await plane.store.put(terms)
    plane.directory.put(terms)
    return terms


def fee_payer(plane: Plane, terms: PaymentTerms) -> Any:
    found = plane.directory.terms(terms.tenant_id)
    assert found is not None
    return found.offers[0].extra["feePayer"]


async def test_a_new_fee_payer_is_followed(admin: Admin, plane: Plane, double: FacilitatorDouble) -> None:
    terms = await terms_of(plane, admin, *offers(double))
    await follow(admin, looking(admin), Notices())
    now = plane.directory.terms(terms.tenant_id)
    assert now is not None
    assert now.offers[0].extra == {"feePayer": address("new"), "paymentFlow": "upfront"}
    assert now.offers[1] == terms.offers[1]
    assert now in (await plane.store.load_state()).payment_terms


@pytest.mark.parametrize("said", ["shop", "mint", "no address", "nothing", "another network", "silence"])
async def test_what_cannot_be_right_is_told_and_not_followed(
    admin: Admin, plane: Plane, double: FacilitatorDouble, said: str
) -> None:
    extra = {"shop": {"feePayer": address("shop")}, "mint": {"feePayer": address("mint")}, "nothing": {}}
    network = SOLANA if said == "another network" else SOLANA_DEVNET
    told = extra.get(said, {"feePayer": "0x12" if said == "no address" else address("new")})
    double.kinds = [{"x402Version": 2, "scheme": "exact", "network": network, "extra": told}]
    solana = offers(double)[0]
    if said == "silence":
        double.kinds = [{"no": "kind"}]
    terms = await terms_of(plane, admin, solana)
    notices = Notices()
    heard = notices.subscribe()
    await follow(admin, looking(admin), notices)
    assert fee_payer(plane, terms) == address("old")
    [notice] = heard.take_now()
    assert (notice.kind, notice.state) == ("payment", "firing")
    # Once it is right again, that is told as well, and followed.
    double.kinds = None
    await follow(admin, looking(admin), notices)
    assert fee_payer(plane, terms) == address("new")
    assert [notice.state for notice in heard.take_now()] == ["resolved"]


async def test_a_payment_refused_for_its_fee_payer_has_the_facilitator_asked_at_once(
    admin: Admin, plane: Plane, double: FacilitatorDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offer_facts, "_DOUBTS_EVERY_S", 0.0)
    double.fee_payer = address("old")
    terms = await terms_of(plane, admin, offers(double)[0])
    notices, doubt = Notices(), asyncio.Event()
    heard = notices.subscribe()
    following = asyncio.create_task(follow_for_ever(admin, looking(admin), doubt, 3_600.0, notices))
    try:
        async with asyncio.timeout(10):
            await heard.take()
            double.fee_payer = address("new")
            while fee_payer(plane, terms) != address("new"):
                doubt.set()
                await heard.take()
                await asyncio.sleep(0)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
