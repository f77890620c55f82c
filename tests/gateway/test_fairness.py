"""One tenant does not stop the others: slots and memory are shared before a byte of a body is read."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, wait_until
from tests.support.upstream import Upstream
from trustgate.gateway.path.shares import FREE_MULTIPLE, Shares
from trustgate.settings import load_settings

BODY = json.dumps({"model": "gpt-4o", "messages": HELLO}).encode()


class Slow:
    """A request whose body does not come: its head is sent, with the wish to be told when the body is wanted."""

    def __init__(self, tenant: Tenant, size: int = len(BODY), path: str = "/v1/chat/completions") -> None:
        host, _, port = tenant.gateway.base_url.rpartition("/")[2].rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
            f"content-type: application/json\r\ncontent-length: {size}\r\nexpect: 100-continue\r\n\r\n"
        )
        self.socket.sendall(head.encode())
        self.answer = self._head()

    def _head(self) -> str:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.socket.recv(65536)
            assert piece, f"the connection ended after {data!r}"
            data += piece
        return data.decode()

    @property
    def status(self) -> int:
        """100: the gateway wants the body; else what it refuses with."""
        return int(self.answer.split(" ")[1])

    def finish(self, body: bytes = BODY) -> int:
        self.socket.sendall(body)
        return int(self._head().split(" ")[1])


@pytest.fixture(scope="module")
def gateway(make_module_gateway: GatewayFactory, shared_upstream: Upstream) -> Gateway:
    gateway = make_module_gateway(
        upstream=shared_upstream.api_url,
        environment={"TRUSTGATE_SERVE_MAX_CONCURRENT_REQUESTS": "20"},
    ).start()
    gateway.cli("plan", "add", "two", "--parallel-requests", "2")
    return gateway


@contextlib.contextmanager
def slow(tenant: Tenant, count: int, size: int = len(BODY)) -> Iterator[list[Slow]]:
    with contextlib.ExitStack() as stack:
        requests = []
        for _ in range(count):
            requests.append(Slow(tenant, size))
            stack.enter_context(requests[-1].socket)
        yield requests


def test_a_body_that_does_not_come_counts_as_a_parallel_request(
    gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant, other = sign_up(gateway, "--plan", "two"), sign_up(gateway)
    with slow(tenant, 30) as requests:
        assert [request.status for request in requests] == [100, 100] + [429] * 28
        assert "retry-after: 1\r\n" in requests[2].answer
        assert other.chat().status_code == 200
        # A slot comes back with the end of its request, not before.
        assert requests[0].finish() == 200
        with slow(tenant, 2) as more:
            assert [request.status for request in more] == [100, 429]
    wait_until(lambda: tenant.chat().status_code == 200, "the slots of those that hung up")


def test_a_refusal_before_the_body_is_on_record(gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    tenant = sign_up(gateway, "--plan", "two")
    with slow(tenant, 3) as requests:
        assert requests[2].status == 429
        assert "x-trustgate-receipt: " in requests[2].answer
    [refused] = [receipt for receipt in tenant.receipts() if receipt["finish"] == "refused"]
    assert (refused["status"], refused["model"], refused["prompt_tokens"]) == (429, "", 0)


def test_a_tenant_without_limits_leaves_slots_to_the_others(
    gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant, other = sign_up(gateway, "--plan", "internal"), sign_up(gateway, "--plan", "internal")
    with slow(tenant, 30) as requests:
        assert [request.status for request in requests] == [100] * 16 + [503] * 14
        assert "retry-after: 1\r\n" in requests[-1].answer
        assert other.chat().status_code == 200
        with slow(other, 5) as others:
            # Four times of what is free: 3 of 4, when 1 is left.
            assert [request.status for request in others] == [100] * 4 + [503]
    wait_until(lambda: tenant.chat().status_code == 200, "the slots of those that hung up")


# the rule

Claims = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=60)


def _lines(tenant: Tenant, count: int, path: str = "/v1/chat/completions") -> bytes:
    """So many whole requests in one piece."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\nx-request-id: mine-1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    return (head.encode() + BODY) * count


