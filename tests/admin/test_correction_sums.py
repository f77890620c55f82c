"""What a mistaken price billed, of receipts of every kind: which are priced again, and by what."""

from __future__ import annotations

from typing import Any

import pytest

from tests.admin.conftest import Plane
from tests.support.entries import FIRST_US, make_entry
from trustgate.admin import correcting
from trustgate.admin.commands import TenantAdd
from trustgate.admin.model_commands import PassportAdd, PassportStatus
from trustgate.admin.money import Correction, PaymentSet, TenantCorrect, TenantCredit
from trustgate.errors import Conflict, InvalidRequest, NotFound
from trustgate.models.passports import PassportFields
from trustgate.models.pricing import PriceTable
from trustgate.types import RECEIPT_PRICE_MEMBERS, Passport, Prices, Tenant

#: 1 and 2 USD a million tokens.
PRICES = Prices(input_pico_usd=1_000_000, output_pico_usd=2_000_000)
#: 100 prompt tokens and 50 completion tokens by that.
FAIR = 200_000
NOTHING_BESIDES: dict[str, Any] = {
    **dict.fromkeys(("cached_tokens", "reasoning_tokens"), 0),
    **dict.fromkeys((name for name in RECEIPT_PRICE_MEMBERS if name.endswith("_tokens")), 0),
    **dict.fromkeys(("images", "audio_ms", "characters", "searches"), 0),
    **dict.fromkeys(("service_tier", "image_size", "image_quality"), ""),
}


@pytest.fixture
async def acme(plane: Plane) -> Tenant:
    added = await plane.admin.execute(TenantAdd(name="acme"))
    return added.tenant


async def _sell(plane: Plane, slug: str, prices: Prices = PRICES, **fields: Any) -> Passport:
    return await plane.admin.execute(PassportAdd(slug=slug, fields=PassportFields(prices=prices, **fields)))


class _Bills:
    """Receipts of a tenant, one after the other in the log."""

    def __init__(self, plane: Plane, tenant: Tenant, passport: Passport) -> None:
        self._plane = plane
        self._tenant = tenant
        self._passport = passport
        self._count = 0

    def add(self, billed: int, **members: Any) -> str:
        """Returns the receipt's id: of version 3 with the price's own factor, unless others are given."""
        self._count += 1
        priced = {} if members.get("v") == 1 else {"billed_nano_usd": billed, "price_factor_ppm": 1_000_000}
        form = {"v": 3, "tenant": self._tenant.id, "model": self._passport.slug, "passport": self._passport.id}
        nothing = dict.fromkeys(("cached_tokens", "reasoning_tokens"), 0) if not priced else NOTHING_BESIDES
        entry = make_entry(self._count, **{**form, **nothing, **priced, "cost_nano_usd": billed, **members})
        self._plane.acknowledged.append(entry)
        return entry.receipt.id


@pytest.fixture
async def bills(plane: Plane, acme: Tenant) -> _Bills:
    return _Bills(plane, acme, await _sell(plane, "m"))


async def _correct(plane: Plane, **members: Any) -> Correction:
    return await plane.admin.execute(TenantCorrect(tenant="acme", **{"since_us": 0, **members}))


def _rows(found: Correction) -> list[tuple[str, int, int, int]]:
    return [(row.model, row.requests, row.billed_nano_usd, row.now_nano_usd) for row in found.rows]


async def test_each_kind_of_receipt_is_counted_where_it_belongs(plane: Plane, bills: _Bills) -> None:
    bills.add(FAIR + 1)
    bills.add(FAIR + 2)
    for n in range(2):
        bills.add(FAIR, status=200 + n)
    bills.add(FAIR + 4, v=1)
    bills.add(9, finish="refused", status=429)
    bills.add(9, finish="upstream_error", status=502)
    bills.add(FAIR + 8, finish="client_gone")
    bills.add(FAIR + 16, v=4, charged_nano_usd=FAIR + 16)
    for charged in (0, FAIR, FAIR + 17):
        bills.add(FAIR + 16, v=4, charged_nano_usd=charged)
    for _ in range(2):
        bills.add(9, model="unheard", passport="passport_unheard")
    found = await _correct(plane)
    assert _rows(found) == [("m", 5, 5 * FAIR + 31, 5 * FAIR)]
    assert (found.credit_nano_usd, found.same, found.corrected, found.otherwise, found.unpriced) == (31, 2, 0, 3, 2)
    assert (found.draws, found.change) == (False, None)


