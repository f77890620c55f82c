"""The admin routes: who may use them, what is no command, and what a fault of our own looks like from outside."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette

from tests.admin.conftest import ADMIN_KEY, Plane
from trustgate.admin.commands import Command, Feed, KeyCreate, TenantAdd, TenantList, Write
from trustgate.admin.money import PaymentRefundCredit, PaymentSet, TenantCredit
from trustgate.admin.routes import PATH, admin_routes
from trustgate.cluster.database import DatabaseAway

_LIST = msgspec.json.encode(TenantList())


class Broken:
    """An admin whose commands fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error or ZeroDivisionError("a detail that is not shown outside")

    async def execute(self, command: Command[Any]) -> Any:
        raise self._error

    async def feed(self, command: Feed[Any], write: Write) -> Any:
        await write(b"some")
        raise self._error

    async def close(self) -> None: ...


@pytest.fixture
async def guarded(plane: Plane) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=admin_routes(plane.admin, key=ADMIN_KEY))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {ADMIN_KEY}x",
        f"Basic {ADMIN_KEY}",
        ADMIN_KEY,
        "Bearer é",
    ],
)
async def test_without_the_key_nothing_is_done(
    guarded: httpx.AsyncClient, plane: Plane, authorization: str | None
) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    answer = await guarded.post(PATH, content=msgspec.json.encode(TenantAdd(name="acme")), headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert ADMIN_KEY not in answer.text
    assert list(plane.directory.tenants()) == []


async def test_with_the_key_it_is(guarded: httpx.AsyncClient) -> None:
    for scheme in ("Bearer", "bearer"):
        answer = await guarded.post(PATH, content=_LIST, headers={"authorization": f"{scheme} {ADMIN_KEY}"})
        assert (answer.status_code, answer.json()) == (200, {"result": []})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"type": "tenant.explode"}',
        b'{"type": "tenant.add"}',
        b'{"type": "tenant.add", "name": 5}',
        b'{"type": "tenant.add", "name": "acme", "colour": "red"}',
        b'{"type": "tenant.add", "name": "\xff"}',
        b"[" * 100_000,
    ],
)
async def test_what_is_no_command_is_refused(guarded: httpx.AsyncClient, body: bytes) -> None:
    answer = await guarded.post(PATH, content=body, headers={"authorization": f"Bearer {ADMIN_KEY}"})
    assert answer.status_code == 400
    assert answer.json()["kind"] == "InvalidRequest"
    assert "same version" in answer.json()["hint"]


@pytest.mark.parametrize(
    ("command", "member"),
    [
        ({"type": "receipt.list", "since_us": 2**63}, "since_us"),
        ({"type": "receipt.list", "before_seq": -(2**63)}, "before_seq"),
        ({"type": "receipt.list", "status": [400, 2**15]}, "status"),
        ({"type": "usage.show", "until_us": 10**30}, "until_us"),
        ({"type": "key.create", "tenant": "acme", "expires_in_s": 2**63}, "expires_in_s"),
    ],
)
async def test_a_number_that_no_column_holds_is_refused_by_name(
    guarded: httpx.AsyncClient, plane: Plane, command: dict[str, Any], member: str
) -> None:
    await plane.admin.execute(TenantAdd(name="acme"))
    answer = await guarded.post(PATH, json=command, headers={"authorization": f"Bearer {ADMIN_KEY}"})
    assert answer.status_code == 400, answer.text
    assert member in answer.json()["error"]["message"]


async def test_a_credit_that_is_sent_again_with_its_idempotency_key_counts_once(
    guarded: httpx.AsyncClient, plane: Plane
) -> None:
    await plane.admin.execute(TenantAdd(name="acme"))
    await plane.admin.execute(PaymentSet(tenant="acme", mode="prepaid"))

    async def send(command: Command[Any], idempotency_key: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {ADMIN_KEY}", "idempotency-key": idempotency_key}
        return await guarded.post(PATH, content=msgspec.json.encode(command), headers=headers)

    credit = TenantCredit(tenant="acme", add_nano_usd=5)
    told = [(await send(credit, key)).json()["result"] for key in ('"8e03978e"', "8e03978e", "another")]
    assert [each.get("repeated", False) for each in told] == [False, True, False]
    assert told[2]["balance_nano_usd"] == 10
    refund = PaymentRefundCredit(tenant="acme", amount_nano_usd=3)
    assert [(await send(refund, "out")).json()["result"]["change"]["balance_nano_usd"] for _ in range(2)] == [7, 7]
    own = TenantCredit(tenant="acme", add_nano_usd=5, reference="invoice 1")
    assert (await send(own, "invoice 1")).status_code == 200
    for command in (own, KeyCreate(tenant="acme")):
        refused = await send(command, "else")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Idempotency-Key")


async def test_a_command_has_a_largest_size(guarded: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trustgate.admin.routes._MAX_COMMAND_BYTES", 10)
    answer = await guarded.post(PATH, content=_LIST, headers={"authorization": f"Bearer {ADMIN_KEY}"})
    assert (answer.status_code, answer.json()["kind"]) == (413, "RequestTooLarge")


async def test_a_fault_of_our_own_keeps_its_details(caplog: pytest.LogCaptureFixture) -> None:
    app = Starlette(routes=admin_routes(Broken(), key=None))
    with caplog.at_level(logging.ERROR, "trustgate.admin"):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            answer = await client.post(PATH, content=_LIST)
    assert answer.status_code == 500
    assert "detail" not in answer.text
    assert "ZeroDivisionError" in caplog.text, "the operator finds it in the log"


async def test_a_database_that_is_away_is_reported_as_such() -> None:
    app = Starlette(routes=admin_routes(Broken(DatabaseAway("The database is away.")), key=None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        answer = await client.post(PATH, content=_LIST)
    assert (answer.status_code, answer.json()["kind"]) == (503, "Unavailable")
