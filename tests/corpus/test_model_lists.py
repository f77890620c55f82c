"""The lists of models that servers give: what can be read of each is taken, and listed to clients.

One gateway and one upstream that plays all of the servers, each below a path of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.processes import wait_until
from tests.support.upstream import Recorded, Reply, Upstream

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "model_lists.json").read_bytes())["cases"]


@pytest.fixture(scope="module")
def listed(make_module_gateway: GatewayFactory) -> Iterator[list[str]]:
    """All models that the gateway lists, once it has asked every server for its own."""
    answers = {case["name"]: case["answer"] for case in CASES}
    upstream = Upstream(models=())
    upstream.probe = lambda request: Reply.json(answers.get(server_of(request), {"object": "list", "data": []}))
    upstream.start()
    gateway = make_module_gateway(upstream=upstream.api_url)
    for case in CASES:
        base_url = f"{upstream.url}/{case['name']}/v1"
        gateway.cli("passport", "add", f"{case['name']}/*", "--api-model-id", "*", "--base-url", base_url)
    gateway.start()
    wait_until(lambda: {*map(server_of, upstream.probes)} >= answers.keys(), "the gateway to ask every server")
    headers = {"authorization": f"Bearer {gateway.add_tenant(plan='internal')}"}
    # The last server's answer may still be on its way: its models are waited for, the others are there then.
    wait_until(lambda: "openai/a" in names(gateway.api_url, headers), "the models of the server that needs no reading")
    yield names(gateway.api_url, headers)
    upstream.stop()


def server_of(request: Recorded) -> str:
    return request.path.split("/")[1]


def names(api_url: str, headers: dict[str, str]) -> list[str]:
    models = httpx.get(f"{api_url}/models?available=all", headers=headers, trust_env=False).json()["data"]
    return [model["id"] for model in models]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_can_be_read_of_a_list_is_taken(listed: list[str], case: dict[str, Any]) -> None:
    own = [name for name in listed if name.startswith(f"{case['name']}/") and not name.endswith("*")]
    assert own == [f"{case['name']}/{model}" for model in case["models"]], case["why"]
