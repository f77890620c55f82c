"""A gateway whose tenants owe nothing loads nothing of what payments need."""

from __future__ import annotations

import re

import httpx

from tests.conftest import GatewayFactory
from tests.support.upstream import Upstream

_IMPORTED = re.compile(r"^import time: .*\| +(x402|solders|solana|spl)(?:\.|$)", re.MULTILINE)


def test_nothing_of_payments_is_loaded_where_nobody_pays(make_gateway: GatewayFactory, upstream: Upstream) -> None:
    """Python itself tells what is imported, when it is asked to."""
    gateway = make_gateway(upstream=upstream.api_url, environment={"PYTHONPROFILEIMPORTTIME": "1"}).start()
    headers = {"authorization": f"Bearer {gateway.add_tenant()}"}
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}

    answer = httpx.post(f"{gateway.api_url}/chat/completions", json=body, headers=headers, timeout=30)

    assert answer.status_code == 200
    assert gateway.stop() == 0
    told = gateway.logs()
    assert "trustgate.payment.service" in told, "imports are told, and the room is there"
    assert sorted(set(_IMPORTED.findall(told))) == []
