"""What is judged by its head alone: the same room as on the path, in the order in which requests wait for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from trustgate.access.directory import Directory
from trustgate.gateway.api.endpoints import ENDPOINTS
from trustgate.gateway.path.inflight import Cancellation, InFlight
from trustgate.gateway.path.shedding import Shedding
from trustgate.http.parser import RequestHead, read_head


class Keys:
    """Every key is good, and its own tenant's."""

    def authenticate(self, token: bytes, at_us: int, digest: bytes = b"") -> Any:
        return SimpleNamespace(tenant=SimpleNamespace(id=token.decode()))


def head_of(tenant_id: str) -> RequestHead:
    return read_head(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: 0\r\n\r\n"
        % tenant_id.encode()
    )


def hold(running: InFlight, count: int) -> list[Cancellation]:
    """Fill the tenant's slots."""
    held = [running.admit("key_a", "a") for _ in range(count)]
    for cancellation in held:
        running.add(cancellation)
    return held


@pytest.fixture
def running() -> InFlight:
    return InFlight(10, 0)  # eight of them may be one tenant's


@pytest.fixture
def shed(running: InFlight) -> Shedding:
    return Shedding(
        ENDPOINTS,
        cast("Directory", Keys()),
        running,
        lambda outcome: None,
        count=lambda error: True,
        trusts_id=bool,
        has_cors=False,
    )


async def test_a_tenants_request_waits_behind_those_of_its_own_and_no_others(running: InFlight, shed: Shedding) -> None:
    calls: list[bool] = []
    shed.on_room(lambda: calls.append(shed.has_room("a")))
    held = hold(running, 8)
    waiting = [head_of("a") for _ in range(2)]
    for head in waiting:
        assert shed.judge(head) == "share" and shed.waits_for(head, "share") == "a"
    assert not shed.has_room("a") and shed.has_room("b") and not calls
    running.discard(held[0])
    assert calls == [True], "there is room, and what waits for it is called"
    assert shed.judge(head_of("a"), {"a": 1}) == "share", "one more waits behind it"
    assert shed.judge(head_of("b"), {"a": 1}) == "", "another tenant's does not"
    assert [shed.judge(head) for head in waiting] == ["", "share"], "its turn has come, and there was room for one"


async def test_a_request_that_does_not_take_its_place_gives_it_back(running: InFlight, shed: Shedding) -> None:
    calls: list[bool] = []
    held = hold(running, 8)
    comes = head_of("a")
    assert shed.judge(comes) == "share"
    running.discard(held[0])
    assert shed.judge(comes) == "" and not shed.has_room("a")
    shed.on_room(lambda: calls.append(shed.has_room("a")))
    shed.begun(comes)
    shed.begun(comes)
    assert calls == [True]
    running.most = 20
    assert calls == [True, True]


async def test_while_the_gateway_shuts_down_nothing_waits(running: InFlight, shed: Shedding) -> None:
    hold(running, 8)
    running.draining = True
    late = head_of("a")
    assert shed.judge(late) == "draining" and shed.waits_for(late, "draining") is None
    assert not shed.has_room("a")
