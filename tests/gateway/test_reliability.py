"""What survives: kill -9, SIGTERM, a dead upstream, a second server. Each test has a gateway of its own."""

from __future__ import annotations

import random
import socket
import threading
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.upstream import DONE, Gate, Reply, Upstream, delta

KILLS = 50


class Load:
    """Callers that keep a gateway busy and remember every answer they saw the end of."""

    def __init__(self, tenant: Tenant, callers: int = 4) -> None:
        self.tenant = tenant
        self.answered: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number % 2 == 0,)) for number in range(callers)]
        for thread in self._threads:
            thread.start()

    def _call(self, stream: bool) -> None:
        with self.tenant.client(self.tenant.secret) as client:
            while not self._stop.is_set():
                try:
                    response = client.post(
                        "/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO, "stream": stream}
                    )
                except httpx.HTTPError:
                    self._stop.wait(0.02)
                    continue
                if response.status_code == 200 and (not stream or response.content.endswith(DONE)):
                    self.answered.append(response.headers["x-trustgate-receipt"])

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(upstream=upstream.api_url).start()
    tenant = sign_up(gateway, "--plan", "growth")
    moments = random.Random(7)
    load = Load(tenant)
    try:
        for _ in range(KILLS):
            seen = len(load.answered)
            more = moments.randrange(1, 40)
            wait_until(lambda: len(load.answered) >= seen + more, "answers under load")  # noqa: B023
            gateway.kill()
            gateway.start()
    finally:
        load.stop()
    receipts = tenant.receipts()
    kept = [receipt["id"] for receipt in receipts]
    assert len(load.answered) > KILLS
    assert len(kept) == len(set(kept)), "a receipt was doubled"
    assert set(load.answered) <= set(kept), "an acknowledged receipt was lost"
    assert [receipt["tseq"] for receipt in receipts] == list(range(1, len(receipts) + 1))
    counted = [receipt for receipt in receipts if receipt["finish"] != "upstream_error"]
    assert tenant.used()["month"]["requests"] == len(counted), "the quota is not what the receipts say"
    total = gateway.cli_json("usage", "--tenant", tenant.name)["total"]
    assert total["requests"] == len(counted)


