"""The console from elsewhere: over TLS alone, with a cookie that never travels without it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.http.test_listener import make_certificate
from tests.support.gateway import Gateway

#: How the machine is called from elsewhere. The listener is on loopback: what counts is the name that is asked for.
ELSEWHERE = "gateway.example.com:4010"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "gateway")


@pytest.fixture(scope="module")
def secure(make_module_gateway: GatewayFactory, certificate: tuple[Path, Path]) -> Gateway:
    environment = {
        "TRUSTGATE_SERVE_CONSOLE": "network",
        "TRUSTGATE_SERVE_TLS_CERTIFICATE": str(certificate[0]),
        "TRUSTGATE_SERVE_TLS_KEY": str(certificate[1]),
    }
    return make_module_gateway(environment=environment).start()


@pytest.fixture
def http(secure: Gateway, certificate: tuple[Path, Path]) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with httpx.Client(base_url=secure.base_url, verify=context, trust_env=False) as client:
        yield client


def open_console(gateway: Gateway, http: httpx.Client, host: str) -> httpx.Response:
    [code] = parse_qs(urlsplit(gateway.cli_json("console")["url"]).query)["code"]
    scheme = urlsplit(gateway.base_url).scheme
    return http.post("/console/open", data={"code": code}, headers={"host": host, "origin": f"{scheme}://{host}"})


def test_over_tls_it_is_there_and_its_cookie_wants_tls(secure: Gateway, http: httpx.Client) -> None:
    link = secure.cli_json("console")["url"]
    assert link.startswith("https://"), "a link without TLS would show the code to anyone on the network"
    entered = open_console(secure, http, ELSEWHERE)
    assert entered.status_code == 303
    name, *attributes = entered.headers["set-cookie"].split("; ")
    assert name.startswith("__Host-trustgate-console=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    shown = http.get("/console", headers={"host": ELSEWHERE, "cookie": name})
    assert shown.status_code == 200 and "Overview" in shown.text
    forged = http.post(
        "/console/do/reload",
        data={"form_token": "x"},
        headers={"host": ELSEWHERE, "cookie": name, "origin": "https://evil.example"},
    )
    assert forged.status_code == 403


def test_without_tls_it_is_there_on_this_machine_alone(make_gateway: GatewayFactory) -> None:
    gateway = make_gateway(environment={"TRUSTGATE_SERVE_CONSOLE": "network"}).start()
    with httpx.Client(base_url=gateway.base_url, trust_env=False) as http:
        near = urlsplit(gateway.base_url).netloc
        assert open_console(gateway, http, ELSEWHERE).status_code == 404
        entered = open_console(gateway, http, near)
        assert entered.status_code == 303 and "Secure" not in entered.headers["set-cookie"]
        for headers in ({"host": ELSEWHERE}, {"x-forwarded-for": "203.0.113.9"}, {"x-forwarded-proto": "https"}):
            refused = http.get("/console", headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_url"), headers
        assert http.get("/console").status_code == 200
