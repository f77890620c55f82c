"""The static files of pages, over real sockets: addresses, ETags, compression."""

from __future__ import annotations

import gzip

import brotli
import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway
from trustgate.web.assets import Assets


@pytest.fixture(scope="module")
def served(make_module_gateway: GatewayFactory) -> Gateway:
    return make_module_gateway().start()


def test_a_file_is_kept_for_ever_under_its_version_and_asked_for_again_without(served: Gateway) -> None:
    url = Assets().url("base.css")
    with httpx.Client(base_url=served.base_url, trust_env=False) as http:
        versioned, plain = http.get(url), http.get("/assets/base.css")
        assert versioned.status_code == plain.status_code == 200
        assert versioned.content == plain.content and b"--accent" in plain.content
        assert versioned.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert plain.headers["cache-control"] == "no-cache"
        assert versioned.headers["content-type"] == "text/css; charset=utf-8"
        assert versioned.headers["x-content-type-options"] == "nosniff"
        again = http.get("/assets/base.css", headers={"if-none-match": f'W/{plain.headers["etag"]}, "other"'})
        assert (again.status_code, again.content) == (304, b"")
        other = http.get("/assets/base.css", headers={"if-none-match": '"other"'})
        assert other.status_code == 200
        assert http.head(url).content == b""


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("br, gzip", "br"), ("gzip;q=0.5", "gzip"), ("identity", None), ("br;q=0, gzip", "gzip"), ("", None)],
)
def test_a_file_is_compressed_as_the_client_takes_it(served: Gateway, accepted: str, encoding: str | None) -> None:
    with (
        httpx.Client(base_url=served.base_url, trust_env=False) as http,
        http.stream("GET", "/assets/base.css", headers={"accept-encoding": accepted}) as response,
    ):
        data = b"".join(response.iter_raw())
        assert response.headers.get("content-encoding") == encoding
        assert response.headers["vary"] == "accept-encoding"
        assert int(response.headers["content-length"]) == len(data)
    unpacked = {"br": brotli.decompress, "gzip": gzip.decompress, None: bytes}[encoding](data)
    assert b"--accent" in unpacked


@pytest.mark.parametrize(
    "name",
    [
        *("", "none.css", "../page.py", "..%2fpage.py", "%2e%2e/page.py", "base.css/", "/etc/passwd", "page.py"),
        # Longer than a file system takes.
        *(f"{'a' * 300}.css", f"{'a/' * 3000}b.css", "%00.css"),
    ],
)
def test_no_other_file_is_served(served: Gateway, name: str) -> None:
    with httpx.Client(base_url=served.base_url, trust_env=False) as http:
        assert http.get(f"/assets/{name}").status_code == 404