async def test_what_was_corrected_stays_so_and_the_credit_is_booked_once(
    plane: Plane, acme: Tenant, bills: _Bills
) -> None:
    first = bills.add(FAIR + 5)
    bills.add(FAIR + 7)
    await plane.admin.execute(PaymentSet(tenant="acme", mode="prepaid", price_nano_usd=1))
    one = await _correct(plane, receipt=first, book_nano_usd=5, reference="one")
    assert one.change is not None
    assert (one.draws, one.change.balance_nano_usd, one.corrected) == (True, 5, 0)
    with pytest.raises(Conflict, match="was used before") as used:
        await _correct(plane, reference="one", book_nano_usd=7)
    assert used.value.code == "reference_used"
    for expected in (6, 8):
        with pytest.raises(Conflict) as changed:
            await _correct(plane, book_nano_usd=expected)
        assert changed.value.code == "correction_changed"
    rest = await _correct(plane, book_nano_usd=7)
    assert (rest.corrected, rest.credit_nano_usd) == (1, 7)
    # Without a reference again: the one before had none either.
    for wanted in (0, 7):
        with pytest.raises(Conflict) as nothing:
            await _correct(plane, book_nano_usd=wanted)
        assert nothing.value.code == "nothing_to_give_back"
    none_left = await _correct(plane)
    assert (none_left.corrected, none_left.rows, none_left.credit_nano_usd) == (2, (), 0)
    await plane.admin.execute(PaymentSet(tenant="acme", mode="prepaid"))
    balance = await plane.admin.execute(TenantCredit(tenant="acme"))
    assert (balance.tenant.id, balance.balance_nano_usd) == (acme.id, 12)


async def test_what_would_have_cost_more_takes_nothing(plane: Plane, bills: _Bills) -> None:
    bills.add(FAIR - 3)
    assert (await _correct(plane)).credit_nano_usd == -3
    with pytest.raises(Conflict, match=r"0\.000000003 USD more") as nothing:
        await _correct(plane, book_nano_usd=-3)
    assert nothing.value.code == "nothing_to_give_back"


