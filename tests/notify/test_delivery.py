"""Notices of a running gateway, as those see them who are told: over real sockets, and by real programs."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from standardwebhooks import WebhookVerificationError

from tests.conftest import GatewayFactory
from tests.notify.conftest import QUICK
from tests.support.gateway import Gateway
from tests.support.receiver import Receiver
from tests.support.upstream import Upstream


@pytest.fixture
def gateway(make_gateway: GatewayFactory, upstream: Upstream) -> Gateway:
    return make_gateway(upstream=upstream.url, environment=QUICK).start()


def _subscribe(gateway: Gateway, receiver: Receiver, *options: str) -> str:
    made = gateway.cli_json("notify", "add", receiver.url, "--private", *options)
    secret: str = made["secret"]
    return secret


def _expiring_key(gateway: Gateway, name: str = "phone") -> dict[str, Any]:
    made: dict[str, Any] = gateway.cli_json("key", "create", "acme", "--name", name, "--expires", "2d")
    return made


def test_a_condition_is_told_once_when_it_begins_and_once_when_it_is_over(gateway: Gateway, receiver: Receiver) -> None:
    secret = _subscribe(gateway, receiver, "--on", "key")
    with Receiver() as other:
        _subscribe(gateway, other, "--on", "disk", "--name", "other")
        gateway.add_tenant()
        key = _expiring_key(gateway)

        begun = receiver.take()
        gateway.cli("key", "revoke", key["key"]["id"])
        over = receiver.take()

        assert (begun.type, over.type) == ("key.firing", "key.resolved")
        assert begun.id != over.id and begun.id.startswith("msg_")
        assert begun.data["details"]["within_days"] == 3
        assert "phone" in begun.data["message"] and over.data["message"] == f"Over: {begun.data['message']}"
        for message in (begun, over):
            message.verify(secret)
            assert key["key"]["secret"].encode() not in message.body
        with pytest.raises(WebhookVerificationError):
            begun._replace(body=begun.body.replace(b"phone", b"Phone")).verify(secret)
        # It has been looked at many times since; and this one wants to hear of disks alone.
        _expiring_key(gateway, "tablet")
        assert "tablet" in receiver.take().data["message"]
        assert (receiver.rest(), other.rest()) == ([], [])


def test_what_fails_is_tried_again_with_the_same_id_and_content(gateway: Gateway, receiver: Receiver) -> None:
    receiver.statuses.extend((500,))
    secret = _subscribe(gateway, receiver)
    gateway.add_tenant()
    _expiring_key(gateway)

    first, second = receiver.take(), receiver.take()

    assert (first.id, first.body) == (second.id, second.body)
    second.verify(secret)
    shown = gateway.cli_json("notify", "show", "127.0.0.1")
    assert [(each["state"], each["attempts"]) for each in shown["deliveries"]] == [("delivered", 2)]


def test_what_was_not_delivered_is_delivered_after_a_kill(gateway: Gateway, receiver: Receiver) -> None:
    receiver.statuses.extend((503,))
    _subscribe(gateway, receiver)
    gateway.add_tenant()
    key = _expiring_key(gateway)
    first = receiver.take()
    gateway.kill()
    gateway.start()

    again = receiver.take()
    gateway.cli("key", "revoke", key["key"]["id"])
    over = receiver.take()

    assert (again.id, again.body) == (first.id, first.body)
    # The condition was known to have been told: the next thing that is told is its end.
    assert over.type == "key.resolved" and receiver.rest() == []


def test_an_upstream_that_fails_and_comes_back(make_gateway: GatewayFactory, receiver: Receiver) -> None:
    with Receiver() as former:
        port = former.port
    probing = {**QUICK, "TRUSTGATE_UPSTREAM_HEALTH_INTERVAL_S": "0.1"}
    gateway = make_gateway(upstream=f"http://127.0.0.1:{port}/v1", environment=probing).start()
    _subscribe(gateway, receiver, "--on", "upstream")
    begun = receiver.take()
    with Receiver(port):
        over = receiver.take()

    assert (begun.type, begun.data["subject"]) == ("upstream.firing", f"127.0.0.1:{port}")
    assert (over.type, over.data["subject"]) == ("upstream.resolved", f"127.0.0.1:{port}")


def test_a_limit_that_refuses_is_told_once_a_window(gateway: Gateway, receiver: Receiver) -> None:
    _subscribe(gateway, receiver, "--on", "limit")
    gateway.cli("plan", "add", "one", "--requests-per-day", "1", "--requests-per-minute", "1")
    secret = gateway.add_tenant(plan="one")
    ask = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
    with httpx.Client(base_url=gateway.base_url, headers={"authorization": f"Bearer {secret}"}) as client:
        gateway.cli("plan", "set", "one", "--requests-per-minute", "none")
        statuses = [client.post("/v1/chat/completions", json=ask).status_code for _ in range(4)]

    told = receiver.take()

    assert statuses == [200, 429, 429, 429]
    details = told.data["details"]
    assert (told.type, details["window"], details["unit"]) == ("limit.firing", "day", "requests")
    assert "acme" in told.data["message"] and secret.encode() not in told.body
    gateway.cli("notify", "test")
    assert receiver.take().type == "test"  # and nothing was told in between


def test_a_webhook_reaches_private_addresses_only_when_told_so(gateway: Gateway, receiver: Receiver) -> None:
    refused = gateway.cli("notify", "add", receiver.url, check=False)
    assert refused.returncode == 2 and "--private" in refused.stderr
    for number, host in enumerate(("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0")):
        url = f"https://{host}:{receiver.port}/"
        gateway.cli("notify", "add", url, "--name", f"n{number}")
        tried = gateway.cli("notify", "test", f"n{number}", check=False)
        assert tried.returncode == 1, url
        assert "is at a private address" in tried.stdout, tried.stdout
    assert receiver.paths == []


def test_a_redirect_is_not_followed_and_gone_is_final(gateway: Gateway, receiver: Receiver) -> None:
    _subscribe(gateway, receiver)
    receiver.headers["location"] = f"http://127.0.0.1:{receiver.port}/elsewhere"
    receiver.statuses.extend((302, 410))
    tried = gateway.cli("notify", "test", check=False)
    assert tried.returncode == 1 and "redirect" in tried.stdout
    assert receiver.paths == ["/hook"]
    receiver.rest()

    gateway.add_tenant()
    _expiring_key(gateway)
    receiver.take()

    with Receiver() as other:  # what comes after it shows that the outcome was noted
        _subscribe(gateway, other, "--name", "other")
        gateway.cli("notify", "test", "other")
    (delivery,) = gateway.cli_json("notify", "show", "127.0.0.1")["deliveries"]
    assert (delivery["state"], delivery["attempts"], delivery["next_us"]) == ("failed", 1, None)
    checks = json.loads(gateway.cli("doctor", "--json", check=False).stdout)["checks"]
    told = [(check["status"], check["message"]) for check in checks if check["name"] == "notices"]
    assert [status for status, _ in told] == ["warn", "ok"] and "status 410" in told[0][1]


def test_a_program_gets_the_notice_and_no_secret(
    make_gateway: GatewayFactory, upstream: Upstream, tmp_path: Path
) -> None:
    secrets = {"TRUSTGATE_UPSTREAM_KEY_ENV": "UPSTREAM_SECRET", "UPSTREAM_SECRET": "sk-upstream-secret"}
    gateway = make_gateway(upstream=upstream.url, environment={**QUICK, **secrets}).start()
    script = tmp_path / "page me"
    script.write_text(f'#!/bin/sh\ncat > "{tmp_path}/$1"\nenv > "{tmp_path}/env"\n')
    script.chmod(0o700)

    gateway.cli("notify", "add", "--command", f"'{script}' 'told; rm -rf x'")
    gateway.cli("notify", "test", "page me")

    assert json.loads((tmp_path / "told; rm -rf x").read_text())["type"] == "test"
    environment = (tmp_path / "env").read_text()
    assert "TRUSTGATE_NOTICE_ID=msg_" in environment and "sk-upstream-secret" not in environment


def test_a_program_that_does_not_end_is_killed_with_what_it_started(
    make_gateway: GatewayFactory, upstream: Upstream
) -> None:
    environment = {**QUICK, "TRUSTGATE_NOTIFY_TIMEOUT_S": "0.3"}
    gateway = make_gateway(upstream=upstream.url, environment=environment).start()
    gateway.cli("notify", "add", "--command", "sleep 1000", "--name", "slow")
    gateway.cli("notify", "add", "--command", "false", "--name", "broken")

    tried = json.loads(gateway.cli("notify", "test", "--json", check=False).stdout)

    outcomes = {each["name"]: each["detail"] for each in tried["outcomes"]}
    assert outcomes == {"slow": "sleep was still running after 0.3 s and was killed", "broken": "exit code 1"}


def test_the_commands_do_the_same_without_a_server(make_gateway: GatewayFactory, receiver: Receiver) -> None:
    gateway = make_gateway()
    secret = _subscribe(gateway, receiver, "--name", "pager", "--on", "disk,anchor")

    gateway.cli("notify", "test", "pager")
    receiver.take().verify(secret)
    assert secret not in gateway.cli("notify", "show", "pager", "--json").stdout
    assert [each["kinds"] for each in gateway.cli_json("notify", "list")["subscribers"]] == [["disk", "anchor"]]
    twice = gateway.cli("notify", "add", receiver.url, "--private", "--name", "pager", check=False)
    assert twice.returncode == 5 and "--name" in twice.stderr
    unknown = gateway.cli("notify", "add", receiver.url, "--private", "--on", "disc", check=False)
    assert unknown.returncode == 2 and "disk" in unknown.stderr
    shown = [gateway.cli("notify", *which).stdout for which in (["list"], ["list", "--json"], ["show", "pager"])]
    assert all(receiver.url not in text and f"{urlsplit(receiver.url).netloc}/…" in text for text in shown)
    gateway.cli("notify", "remove", "pager")
    assert gateway.cli_json("notify", "list") == {"subscribers": []}
    assert gateway.cli("notify", "test", check=False).returncode == 4


def test_what_holds_the_secret_is_its_owners_alone(make_gateway: GatewayFactory, receiver: Receiver) -> None:
    gateway = make_gateway()
    secret = _subscribe(gateway, receiver)
    holding = [path for path in gateway.home.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert holding and all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in holding)


def test_a_program_cannot_be_named_over_the_network(make_gateway: GatewayFactory, upstream: Upstream) -> None:
    key = "an-admin-key-of-24-characters"
    environment = {"TRUSTGATE_ADMIN_KEY_ENV": "THE_KEY", "THE_KEY": key}
    gateway = make_gateway(upstream=upstream.url, environment=environment).start()
    program = shutil.which("true")
    answer = httpx.post(
        f"{gateway.base_url}/admin/v1/execute",
        headers={"authorization": f"Bearer {key}"},
        json={"type": "notify.add", "command": [program]},
    )
    assert answer.status_code == 403 and "own machine" in answer.text
    assert gateway.cli_json("notify", "list") == {"subscribers": []}
