"""The price list: whose price a name has, where it comes from, and that every entry of the program's own is a price."""

from __future__ import annotations

import pytest

from trustgate.errors import InvalidRequest
from trustgate.models.catalog import Catalog
from trustgate.models.passports import check_prices
from trustgate.models.pricelist import PriceBook, as_record, built_in, data_of, newest, provider_of, write_list
from trustgate.models.prices import FREE, NOT_PRICED, slips
from trustgate.types import Passport, Prices

PROXY = "http://127.0.0.1:4000/v1"
BOOK = PriceBook(
    write_list(
        "a list",
        "2026-11-01",
        {
            "gpt-4o": ("openai", Prices(input_pico_usd=1)),
            "azure/gpt-4o": ("azure", Prices(input_pico_usd=2)),
            "mistral/mistral-large": ("mistral", Prices(input_pico_usd=3)),
            "groq/llama-3.3": ("groq", Prices(input_pico_usd=4)),
            "openrouter/openai/gpt-4o": ("openrouter", Prices(input_pico_usd=5)),
            "rerank-v3.5": ("cohere", Prices(call_nano_usd=6)),
            "unsaid": ("openai", NOT_PRICED),
        },
    )
)


@pytest.mark.parametrize(
    ("base_url", "name", "listed"),
    [
        ("https://api.openai.com/v1", "gpt-4o", "gpt-4o"),
        ("https://mine.openai.azure.com/openai", "gpt-4o", "azure/gpt-4o"),
        ("https://openrouter.ai/api/v1", "openai/gpt-4o", "openrouter/openai/gpt-4o"),
        ("https://api.mistral.ai/v1", "mistral-large", "mistral/mistral-large"),
        # A provider that the list knows and that does not have the model: no other's price is its.
        ("https://api.groq.com/openai/v1", "gpt-4o", None),
        ("https://api.groq.com/openai/v1", "llama-3.3", "groq/llama-3.3"),
        # Behind a proxy: as it is written, or its maker's.
        (PROXY, "gpt-4o", "gpt-4o"),
        (PROXY, "openai/gpt-4o", "gpt-4o"),
        (PROXY, "azure/gpt-4o", "azure/gpt-4o"),
        (PROXY, "mistral-large", "mistral/mistral-large"),
        (PROXY, "groq/llama-3.3", "groq/llama-3.3"),
        (PROXY, "rerank-v3.5", "rerank-v3.5"),
        # An open model on a server of one's own costs what its operator says.
        (PROXY, "llama-3.3", None),
        # Never by likeness.
        (PROXY, "gpt-4o-2031", None),
        (PROXY, "GPT-4o", None),
        (PROXY, "unsaid", None),
    ],
)
def test_whose_price_a_name_has(base_url: str, name: str, listed: str | None) -> None:
    found = BOOK.find(base_url, name)
    assert (found and found.name) == listed


def test_the_provider_is_that_of_the_host() -> None:
    assert provider_of("https://api.openai.com/v1") == "openai"
    assert provider_of("https://x.openai.azure.com/v1") == "azure"
    assert provider_of("https://api.openai.com.evil.example/v1") is None
    assert provider_of("https://notopenrouter.ai/v1") is None
    assert provider_of("builtin:echo") is None


def test_the_list_that_comes_with_the_program() -> None:
    book = PriceBook(built_in())
    assert len(book) > 4_000
    listed = list(book)
    for each in listed:
        check_prices(each.prices)
    assert not [each.name for each in listed if slips(each.prices)]
    for name, base_url in (("gpt-4o", PROXY), ("claude-sonnet-4-5", PROXY), ("gemini-2.5-pro", PROXY)):
        found = book.find(base_url, name)
        assert found is not None and found.prices.input_pico_usd


def test_an_operators_own_price_wins_and_free_is_a_price() -> None:
    own = Prices(input_pico_usd=7)
    catalog = Catalog(
        [
            Passport(id="1", slug="*", api_model_id="*"),
            Passport(id="2", slug="gpt-4o", api_model_id="gpt-4o", prices=own, price_source="mine"),
            Passport(id="3", slug="gpt-4o-mini", api_model_id="gpt-4o-mini", prices=FREE),
            Passport(id="4", slug="large", api_model_id="mistral/mistral-large-latest"),
            Passport(id="5", slug="own", api_model_id="own", base_url="builtin:echo"),
        ],
        [],
        default_base_url=PROXY,
    )
    prices = {
        name: resolved.price
        for name in ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "large", "own", "unheard-of")
        if (resolved := catalog.resolve(name)) is not None
    }
    assert (prices["gpt-4o"].prices, prices["gpt-4o"].source) == (own, "mine")
    assert prices["gpt-4o-mini"].prices == FREE
    assert prices["gpt-4.1"].known and prices["gpt-4.1"].source.startswith("LiteLLM")
    assert prices["large"].known
    assert not prices["unheard-of"].known
    assert not prices["own"].known
    assert catalog.not_priced() == ["own"]


def test_another_list_holds_from_the_next_request_on() -> None:
    catalog = Catalog([Passport(id="1", slug="*", api_model_id="*")], [], default_base_url=PROXY)
    before = catalog.resolve("gpt-4o")
    data = write_list("another", "2099-01-01", {"gpt-4o": ("openai", Prices(input_pico_usd=1))})
    catalog.use(as_record(data))
    after = catalog.resolve("gpt-4o")
    assert before is not None and after is not None
    assert after.price.prices == Prices(input_pico_usd=1) != before.price.prices
    assert after.price.hash != before.price.hash


def test_another_default_upstream_is_another_provider() -> None:
    catalog = Catalog([Passport(id="1", slug="*", api_model_id="*")], [], default_base_url=PROXY)
    priced = catalog.resolve("gpt-4o")
    catalog.apply_settings("https://api.groq.com/openai/v1")
    elsewhere = catalog.resolve("gpt-4o")
    assert priced is not None and priced.price.known
    assert elsewhere is not None and not elsewhere.price.known


def test_a_list_that_the_program_outdates_gives_way() -> None:
    old, new = (
        as_record(write_list("a list", as_of, {"m": ("openai", Prices(input_pico_usd=1))}))
        for as_of in ("2020-01-01", "2099-01-01")
    )
    assert newest(()).title == newest((old,)).title == PriceBook(built_in()).title
    assert newest((old, new)).title == "a list, 2099-01-01"
    assert data_of(new) == write_list("a list", "2099-01-01", {"m": ("openai", Prices(input_pico_usd=1))})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format":"other","source":"s","as_of":"d","models":{}}',
        b'{"format":"trustgate-price-list@v1","source":"s","as_of":"d","models":[]}',
    ],
)
def test_what_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a price list"):
        PriceBook(data)


def test_an_entry_that_is_no_price_is_named() -> None:
    book = PriceBook(b'{"format":"trustgate-price-list@v1","source":"s","as_of":"d","models":{"m":["p",{"dear":1}]}}')
    with pytest.raises(InvalidRequest, match="'m' is no price"):
        book.entry("m")
