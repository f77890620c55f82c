"""``usage`` and ``receipt``: which rows they find, in which order, and under which names."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import Gateway
from tests.support.month import KEYS, MONTHS, TENANTS, fill, rows

ROWS = rows(240)
SEPTEMBER = MONTHS[1]
INSIDE = [row for row in ROWS if SEPTEMBER.from_us <= row.at_us < SEPTEMBER.until_us]


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    gateway = Gateway(tmp_path_factory.mktemp("books") / "home")
    asyncio.run(fill(gateway.home, ROWS))
    return gateway


@pytest.mark.parametrize("by", ["day", "hour", "model", "key", "tenant"])
def test_a_months_usage_is_that_of_its_receipts_the_dearest_first(books: Gateway, by: str) -> None:
    month = books.cli_json("usage", "--month", str(SEPTEMBER), "--by", by)
    span = books.cli_json("usage", "--since", "2026-09-01", "--until", "2026-10-01", "--by", by)
    assert month == span
    used = [row for row in INSIDE if row.counts]
    assert month["total"]["requests"] == len(used)
    assert month["total"]["billed_nano_usd"] == sum(row.billed for row in used)
    listed = month["usage"]
    if by in ("day", "hour"):
        assert listed == sorted(listed, key=lambda row: row["group"])
        assert all(row["group"].startswith("2026-09-") for row in listed)
    else:
        assert listed == sorted(listed, key=lambda row: -row["billed_nano_usd"])
    if by == "tenant":
        assert {row["name"] for row in listed} == set(TENANTS)


def test_keys_have_names_that_tell_them_apart(books: Gateway) -> None:
    shown = books.cli("usage", "--by", "key", "--month", str(SEPTEMBER)).stdout
    assert f"{TENANTS[0]} tgk_00…9xYz" in shown and f"{TENANTS[0]} {KEYS[1]} tgk_01…9xYz" in shown
    assert KEYS[0] not in shown and "key_00" not in shown
    own = books.cli("usage", "--by", "key", "--tenant", TENANTS[0]).stdout
    assert "\ntgk_00…9xYz" in own and f"\n{KEYS[1]} tgk_01…9xYz" in own


def test_a_month_is_a_span_of_its_own(books: Gateway) -> None:
    refused = books.cli("usage", "--month", "last", "--since", "7d", check=False)
    assert refused.returncode != 0 and "--month is a span of its own" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--key", "key_01"), lambda row: row.key == "key_01"),
        (("--key", "tgk_01…9xYz"), lambda row: row.key == "key_01"),
        (("--model", "openai/*mini"), lambda row: row.model.endswith("mini")),
        (("--model", "gpt-4o"), lambda row: False),
        (("--status", "429"), lambda row: row.finish != "credited" and not row.counts),
        (("--status", "2xx"), lambda row: row.finish == "credited" or row.counts),
        (("--ended", "credited"), lambda row: row.finish == "credited"),
        (
            ("--ended", "client_gone", "--tenant", TENANTS[2]),
            lambda row: row.finish == "client_gone" and row.tenant == 2,
        ),
        (("--since", "2026-09-01", "--until", "2026-10-01"), lambda row: row in INSIDE),
    ],
)
def test_receipts_are_found_by_what_they_are(books: Gateway, arguments: tuple[str, ...], wanted: Any) -> None:
    found = books.cli_json("receipt", "list", "--limit", "1000", *arguments)["receipts"]
    assert {each["receipt"]["created_us"] for each in found} == {row.at_us for row in ROWS if wanted(row)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--status", "7xx"), "is not a status"),
        (("--status", "99"), "is not a status"),
        (("--ended", "well"), "'well' is not one of"),
        (("--key", "nobody's"), "There is no key"),
    ],
)
def test_what_no_receipt_can_be_is_refused(books: Gateway, arguments: tuple[str, ...], told: str) -> None:
    refused = books.cli("receipt", "list", *arguments, check=False)
    assert refused.returncode != 0 and told in refused.stderr


def test_a_receipt_is_found_by_its_requests_id(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "home", upstream="builtin:echo").start()
    secret = gateway.add_tenant()
    body = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "hello"}]}
    url, headers = f"{gateway.api_url}/chat/completions", {"authorization": f"Bearer {secret}"}
    answer = httpx.post(url, json=body, headers=headers)
    own = httpx.post(url, json=body, headers={**headers, "x-request-id": "mine-1"})

    shown = gateway.cli_json("receipt", "show", answer.headers["x-request-id"])
    unknown = gateway.cli("receipt", "show", own.headers["x-request-id"], check=False)

    assert shown["receipt"]["id"] == answer.headers["x-trustgate-receipt"]
    assert own.headers["x-request-id"] == "mine-1"
    assert unknown.returncode != 0 and "client's own id" in unknown.stderr
    gateway.close()
