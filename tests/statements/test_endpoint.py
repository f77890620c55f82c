"""``/v1/statements`` of a running gateway: each tenant's own, and no other's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.support.gateway import Gateway
from trustgate.errors import RateLimited
from trustgate.gateway.views.statements import MOST_OF_A_TENANT, TenantStatements
from trustgate.receipts.note import VerifierKey
from trustgate.statements.verify import verify_statement

CHAT = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "What is a statement?"}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("statements") / "home", upstream="builtin:echo").start()
    yield gateway
    gateway.close()


def client(gateway: Gateway, secret: str) -> httpx.Client:
    return httpx.Client(base_url=gateway.api_url, headers={"authorization": f"Bearer {secret}"})


def test_a_tenant_gets_its_own_statement(gateway: Gateway, tmp_path: Path) -> None:
    acme, other = (client(gateway, gateway.add_tenant(name)) for name in ("acme", "Zweite"))
    with acme, other:
        for caller, times in ((acme, 3), (other, 2), (acme, 2)):
            for _ in range(times):
                assert caller.post("/chat/completions", json=CHAT).status_code == 200
        months = acme.get("/statements").json()
        (card,) = months["data"]
        assert (card["object"], card["is_final"]) == ("statement", False)

        statement = acme.get(f"/statements/{card['id']}")
        key = VerifierKey.parse(httpx.get(f"{gateway.base_url}/log/keys").json()["vkey"])
        verdict = verify_statement(statement.content, key=key)
        assert verdict.ok, verdict.failed
        assert statement.headers["content-type"] == "application/json"
        document = statement.json()
        assert document["account"]["total"]["requests"] == 5 and document["names"]["tenant"] == "acme"
        assert {receipt["tenant"] for receipt in document["receipts"]} == {document["account"]["tenant"]}

        page = acme.get(f"/statements/{card['id']}", params={"format": "html"})
        assert page.headers["content-type"].startswith("text/html")
        assert verify_statement(page.content, key=key).checks[-1].state == "passed"
        assert b"acme" in page.content and b"Zweite" not in page.content
        sheet = acme.get(f"/statements/{card['id']}", params={"format": "csv"})
        assert sheet.text.startswith("tenant,") and "\r\n" in sheet.text

    made = tmp_path / "by-command.json"
    gateway.cli("statement", "acme", "--month", card["id"], "-o", str(made))
    by_command = json.loads(made.read_bytes())["account"]
    assert by_command == document["account"] | {"issued_us": by_command["issued_us"]}


def test_what_cannot_be_is_refused(gateway: Gateway) -> None:
    with client(gateway, gateway.add_tenant("empty")) as empty:
        assert empty.get("/statements").json() == {"object": "list", "data": []}
        for path, status, code in (
            ("/statements/2026-10", 404, "statement_not_found"),
            ("/statements/october", 400, "invalid_month"),
            ("/statements/2026-10?format=docx", 400, "invalid_request"),
        ):
            refused = empty.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code), path
    assert httpx.get(f"{gateway.api_url}/statements").status_code == 401


class FullLog:
    """A log whose flush has no end: the first statement is being made, and the others wait."""

    async def flush(self) -> None:
        await asyncio.Event().wait()


async def test_of_one_tenant_so_many_statements_wait_and_another_has_its_turn() -> None:
    directory = SimpleNamespace(keys_of=lambda tenant_id: [])
    unused: Any = None
    views = TenantStatements(directory, unused, FullLog(), unused, unused)  # type: ignore[arg-type]

    def ask(tenant: str) -> asyncio.Task[Any]:
        caller: Any = SimpleNamespace(tenant=SimpleNamespace(id=tenant, name=tenant))
        scope = {"path_params": {"month": "2026-10"}, "query_string": b""}
        return asyncio.create_task(views.show(caller, scope))

    waiting = [ask("one") for _ in range(MOST_OF_A_TENANT)]
    with pytest.raises(RateLimited) as refused:
        await ask("one")
    assert refused.value.code == "too_many_parallel_requests" and refused.value.headers["retry-after"] == "1"
    other = ask("other")
    await asyncio.sleep(0)
    assert not other.done() and not any(task.done() for task in waiting)
    # One that is given up, made or waiting, leaves its place.
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    again = ask("one")
    await asyncio.sleep(0)
    assert not again.done()
    for task in (other, again):
        task.cancel()
    await asyncio.gather(other, again, return_exceptions=True)
