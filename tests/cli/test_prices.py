"""Prices that hold under a condition, set by hand; price lists from an address."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S
from trustgate.models.pricing import PriceTable
from trustgate.types import ConditionalRates, Prices, Usage


def _us(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000_000


def _add(home: Gateway, slug: str) -> None:
    home.cli("passport", "add", slug, "--input-price", "1.25", "--output-price", "10")


def _set(home: Gateway, slug: str, *options: str) -> dict[str, Any]:
    prices: dict[str, Any] = home.cli_json("passport", "set", slug, *options)["passport"]["prices"]
    return prices


def _conditional(prices: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if value is not None} for row in prices["conditional"]]


def test_prices_under_conditions_are_set_changed_and_taken_away(either_home: Gateway) -> None:
    _add(either_home, "steps")
    above = ("--above-prompt-tokens", "200_000")
    _set(either_home, "steps", *above, "--input-price", "2.50", "--output-price", "15")
    _set(either_home, "steps", "--service-tier", "priority", "--input-price", "5")
    prices = _set(either_home, "steps", *above, "--output-price", "16")
    assert (prices["input_pico_usd"], prices["output_pico_usd"]) == (1_250_000, 10_000_000)
    assert _conditional(prices) == [
        {"above_prompt_tokens": 200_000, "input_pico_usd": 2_500_000, "output_pico_usd": 16_000_000},
        {"service_tier": "priority", "input_pico_usd": 5_000_000},
    ]
    shown = either_home.cli("passport", "show", "steps").stdout
    assert "Above 200,000 prompt tokens" in shown
    assert "Tier priority" in shown
    one_less = _set(either_home, "steps", "--service-tier", "priority", "--input-price", "none")
    assert [row["above_prompt_tokens"] for row in one_less["conditional"]] == [200_000]
    assert _set(either_home, "steps", "--clear-conditions")["conditional"] == []


@pytest.mark.parametrize(
    ("prices", "free"),
    [
        (("--cached-input-price", "0.1", "--output-price", "2"), "neither read from the cache"),
        (("--output-price", "2"), "prompts"),
        (("--input-price", "1"), "completions"),
        (("--input-price", "1", "--reasoning-price", "3"), "apart from reasoning"),
        (("--input-price", "1", "--output-price", "2"), None),
        (("--input-price", "1", "--output-price", "0"), None),
        (("--call-price", "0.01"), None),
    ],
    ids=["cached-alone", "output-alone", "input-alone", "reasoning-alone", "both", "meant", "by-call"],
)
def test_what_a_price_leaves_free_is_named(either_home: Gateway, prices: tuple[str, ...], free: str | None) -> None:
    slug = f"gap-{len(prices)}-{prices[0].strip('-')}-{prices[-1]}"
    added = either_home.cli("passport", "add", slug, *prices).stderr
    assert (f"{free}" in added and "give a price of 0" in added) if free else "Note" not in added
    assert "Note" not in either_home.cli("passport", "set", slug, "--input-price", "1", "--output-price", "0").stderr


def test_images_have_prices_by_size_and_quality(either_home: Gateway) -> None:
    either_home.cli("passport", "add", "painter", "--image-price", "0.04")
    size = ("--image-size", "1024x1536", "--image-quality", "hd")
    prices = _set(either_home, "painter", *size, "--image-price", "0.12")
    assert _conditional(prices) == [{"image_size": "1024x1536", "image_quality": "hd", "image_nano_usd": 120_000_000}]


def test_a_price_to_come_is_in_the_list_with_its_date(either_home: Gateway) -> None:
    _add(either_home, "dated")
    day = (datetime.now(UTC) + timedelta(days=40)).date().isoformat()
    prices = _set(either_home, "dated", "--price-from", day, "--input-price", "2")
    assert _conditional(prices) == [{"from_us": _us(day), "input_pico_usd": 2_000_000}]
    [row] = [line for line in either_home.cli("passport", "list").stdout.splitlines() if line.startswith("dated ")]
    assert f"set by hand, {datetime.now(UTC).date().isoformat()}, until {day}" in row


@pytest.mark.parametrize("members", ['"input_pico_usd":-1', '"conditional":[{"input_pico_usd":1}]'])
def test_a_list_with_a_price_that_is_none_is_refused(either_home: Gateway, tmp_path: Path, members: str) -> None:
    file = tmp_path / "list.json"
    head = '{"format":"trustgate-price-list@v1","source":"s","as_of":"2099-01-01","models"'
    file.write_text(f'{head}:{{"gpt-4o":["openai",{{{members}}}]}}}}')
    refused = either_home.cli("passport", "prices", "update", str(file), "--yes", check=False)
    assert refused.returncode == 2 and "entry 'gpt-4o' is no price" in refused.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--above-prompt-tokens", "5"), "A condition needs a price"),
        (("--price-from", "2027-02-01", "--price-until", "2027-01-01", "--input-price", "1"), "end after it begins"),
        (("--price-from", "soon", "--input-price", "1"), "is not a date"),
        (("--price-from", "1969-12-31", "--input-price", "1"), "before 1970"),
        (("--price-until", "9999-12-31", "--input-price", "1"), "Leave the end out"),
        (("--above-prompt-tokens", "1000000001", "--input-price", "1"), "between 0 and 1,000,000,000"),
        (("--image-size", "", "--image-price", "1"), "1 to 32 printable characters"),
        (("--service-tier", "\x1b[31m", "--input-price", "1"), "1 to 32 printable characters"),
        (("--image-quality", " hd", "--image-price", "1"), "1 to 32 printable characters"),
        (("--service-tier", "flex", "--input-price", "20000"), "slip of the unit"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(
    either_home: Gateway, options: tuple[str, ...], said: str, request: pytest.FixtureRequest
) -> None:
    slug = f"refused-{request.node.callspec.indices['options']}"
    _add(either_home, slug)
    refused = either_home.cli("passport", "set", slug, *options, check=False)
    assert refused.returncode == 2, refused.stderr
    assert said in refused.stderr


def test_a_model_never_costs_nothing_where_its_condition_does_not_hold(either_home: Gateway) -> None:
    either_home.cli("passport", "add", "bare")
    condition = ("--above-prompt-tokens", "9", "--input-price", "1")
    refused = either_home.cli("passport", "set", "bare", *condition, check=False)
    assert refused.returncode == 2
    assert "no price of its own that holds without a condition" in refused.stderr
    new = either_home.cli("passport", "add", "new", *condition, check=False)
    assert new.returncode == 2
    assert "prices without a condition first" in new.stderr


def test_of_two_times_the_later_holds() -> None:
    later = ConditionalRates(from_us=200, input_pico_usd=3_000)
    earlier = ConditionalRates(from_us=100, input_pico_usd=2_000)
    for order in ((earlier, later), (later, earlier)):
        table = PriceTable(Prices(input_pico_usd=1_000, conditional=order))
        costs = [table.cost_nano_usd(Usage(prompt_tokens=1), at_us) for at_us in (99, 100, 199, 200)]
        assert costs == [1, 2, 2, 3]


# price lists from an address


class Page(ThreadingHTTPServer):
    """Answers every GET with the same."""

    status, content = 200, b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/prices.json"


class _Handler(BaseHTTPRequestHandler):
    server: Page

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[Page]:
    with Page(("127.0.0.1", 0), _Handler) as page:
        thread = threading.Thread(target=page.serve_forever)
        thread.start()
        yield page
        page.shutdown()
        thread.join(PATIENCE_S)


def _table(price: float) -> bytes:
    entry = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": price, "output_cost_per_token": 0.1}
    return json.dumps({"brand-new-model": entry}).encode()


def test_a_list_from_an_address_is_shown_before_it_is_taken(home: Gateway, page: Page) -> None:
    update = ("passport", "prices", "update", "--from-litellm", page.url, "--as-of", "2099-01-01")
    page.content = _table(0.000001)
    shown = home.cli(*update)
    assert "127.0.0.1" in shown.stdout
    assert "Nothing has been changed" in shown.stdout
    assert home.cli_json("passport", "prices", "show", "brand-new-model")["prices"][0]["source"] == ""
    taken = home.cli_json(*update, "--yes")
    assert (taken["installed"], taken["models"]) == (True, 1)
    [found] = home.cli_json("passport", "prices", "show", "brand-new-model")["prices"]
    assert found["prices"]["input_pico_usd"] == 1_000_000


@pytest.mark.parametrize("url", ["http://prices.example.com/prices.json", "ftp://127.0.0.1/prices.json"])
def test_prices_do_not_come_over_an_open_line(home: Gateway, url: str) -> None:
    refused = home.cli("passport", "prices", "update", "--from-litellm", url, check=False)
    assert refused.returncode == 2
    assert "https:// alone" in refused.stderr


def test_an_address_that_does_not_answer_as_it_should(home: Gateway, page: Page) -> None:
    update = ("passport", "prices", "update", "--from-litellm", page.url)
    page.status = 404
    missing = home.cli(*update, check=False)
    assert missing.returncode == 1
    assert "answered with status 404" in missing.stderr
    page.status, page.content = 200, b"<html>no prices</html>"
    other = home.cli(*update, check=False)
    assert other.returncode == 2
    assert f"Error: {page.url}" in other.stderr