async def test_it_is_priced_at_the_factor_it_was_billed_at_or_the_one_given(plane: Plane, bills: _Bills) -> None:
    bills.add(2 * FAIR, price_factor_ppm=1_500_000)
    bills.add(2 * FAIR, v=1)
    assert [row[3] for row in _rows(await _correct(plane))] == [FAIR * 3 // 2 + FAIR]
    assert [row[3] for row in _rows(await _correct(plane, price_factor_ppm=500_000))] == [FAIR]
    assert [row[3] for row in _rows(await _correct(plane, price_factor_ppm=0))] == [0]


async def test_only_receipts_of_the_time_and_the_model_are_looked_at(plane: Plane, bills: _Bills) -> None:
    await _sell(plane, "other")
    for day in range(3):
        bills.add(FAIR + 10**day, created_us=FIRST_US + day)
    bills.add(FAIR + 1_000, model="other", created_us=FIRST_US + 3)
    assert (await _correct(plane, since_us=FIRST_US + 1)).credit_nano_usd == 1_110
    assert (await _correct(plane, until_us=FIRST_US + 2)).credit_nano_usd == 11
    found = await _correct(plane, model="m")
    assert [row[0] for row in _rows(found)] == ["m"]
    assert [row[0] for row in _rows(await _correct(plane))] == ["m", "other"]


async def test_a_page_of_receipts_is_followed_by_the_next_up_to_a_bound(
    plane: Plane, bills: _Bills, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correcting, "_PAGE", 2)
    monkeypatch.setattr(correcting, "_MOST", 6)
    for _ in range(5):
        bills.add(FAIR + 1)
    assert (await _correct(plane)).credit_nano_usd == 5
    for _ in range(2):
        bills.add(FAIR + 1)
    with pytest.raises(InvalidRequest, match="More than 6 receipts"):
        await _correct(plane)


async def test_a_receipt_of_another_tenant_is_not_found(plane: Plane, bills: _Bills) -> None:
    theirs = bills.add(FAIR + 1, tenant="tenant_other")
    with pytest.raises(NotFound) as refused:
        await _correct(plane, receipt=theirs)
    assert refused.value.code == "receipt_not_found"
    with pytest.raises(NotFound):
        await _correct(plane, receipt="rcpt_none")


async def test_a_given_price_is_one_models_or_one_receipts(plane: Plane, bills: _Bills) -> None:
    given = bills.add(FAIR + 9, model="unheard", passport="passport_unheard")
    half = Prices(input_pico_usd=500_000, output_pico_usd=1_000_000)
    for chosen in ({"receipt": given}, {"model": "unheard"}):
        found = await _correct(plane, prices=half, **chosen)
        assert _rows(found) == [("unheard", 1, FAIR + 9, FAIR // 2)]
    with pytest.raises(InvalidRequest, match="one model's"):
        await _correct(plane, prices=half)
    with pytest.raises(InvalidRequest, match="not said which"):
        await _correct(plane, since_us=None)


async def test_a_fallbacks_answer_costs_by_its_own_passport_as_long_as_that_holds(plane: Plane, bills: _Bills) -> None:
    dear = await _sell(plane, "dear", Prices(input_pico_usd=3_000_000, output_pico_usd=6_000_000))
    fell_back = bills.add(4 * FAIR, passport=dear.id)
    bills.add(FAIR, passport="passport_unheard")
    assert _rows(await _correct(plane)) == [("m", 1, 4 * FAIR, 3 * FAIR)]
    await plane.admin.execute(PassportStatus(passport="dear", status="revoked"))
    assert _rows(await _correct(plane, receipt=fell_back)) == [("m", 1, 4 * FAIR, FAIR)]
    await plane.admin.execute(PassportStatus(passport="m", status="revoked"))
    assert (await _correct(plane, receipt=fell_back)).unpriced == 1


async def test_a_wildcards_answer_costs_what_the_list_has_of_its_model(plane: Plane, bills: _Bills) -> None:
    """It answered for another passport's model, so it is found by the name that the upstream gave it."""
    wild = await _sell(plane, "openai/*", Prices(), base_url="https://api.openai.com/v1")
    book = plane.catalog.price_book
    for upstream_model, listed in (("gpt-4o-mini", "gpt-4o-mini"), ("", "gpt-4o")):
        asked = bills.add(1, passport=wild.id, upstream_model=upstream_model, model="gpt-4o")
        row = book.find("https://api.openai.com/v1", listed)
        assert row is not None
        [found] = (await _correct(plane, receipt=asked)).rows
        assert found.now_nano_usd == _fair(book.price(row))
    plain = await _sell(plane, "gpt-4o", Prices(), base_url="https://api.openai.com/v1", api_model_id="gpt-4o-mini")
    row = book.find("https://api.openai.com/v1", "gpt-4o-mini")
    assert row is not None
    asked = bills.add(1, passport=plain.id, upstream_model="gpt-4o", model="m")
    [found] = (await _correct(plane, receipt=asked)).rows
    assert found.now_nano_usd == _fair(book.price(row))


def _fair(table: PriceTable) -> int:
    rates = table.prices
    assert rates.input_pico_usd is not None
    assert rates.output_pico_usd is not None
    return -(-(100 * rates.input_pico_usd + 50 * rates.output_pico_usd) // 1_000)


async def test_every_counter_of_a_receipt_is_priced(plane: Plane, acme: Tenant) -> None:
    """Each counter at a rate of its own; the receipt has 3 of each kind of token."""
    prices = Prices(
        input_pico_usd=1_000,
        output_pico_usd=10_000,
        cached_input_pico_usd=1_000_000,
        image_nano_usd=1_000_000,
        search_nano_usd=10_000_000,
    )
    bills = _Bills(plane, acme, await _sell(plane, "all", prices))
    counts = {**NOTHING_BESIDES, "cached_tokens": 10, "images": 3, "searches": 2}
    bills.add(5, **counts)
    assert [row[3] for row in _rows(await _correct(plane))] == [90 + 500 + 10_000 + 3_000_000 + 20_000_000]


async def test_what_looked_at_another_call_still_costs_no_call(plane: Plane, acme: Tenant) -> None:
    sold = await _sell(plane, "called", Prices(call_nano_usd=700))
    bills = _Bills(plane, acme, sold)
    table = PriceTable(sold.prices)
    bills.add(900, price_hash=table.hash)
    bills.add(900, price_hash=table.without_call.hash)
    bills.add(900, price_hash="0" * 64)
    assert _rows(await _correct(plane)) == [("called", 3, 2_700, 1_400)]
