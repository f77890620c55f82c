"""``/openapi.json``: true to what is served, and served to anybody."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from tests.gateway.conftest import Tenant
from tests.support.gateway import Gateway
from trustgate.gateway.api.endpoints import ENDPOINTS
from trustgate.gateway.app import Views, make_routes
from trustgate.gateway.views.openapi import document
from trustgate.types import ENDPOINTS as NAMES

#: Nothing is sold here, and there is no such tile.
_NOT_THERE = ("/v1/credit-webhooks/{form}", "/log/tile/{path}", "/.well-known/x402", "/.well-known/x402.json")
_WORDS_WHERE_IDS_ARE = (
    *("/v1/responses/input_tokens", "/v1/responses/compact", "/v1/threads/runs"),
    *("/v1/videos/edits", "/v1/videos/extensions", "/v1/videos/characters"),
)


@pytest.fixture(scope="module")
def served(shared_gateway: Gateway) -> Any:
    response = httpx.get(f"{shared_gateway.base_url}/openapi.json", trust_env=False)
    assert response.status_code == 200
    return response.json()


def test_it_is_served_without_a_key(served: Any) -> None:
    url = served["servers"][0]["url"]
    assert served == document(url)
    assert served["openapi"] == "3.1.0"


def test_a_validator_of_the_specification_finds_nothing(served: Any) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(served).iter_errors()] == []
    operations = [operation for path in served["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_every_reference_leads_somewhere(served: Any) -> None:
    for name in re.findall(r'"\$ref": ?"#/components/schemas/([^"]+)"', httpx.Response(200, json=served).text):
        assert name in served["components"]["schemas"]


def test_every_route_of_it_is_served_and_needs_the_key_it_says(shared_gateway: Gateway, served: Any) -> None:
    """What it lists is there (401 without a key), and what it does not list is not."""
    for path, operations in served["paths"].items():
        url = shared_gateway.base_url + re.sub(r"\{\w+\}", "x", path)
        for method in ("get", "post", "delete", "put"):
            status = httpx.request(method.upper(), url, trust_env=False).status_code
            if method not in operations:
                # GET asks for the response of that id.
                assert status == 405 or path in _WORDS_WHERE_IDS_ARE, (method, path)
            elif operations[method].get("security") == []:
                assert status in (200, 503) or path in _NOT_THERE, (method, path)
            else:
                assert status in (400, 401), (method, path)


def test_every_route_is_in_it() -> None:
    """Nothing is served that it does not describe."""
    listed = {(path, method) for path, operations in document()["paths"].items() for method in operations}
    served = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in make_routes(MagicMock(), Views(*(MagicMock(public_url="") for _ in Views._fields)))
        if isinstance(route, Route)
        for method in (route.methods or ())
        if method != "HEAD"
    }
    assert served == listed


def test_every_endpoint_is_in_it_and_named_for_plans(served: Any) -> None:
    assert {(endpoint.path, endpoint.method.lower()) for endpoint in ENDPOINTS} <= {
        (path, method) for path, operations in served["paths"].items() for method in operations
    }
    assert {endpoint.name for endpoint in ENDPOINTS} == set(NAMES)


def test_no_upstream_shows_in_it(tenant: Tenant, served: Any) -> None:
    described = {name: member for name, member in served.items() if name not in ("servers", "x-agentcash-guidance")}
    assert "127.0.0.1" not in httpx.Response(200, json=described).text