def test_what_has_no_room_is_refused_at_the_door_in_the_form_of_its_api(
    gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant, other = sign_up(gateway, "--plan", "internal"), sign_up(gateway, "--plan", "internal")
    with slow(tenant, 16) as requests:
        assert [request.status for request in requests] == [100] * 16
        counted = _counted(gateway, "overloaded")
        with tenant.client(tenant.secret) as client:
            refused = client.post("/v1/chat/completions", content=BODY, headers={"x-request-id": "mine"})
            other_form = client.post("/v1/messages", content=BODY)
            health = client.get("/health")
            wrong = client.post("/v1/chat/completions", headers={"authorization": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1" and refused.headers["x-should-retry"] == "true"
        assert refused.headers["x-request-id"] == "mine"
        assert (other_form.status_code, other_form.json()["error"]["type"]) == (503, "overloaded_error")
        assert (health.status_code, wrong.status_code) == (200, 401)
        # What is told of them is a second old at most.
        wait_until(lambda: _counted(gateway, "overloaded") == counted + 2, "both refusals in /metrics")
        assert other.chat().status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_request_that_is_refused_again_gets_the_same_answer_with_an_id_of_its_own(
    gateway: Gateway, scripted: Upstream, sign_up: SignUp, path: str
) -> None:
    tenant = sign_up(gateway, "--plan", "internal")
    with slow(tenant, 16), tenant.client(tenant.secret) as client:
        counted = _counted(gateway, "overloaded")
        answers = [client.post(path, content=BODY) for _ in range(4)]
        ids = [answer.headers.pop("x-request-id") for answer in answers]
        assert len(set(ids)) == 4 and all(re.fullmatch("req_[0-9a-f]{32}", each) for each in ids)
        assert [answer.headers.pop("date")[-3:] for answer in answers] == ["GMT"] * 4
        for answer in answers:  # a body that comes late ends its connection: which of them does, the machine decides
            answer.headers.pop("connection", None)
        assert [dict(answer.headers) for answer in answers] == [dict(answers[0].headers)] * 4
        # Anthropic's form has the request's id in its body.
        texts = [answer.text.replace(number, "") for answer, number in zip(answers, ids, strict=True)]
        assert texts == [texts[0]] * 4 and answers[0].headers["retry-after"] == "1"
        wait_until(lambda: _counted(gateway, "overloaded") == counted + 4, "all refusals in /metrics")


def _counted(gateway: Gateway, code: str) -> int:
    text = httpx.get(f"{gateway.base_url}/metrics").text
    found = re.search(rf'trustgate_errors_total{{code="{code}"}} (\d+)', text)
    return 0 if found is None else int(found[1])


def test_a_thousand_refusals_that_came_in_one_piece_are_given_in_order(
    gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant = sign_up(gateway, "--plan", "internal")
    with slow(tenant, 16):
        host, _, port = gateway.base_url.rpartition("/")[2].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(_lines(tenant, 1_000))
            data = b""
            while data.count(b"HTTP/1.1 503 ") < 1_000 or not data.endswith(b"}"):
                piece = connection.recv(1 << 20)
                assert piece, f"the connection ended after {data.count(b'HTTP/1.1 503 ')} answers"
                data += piece
        assert data.count(b"HTTP/1.1 ") == data.count(b"x-request-id: mine-1\r\n") == 1_000


@given(st.integers(1, 400), Claims)
def test_whatever_tenants_take_there_is_no_more_than_there_is(most: int, claims: list[tuple[str, int]]) -> None:
    shares = Shares(most)
    held: dict[str, int] = {}
    for tenant, amount in claims:
        may_have = shares.has_room(tenant, amount)
        assert shares.take_if_room(tenant, amount) is may_have
        if may_have:
            held[tenant] = held.get(tenant, 0) + amount
        assert shares.total == sum(held.values()) <= most
    for tenant, amount in held.items():
        shares.give_back(tenant, amount)
    assert shares.total == 0
    assert shares.has_room("a", most)


@given(st.integers(1, 8), st.integers(0, 3000))
def test_tenants_that_want_everything_get_the_same_and_leave_a_share_free(tenants: int, more: int) -> None:
    most = 10 * (1 + FREE_MULTIPLE * tenants) + more
    shares = Shares(most)
    names = [str(number) for number in range(tenants)]
    for _ in range(most):
        for name in names:
            if shares.has_room(name, 1):
                shares.take(name, 1)
    held = [shares.held(name) for name in names]
    assert max(held) - min(held) <= FREE_MULTIPLE
    assert most - shares.total >= most // (1 + FREE_MULTIPLE * tenants)
    assert shares.has_room("a newcomer", 1)


def test_a_tenant_has_at_most_four_times_what_is_free() -> None:
    assert FREE_MULTIPLE == 4
    shares = Shares(10)
    assert not shares.has_room("a", 11) and shares.has_room_for_all(7) and not shares.has_room_for_all(8)
    shares.take("a", 6)
    assert shares.has_room("a", 1, 1, 1) and not shares.has_room("a", 1, 2, 2), "two of its own are on their way"
    assert shares.has_room_for_all()
    shares.take("a", 2)
    assert not shares.has_room("a", 1) and shares.has_room("b", 2) and not shares.has_room("b", 3)
    assert (shares.held("a"), shares.held("b"), shares.is_full) == (8, 0, False)
    assert not shares.has_room_for_all()
    shares.take("b", 2)
    assert shares.is_full and not shares.has_room("c", 1)


def test_one_tenant_alone_has_room_for_a_thousand_streams_and_others_for_theirs(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    shares = Shares(settings.serve.max_concurrent_requests)
    while shares.has_room("alone", 1):
        shares.take("alone", 1)
    assert shares.held("alone") == 1_000 and shares.has_room("another", 200)
    assert settings.upstream.max_connections >= settings.serve.max_concurrent_requests, "they wait for connections"


@given(st.integers(1, 60), st.lists(st.integers(0, 3), max_size=80))
def test_where_there_is_room_for_all_no_tenant_is_refused(most: int, takers: list[int]) -> None:
    shares = Shares(most)
    for taker in takers:
        if shares.has_room_for_all():
            assert all(shares.has_room(str(tenant), 1) for tenant in range(4))
        shares.take(str(taker), 1)


@given(st.integers(1, 60), st.lists(st.integers(0, 3), max_size=80), st.lists(st.integers(0, 3), max_size=20))
def test_what_is_on_its_way_counts_as_if_it_were_there(most: int, takers: list[int], coming: list[int]) -> None:
    before, after = Shares(most), Shares(most)
    for taker in takers:
        before.take(str(taker), 1)
    for taker in [*takers, *coming]:
        after.take(str(taker), 1)
    assert before.has_room_for_all(len(coming)) == after.has_room_for_all()
    for tenant in range(5):
        found = before.has_room(str(tenant), 1, len(coming), coming.count(tenant))
        assert found == after.has_room(str(tenant), 1)