def test_quotas_go_on_where_they_were_after_a_restart(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(upstream=upstream.api_url).start()
    gateway.cli("plan", "add", "three", "--requests-per-month", "3")
    tenant = sign_up(gateway, "--plan", "three")
    assert tenant.chat().status_code == 200
    gateway.kill()
    gateway.start()
    assert tenant.chat().status_code == 200
    assert gateway.stop() == 0
    gateway.start()
    assert tenant.chat().status_code == 200
    assert tenant.chat().status_code == 429


def test_a_keys_limit_goes_on_where_it_was_after_rotation_and_restart(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(upstream=upstream.api_url).start()
    tenant = sign_up(gateway)
    key = gateway.cli_json("key", "create", tenant.name, "--requests-per-month", "2")["key"]
    body = {"model": "gpt-4o", "messages": HELLO}
    with tenant.client(key["secret"]) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    new = gateway.cli_json("key", "rotate", key["id"])["key"]
    with tenant.client(new["secret"]) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert client.post("/v1/chat/completions", json=body).status_code == 429
        gateway.kill()
        gateway.start()
        assert client.post("/v1/chat/completions", json=body).status_code == 429
    assert gateway.cli_json("doctor", "--books")["ok"]


def test_sigterm_lets_a_running_stream_end(make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp) -> None:
    gateway = make_gateway(upstream=upstream.api_url).start()
    tenant = sign_up(gateway)
    gate = Gate()
    upstream.script(Reply.sse([delta("a"), gate, delta("b", finish_reason="stop"), DONE]))
    with tenant.stream() as response:
        lines = response.iter_lines()
        assert '"a"' in next(lines)
        stopping = threading.Thread(target=lambda: codes.append(gateway.stop()))
        codes: list[int] = []
        stopping.start()
        # Not only when the backlog is full.
        wait_until(lambda: not accepts(gateway), "the gateway to stop accepting", timeout_s=10)
        gate.open()
        assert any("[DONE]" in line for line in lines)
    stopping.join()
    assert codes == [0]
    # The books are complete without the server, through the same commands.
    [receipt] = tenant.receipts()
    assert receipt["finish"] == "complete"


def test_a_stream_that_does_not_end_is_cut_after_the_grace(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(upstream=upstream.api_url, environment={"TRUSTGATE_SERVE_SHUTDOWN_GRACE_S": "0.2"}).start()
    tenant = sign_up(gateway)
    gate = Gate()
    upstream.script(Reply.sse([delta("a"), gate, DONE]))
    with tenant.stream() as response:
        lines = response.iter_lines()
        assert next(lines)
        assert gateway.stop() == 0
        assert "shutting_down" in "".join(lines)
    [receipt] = tenant.receipts()
    assert receipt["finish"] == "cut"
    gate.open()


def test_a_request_that_takes_too_long_is_ended(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(upstream=upstream.api_url, environment={"TRUSTGATE_SERVE_REQUEST_TIMEOUT_S": "0.5"}).start()
    tenant = sign_up(gateway)
    gate = Gate()
    upstream.script(Reply.chat().held(gate), Reply.sse([delta("a"), gate, DONE]))
    response = tenant.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (504, "request_deadline")
    with tenant.stream() as streamed:
        assert "request_deadline" in streamed.read().decode()
    assert [receipt["finish"] for receipt in tenant.receipts()] == ["upstream_error", "cut"]
    assert tenant.used()["day"]["requests"] == 1
    gate.open()


def test_a_silent_upstream_is_given_up(make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp) -> None:
    environment = {"TRUSTGATE_UPSTREAM_READ_TIMEOUT_S": "0.3", "TRUSTGATE_UPSTREAM_RETRIES": "0"}
    gateway = make_gateway(upstream=upstream.api_url, environment=environment).start()
    tenant = sign_up(gateway)
    gate = Gate()
    upstream.script(Reply.hang(), Reply.sse([delta("a"), gate, DONE]))
    response = tenant.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
    with tenant.stream() as streamed:
        assert "upstream_timeout" in streamed.read().decode()
    gate.open()


def test_a_full_gateway_says_so_at_once(make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp) -> None:
    environment = {"TRUSTGATE_SERVE_MAX_CONCURRENT_REQUESTS": "1"}
    gateway = make_gateway(upstream=upstream.api_url, environment=environment).start()
    tenant = sign_up(gateway)
    gate = Gate()
    upstream.script(Reply.sse([delta("a"), gate, delta(None, finish_reason="stop"), DONE]))
    with tenant.stream() as response:
        lines = response.iter_lines()
        assert next(lines)
        refused = httpx.post(
            f"{gateway.api_url}/chat/completions",
            json={"model": "gpt-4o", "messages": HELLO},
            headers={"authorization": f"Bearer {tenant.secret}"},
            trust_env=False,
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        gate.open()
        assert list(lines)
    assert tenant.chat().status_code == 200


def test_a_dead_upstream(make_gateway: GatewayFactory, sign_up: SignUp) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gateway = make_gateway(upstream=f"http://127.0.0.1:{unused.getsockname()[1]}/v1").start()
        tenant = sign_up(gateway)
        response = tenant.chat()
        assert response.status_code == 502
        assert "127.0.0.1" not in response.text
        assert tenant.http.get("/health").status_code == 200
        wait_until(lambda: "could not be reached" in gateway.logs(), "the warning about the upstream")
        ready = tenant.http.get("/ready")
        assert (ready.status_code, ready.json()["checks"]["store"]) == (503, "ok")
        # The model that needs no upstream answers all the same.
        assert tenant.chat(model="trustgate/echo").status_code == 200
        statuses = [tenant.chat().status_code for _ in range(3)]
        assert statuses[-1] == 503, "a target that keeps failing rests"


def test_a_second_server_explains_itself_and_harms_nobody(gateway: Gateway) -> None:
    second = gateway.cli("serve", "--port", "0", check=False)
    assert second.returncode == 6
    assert f"{gateway.process.pid}" in second.stderr
    assert second.stdout == ""
    assert gateway.cli_json("tenant", "list") == {"tenants": []}


def test_a_port_in_use_is_a_sentence(make_gateway: GatewayFactory, gateway: Gateway) -> None:
    port = gateway.base_url.rpartition(":")[2]
    other = make_gateway()
    refused = other.cli("serve", "--port", port, check=False)
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}" in refused.stderr
    assert "--port" in refused.stderr


def test_commands_do_the_same_with_and_without_a_server(make_gateway: GatewayFactory, upstream: Upstream) -> None:
    gateway = make_gateway(upstream=upstream.api_url)
    secret = gateway.add_tenant("before")
    gateway.start()
    answered = chat(gateway, secret)
    assert answered.status_code == 200
    during = gateway.cli_json("tenant", "list")
    receipt = gateway.cli_json("receipt", "show", answered.headers["x-trustgate-receipt"])
    gateway.kill()
    assert gateway.cli_json("tenant", "list") == during
    assert gateway.cli_json("receipt", "show", answered.headers["x-trustgate-receipt"]) == receipt


def chat(gateway: Gateway, secret: str) -> Any:
    return httpx.post(
        f"{gateway.api_url}/chat/completions",
        json={"model": "gpt-4o", "messages": HELLO},
        headers={"authorization": f"Bearer {secret}"},
        trust_env=False,
    )


def accepts(gateway: Gateway) -> bool:
    host, port = gateway.base_url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(autouse=True)
def _no_leftovers(upstream: Upstream) -> None:
    """Every test here checks, through ``upstream``, that its script was used up."""
