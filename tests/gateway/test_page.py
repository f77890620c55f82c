"""The page for people at ``/``: over real sockets, and in a headless Chromium."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.environments import ROOT
from tests.gateway.conftest import Tenant
from tests.support.bundles import SampleLog
from tests.support.checker import check_readable, mood_of_chosen, shown
from tests.support.chromium import Browser
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.upstream import Upstream
from trustgate.gateway.views.page import LastAnchor, Page, PageStatus
from trustgate.receipts.checkpoint import open_checkpoint
from trustgate.receipts.note import VerifierKey

STANDING = PageStatus(
    checks={"store": "ok", "upstream": "ok", "serving": "ok"},
    version="1.2.3",
    started_us=1_770_000_000_000_000,
    models=("trustgate/echo", "secret-model"),
    public_url="",
    has_account=True,
    origin="log.example/tests",
    vkey="log.example/tests+0a0b0c0d+AAAA",
    size=12_345,
    root=bytes(range(32)),
    signed_us=1_770_000_001_000_000,
    anchor=None,
)
ANCHORED = LastAnchor(
    size=12_000,
    at_us=1_770_000_000_500_000,
    network="devnet",
    signature="5ig",
    explorer="https://explorer.solana.com/tx/5ig?cluster=devnet",
    fee_payer="Payer111",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def bundle(shared_gateway: Gateway, shared_upstream: Upstream) -> bytes:
    """Of a receipt that the gateway has issued and anchored on a local chain."""
    tenant = Tenant(shared_gateway)
    with tenant.http:
        receipt = tenant.chat().headers["x-trustgate-receipt"]
    shared_gateway.cli("anchor", "keygen")
    shared_gateway.cli("anchor", "flush", "--rpc", "local")
    return shared_gateway.cli("receipt", "export", receipt).stdout.encode()


@pytest.fixture
def page(browser: Browser, shared_gateway: Gateway) -> Iterator[Browser]:
    """The page, just opened. However it is used, it complains of nothing and sends no request."""
    url = f"{shared_gateway.base_url}/"
    browser.open(url)
    yield browser
    assert browser.complaints == []
    assert browser.requests == [url]


def text_of(page: Browser) -> str:
    text: str = page.evaluate("document.body.innerText")
    return text


async def served(status: PageStatus) -> str:
    """The page as text, of a gateway that stands so."""
    transport = httpx.ASGITransport(Page(lambda: status, lambda: True))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        response = await http.get("/")
    assert response.status_code == 200
    assert "{{" not in response.text
    return response.text


# over HTTP


def test_it_may_run_its_own_scripts_and_talk_to_nobody(shared_gateway: Gateway) -> None:
    response = httpx.get(f"{shared_gateway.base_url}/", trust_env=False)

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "public, max-age=1"
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().partition(" ")[::2] for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    for source in (policy["script-src"], policy["style-src"]):
        assert all(re.fullmatch(r"'sha256-[\w+/]{43}='", each) for each in source.split()), source
    assert not re.search(r"\b(src|action|style|on\w+)\s*=", re.sub(r"(?s)<(script|style).*?</\1>", "", response.text))


def test_head_tells_the_same_and_other_methods_are_refused(shared_gateway: Gateway) -> None:
    with httpx.Client(base_url=shared_gateway.base_url, trust_env=False) as http:
        head, get = http.head("/"), http.get("/")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-security-policy"] == get.headers["content-security-policy"]
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            refused = http.request(method, "/")
            assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
            assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_it_shows_the_checkpoint_that_the_log_shows(shared_gateway: Gateway, bundle: bytes) -> None:
    with httpx.Client(base_url=shared_gateway.base_url, trust_env=False) as http:
        keys = http.get("/log/keys").json()
        checkpoint = open_checkpoint(http.get("/log/checkpoint").content, VerifierKey.parse(keys["vkey"]))
        wait_until(lambda: checkpoint.root.hex() in http.get("/").text, "the page to show the log's state")
        text = http.get("/").text
    assert f'<dd id="log-size">{checkpoint.size}</dd>' in text
    assert keys["origin"] in text and keys["vkey"] in text
    anchor = shared_gateway.cli_json("anchor", "list")["anchors"][0]
    assert anchor["signature"] in text and anchor["fee_payer"] in text


def test_it_says_when_the_state_was_signed_also_after_a_restart(shared_gateway: Gateway, bundle: bytes) -> None:
    def signed() -> str:
        found = re.search(r'<dt>Signed</dt><dd><time datetime="([^"]+)"', httpx.get(url, trust_env=False).text)
        assert found is not None
        return found[1]

    url = f"{shared_gateway.base_url}/"
    before = signed()
    age = datetime.now(UTC) - datetime.fromisoformat(before)
    assert timedelta(0) <= age < timedelta(minutes=10)
    shared_gateway.stop()
    shared_gateway.start()
    assert signed() == before


def test_nothing_that_is_not_anybodys_shows(tenant: Tenant, shared_upstream: Upstream) -> None:
    """Not the tenants, not the upstream, not its models; and not what a client calls the host."""
    tenant.chat()
    response = httpx.get(f"{tenant.gateway.base_url}/", headers={"host": "evil.example"}, trust_env=False)

    assert response.status_code == 200
    port = shared_upstream.api_url.rsplit(":", 1)[1].removesuffix("/v1")
    for kept in ("evil.example", tenant.name, tenant.id, tenant.key_id, f":{port}", "sk-upstream-secret", "gpt-4o"):
        assert kept not in response.text


def test_it_can_be_switched_off_while_serving(shared_gateway: Gateway) -> None:
    settings = shared_gateway.home / "trustgate.toml"
    url = f"{shared_gateway.base_url}/"
    settings.write_text("[serve]\npage = false\n")
    try:
        shared_gateway.cli("reload")
        refused = httpx.get(url, trust_env=False)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_url")
    finally:
        settings.unlink()
        shared_gateway.cli("reload")
    assert httpx.get(url, trust_env=False).status_code == 200


# how a gateway may stand


async def test_a_gateway_that_is_well() -> None:
    text = await served(STANDING)
    assert '<p class="status good"><strong>Ready.</strong>' in text
    assert "1.2.3" in text and "<dt>Models</dt><dd>2</dd>" in text and "secret-model" not in text
    assert ">2026-02-02 02:40:00 UTC</time>" in text
    assert "12,345" in text and bytes(range(32)).hex() in text
    assert "None yet" in text
    assert '<a href="account">' in text
    assert '<a href="account">' not in await served(STANDING._replace(has_account=False))


async def test_a_gateway_that_is_not() -> None:
    alone = STANDING._replace(checks={**STANDING.checks, "upstream": "no upstream is reachable"})
    assert "<strong>Only trustgate/echo answers.</strong> No upstream is reachable." in await served(alone)
    assert "<strong>Not ready.</strong> No upstream is reachable." in await served(alone._replace(models=()))
    broken = alone._replace(checks={**alone.checks, "store": "receipts cannot be stored right now"})
    told = "<strong>Not ready.</strong> Receipts cannot be stored right now. No upstream is reachable."
    assert told in await served(broken)


async def test_what_the_operator_calls_it_goes_before_what_the_browser_sees() -> None:
    text = await served(STANDING._replace(public_url="https://llm.example.com/gateway/"))
    assert "curl -s https://llm.example.com/gateway/v1/chat/completions" in text
    assert 'class="base"' not in text


async def test_without_the_built_in_model_the_reader_names_one() -> None:
    text = await served(STANDING._replace(models=("other",)))
    assert '{"model": "MODEL",' in text and "trustgate/echo" not in text


@pytest.mark.parametrize(
    ("anchor", "link"),
    [
        (ANCHORED, 'href="https://explorer.solana.com/tx/5ig?cluster=devnet" rel="noreferrer"'),
        (ANCHORED._replace(network="local", explorer=""), "on a local chain"),
    ],
)
async def test_the_last_anchor_and_where_to_look_at_it(anchor: LastAnchor, link: str) -> None:
    text = await served(STANDING._replace(anchor=anchor))
    assert "12,000 receipts" in text and "5ig" in text and "Payer111" in text
    assert link in text
    assert ("explorer.solana.com" in text) is bool(anchor.explorer)


async def test_what_is_put_in_is_text_and_no_markup() -> None:
    evil = '<script>"&'
    text = await served(
        STANDING._replace(
            checks={"store": evil},
            origin=evil,
            vkey=evil,
            public_url=f"https://x/{evil}",
            anchor=ANCHORED._replace(signature=evil, explorer=f"https://x/{evil}", fee_payer=evil),
        )
    )
    assert "<script>&quot;" not in text and '<script>"' not in text
    assert text.count("&lt;script&gt;&quot;&amp;") >= 7


# in a browser


def test_a_receipt_of_the_gateway_is_checked_good_and_a_damaged_one_refused(
    page: Browser, shared_gateway: Gateway, bundle: bytes
) -> None:
    good = shown(page, bundle)
    states = {state for name, state in good["checks"] if name not in ("request", "response", "chain")}
    assert (good["mood"], states) == ("good", {"passed"}), good
    assert "The bundle holds" in good["verdict"]

    damaged = re.sub(rb'("cost_nano_usd": )(\d+)', rb"\g<1>1\g<2>", bundle)
    assert damaged != bundle
    bad = shown(page, damaged)
    assert (bad["mood"], bad["checks"][-1], bad["receipt"]) == ("bad", ["inclusion", "failed"], None)

    stranger = shown(page, SampleLog().bundle())
    assert (stranger["mood"], stranger["checks"][-1]) == ("bad", ["checkpoint", "failed"]), "of another log"


def test_a_bundle_is_chosen_from_the_disk(page: Browser, bundle: bytes, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_bytes(bundle)
    assert mood_of_chosen(page, tmp_path / "bundle.json") == "good"


def test_the_base_url_is_the_one_that_the_browser_sees(browser: Browser, shared_gateway: Gateway) -> None:
    url = shared_gateway.base_url.replace("127.0.0.1", "localhost")
    browser.open(f"{url}/?from=elsewhere#log")

    assert browser.evaluate("document.getElementById('base-url').innerText") == f"{url}/v1"
    assert f"curl -s {url}/v1/chat/completions" in text_of(browser)
    assert f'OpenAI(base_url="{url}/v1")' in text_of(browser)


def test_the_snippet_for_curl_is_json(page: Browser) -> None:
    found = re.search(r"-d '(.*?)'", text_of(page), re.DOTALL)
    assert found is not None
    assert msgspec.json.decode(found[1])["model"] == "trustgate/echo"


def test_it_is_of_use_without_scripts(browser: Browser, shared_gateway: Gateway, bundle: bytes) -> None:
    browser.open(f"{shared_gateway.base_url}/", scripts=False)
    text = text_of(browser)
    assert "scripts are switched off here" in text
    assert "ADDRESS-OF-THIS-PAGE/v1" in text
    assert httpx.get(f"{shared_gateway.base_url}/log/keys", trust_env=False).json()["vkey"] in text


def test_what_is_chosen_in_it_cannot_leave(browser: Browser, shared_gateway: Gateway) -> None:
    """Even a script that got into the page could send nothing, and none gets in."""
    browser.open(f"{shared_gateway.base_url}/")
    tried = """
    async function () {
      const fetched = await fetch("/health").then(() => "sent", () => "refused");
      const script = document.createElement("script");
      let text = "no trusted types";
      try { script.textContent = "globalThis.ran = true"; } catch { text = "refused"; }
      document.body.append(script);
      return [fetched, text, globalThis.ran ?? false];
    }
    """
    assert browser.call(tried) == ["refused", "refused", False]
    assert browser.requests == [f"{shared_gateway.base_url}/"]


def test_it_can_be_read_and_used_by_everybody(page: Browser, bundle: bytes) -> None:
    shown(page, bundle)
    check_readable(page)
    page.evaluate("document.getElementById('options').open = true")
    unnamed = """
    Array.from(document.querySelectorAll("input, a, pre, summary"))
      .filter((e) => !(e.ariaLabel || e.labels?.length || (e.matches("a, summary") && e.innerText)))
      .map((e) => e.outerHTML)
    """
    assert page.evaluate(unnamed) == []
    # What is wider than its box is moved by the keyboard.
    assert page.evaluate("Array.from(document.querySelectorAll('pre')).every((e) => e.tabIndex === 0)")
    levels = page.evaluate("Array.from(document.querySelectorAll('h1, h2, h3'), (e) => +e.tagName[1])")
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
    ids = page.evaluate("Array.from(document.querySelectorAll('[id]'), (e) => e.id)")
    assert len(ids) == len(set(ids))


def test_the_example_is_the_file_that_the_gateway_takes_its_checker_from() -> None:
    example = ROOT / "examples" / "verify" / "index.html"
    assert example.resolve() == ROOT / "trustgate" / "gateway" / "views" / "pages" / "verify.html"
