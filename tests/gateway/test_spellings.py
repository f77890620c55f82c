"""Every spelling of a paid route: none reaches it unpaid, over HTTP/1.1 and over HTTP/2, with a key and without.

A payment wall that compares another form of the path than the router does is walked around by writing the path
differently. Here one table leads both to the price and to the upstream, and this holds it to that: whatever is written,
the upstream is not asked.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest

from tests.conftest import GatewayFactory
from tests.support.keyless import Shop, open_market
from tests.support.paying import HELLO, Customer, Market
from trustgate.gateway.api.bazaar import SOLD_KEYLESS, example
from trustgate.gateway.api.endpoints import Endpoint

PATIENCE_S = 30.0
_REFUSED = frozenset({400, 401, 402, 403, 404, 405, 414, 421, 501})


@pytest.fixture(scope="module")
def market(make_module_gateway: GatewayFactory) -> Iterator[Market]:
    with open_market(make_module_gateway) as opened:
        yield opened


@pytest.fixture(scope="module")
def customer(market: Market) -> Customer:
    """Pays for each request, and does not pay here."""
    return market.customer()


@pytest.fixture(scope="module")
def shop(market: Market) -> Iterator[Shop]:
    opened = Shop(market)
    yield opened
    opened.close()


def spellings(path: str) -> list[str]:
    """Returns other ways to write a path, from what walls are known to have been walked around with."""
    parts = path.strip("/").split("/")
    last, before = parts[-1], "/" + "/".join(parts[:-1])
    prefix = "" if before == "/" else before
    first = f"%{ord(last[0]):02x}{last[1:]}"
    found = [
        path,
        # percent-encoding: a letter, all of it, in capitals, twice, overlong and not UTF-8
        f"{prefix}/{first}",
        "/" + "/".join("".join(f"%{ord(letter):02X}" for letter in part) for part in parts),
        path.replace("o", "%6F").replace("e", "%65"),
        f"{prefix}/{first.replace('%', '%25')}",
        path.replace("/", "%2f"),
        path.replace("/", "%2F", 2),
        "/%2f" + path.strip("/"),
        f"{prefix}/%c1%a3{last[1:]}",
        f"{prefix}/{last}%ff",
        f"{prefix}/{last}%",
        f"{prefix}/{last}%zz",
        f"{prefix}/{last}%00",
        f"{prefix}/{last}%0d%0a",
        f"{prefix}/{last}%20",
        f"{prefix}/{last}%09",
        f"%2e{path}",
        # slashes and segments
        "/" + path,
        path.replace("/", "//"),
        path + "/",
        path + "//",
        f"{prefix}//{last}",
        f"/.{path}",
        f"{prefix}/./{last}",
        f"{prefix}/%2e/{last}",
        f"/x/..{path}",
        f"/health/..{path}",
        f"/v1/models/..%2f{'/'.join(parts[1:])}",
        f"/v1/models/../{'/'.join(parts[1:])}",
        f"/health/%2e%2e{path}",
        f"/health/..%2f{path.strip('/')}",
        f"{path}/.",
        f"{path}/..",
        f"{path}/x/..",
        f"/..{path}",
        path.replace("/", "\\"),
        f"{prefix}\\{last}",
        f"{prefix}/%5c{last}",
        # case, parameters, queries, fragments, extensions
        path.upper(),
        path.title(),
        f"{path};a=b",
        f"{prefix};a=b/{last}",
        f"{path}?",
        f"{path}?paid=true",
        f"{path}?/health",
        f"{path}%3f",
        f"{path}%23",
        f"{path}.json",
        f"{path}.",
        f"{path}*",
        # letters that some fold or normalise
        path.replace("s", "\u017f"),
        path.replace("i", "\u0131"),
        path.replace("a", "\uff41"),
        path.replace("/", "\u2215"),
        # absolute form
        f"http://127.0.0.1{path}",
        f"HTTP://x/{path.strip('/')}",
        f"http://127.0.0.1/health/..{path}",
        f"http://user@127.0.0.1{path}",
        f"http:{path}",
        f"//127.0.0.1{path}",
    ]
    return list(dict.fromkeys(found))


def statuses_http1(market: Market, target: str, headers: dict[str, str], body: bytes, method: str) -> int | None:
    """Returns the status; None where the connection ends without one."""
    address = urlsplit(market.gateway.base_url)
    lines = [f"{method} ".encode() + target.encode() + b" HTTP/1.1", b"Host: x", b"Connection: close"]
    lines += [f"{name}: {value}".encode() for name, value in headers.items()]
    lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body), b"", body]
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as connection:
        connection.sendall(b"\r\n".join(lines))
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


@pytest.mark.parametrize("endpoint", SOLD_KEYLESS, ids=lambda each: each.path)
def test_no_spelling_reaches_a_paid_route_unpaid(
    market: Market, customer: Customer, shop: Shop, endpoint: Endpoint
) -> None:
    path = endpoint.path
    body = json.dumps(example(endpoint, "gpt-4o")).encode()
    key = {"Authorization": customer.http.headers["authorization"]}
    asked = len(market.upstream.requests)
    for target in spellings(path):
        for headers in (key, {}):
            status = statuses_http1(market, target, headers, body, "POST")
            assert status in _REFUSED or status is None, (target, headers, status)
            assert len(market.upstream.requests) == asked, target
    # The route itself is there.
    assert statuses_http1(market, path, key, body, "POST") == 402
    assert statuses_http1(market, path, {}, body, "POST") == 402


def test_the_same_bytes_reach_it_where_nothing_is_owed(market: Market) -> None:
    """So a request that got through above would have been seen."""
    key = {"Authorization": f"Bearer {market.gateway.add_tenant('owes-nothing')}"}
    body = json.dumps({"model": "gpt-4o", "messages": HELLO}).encode()
    asked = len(market.upstream.requests)
    assert statuses_http1(market, "/v1/chat/completions", key, body, "POST") == 200
    assert len(market.upstream.requests) == asked + 1


def test_no_method_reaches_it(market: Market, customer: Customer, shop: Shop) -> None:
    body = json.dumps({"model": "gpt-4o", "messages": HELLO}).encode()
    key = {"Authorization": customer.http.headers["authorization"]}
    asked = len(market.upstream.requests)
    overrides = {"X-HTTP-Method-Override": "POST", "X-Original-URL": "/v1/chat/completions", "X-Rewrite-URL": "/health"}
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "Post"):
        for headers in (key, {}, overrides):
            status = statuses_http1(market, "/v1/chat/completions", headers, body, method)
            # GET lists what is kept for the caller, which costs nothing.
            is_list = method == "GET" and headers != {} and status == 200
            assert is_list or status in _REFUSED or status is None, (method, status)
    assert statuses_http1(market, "/health", overrides, b"", "GET") == 200
    assert len(market.upstream.requests) == asked


def statuses_http2(market: Market, paths: list[bytes], headers: dict[str, str], body: bytes) -> dict[bytes, int | None]:
    """Returns the status of each ``:path``, each on a connection of its own; None for a reset."""
    return {path: _status_http2(market, path, headers, body) for path in paths}


def _status_http2(market: Market, path: bytes, headers: dict[str, str], body: bytes) -> int | None:
    address = urlsplit(market.gateway.base_url)
    settings = h2.config.H2Configuration(
        client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    wire = h2.connection.H2Connection(settings)
    wire.initiate_connection()
    wire.send_headers(
        1,
        [
            *((b":method", b"POST"), (b":path", path), (b":scheme", b"http"), (b":authority", b"x")),
            (b"content-type", b"application/json"),
            *((name.lower().encode(), value.encode()) for name, value in headers.items()),
        ],
    )
    wire.send_data(1, body, end_stream=True)
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as connection:
        connection.sendall(wire.data_to_send())
        while data := connection.recv(65536):
            for event in wire.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    return int(dict(event.headers)[b":status"])
                if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return None
    return None


def test_no_spelling_reaches_it_over_http2(market: Market, customer: Customer, shop: Shop) -> None:
    path = "/v1/chat/completions"
    body = json.dumps({"model": "gpt-4o", "messages": HELLO}).encode()
    key = {"Authorization": customer.http.headers["authorization"]}
    asked = len(market.upstream.requests)
    raw = [b"/v1/chat/completions\x00", b"/v1/chat/completions ", b" /v1/chat/completions", b"", b"*"]
    paths = [*(target.encode() for target in spellings(path)), *raw]
    for headers in (key, {}):
        for target, status in statuses_http2(market, paths, headers, body).items():
            assert status in _REFUSED or status is None, (target, status)
    assert len(market.upstream.requests) == asked
    assert statuses_http2(market, [path.encode()], key, body) == {path.encode(): 402}
