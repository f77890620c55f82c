"""The console in a headless Chromium: each page and task walked, light and dark, wide and narrow, with axe-core."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.chromium import Browser
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream

#: A name that would run a script wherever it became markup.
EVIL = "<img src=x onerror=\"document.title='owned'\">'\"&amp;"


class Operated(httpx.Client):
    """A client of the gateway's public side, with the key of a tenant that has a hostile name."""

    def __init__(self, gateway: Gateway) -> None:
        added = gateway.cli_json("tenant", "add", f"{EVIL} Operated")
        self.tenant: str = added["tenant"]["id"]
        self.key: str = added["key"]["id"]
        headers = {"authorization": f"Bearer {added['key']['secret']}"}
        super().__init__(base_url=gateway.base_url, headers=headers, trust_env=False, timeout=30.0)

    def chat(self, model: str = "trustgate/echo") -> httpx.Response:
        messages = [{"role": "user", "content": "Hello"}]
        return self.post("/v1/chat/completions", json={"model": model, "messages": messages})


@pytest.fixture(scope="module")
def operated(pages_gateway: Gateway) -> Iterator[Operated]:
    """A tenant with a few requests behind it, one of them for a model with a hostile name."""
    with Operated(pages_gateway) as client:
        for _ in range(3):
            client.chat().raise_for_status()
        client.chat(EVIL)
        yield client


def open_link(gateway: Gateway) -> str:
    url: str = gateway.cli_json("console")["url"]
    return url


@pytest.fixture
def console(browser: Browser, pages_gateway: Gateway, operated: Operated) -> Iterator[Browser]:
    """The console, signed in. However it is used, nothing is complained of and nothing runs that is not its own."""
    browser.open(open_link(pages_gateway))
    browser.wait_for("document.querySelector('nav.pages') !== null")
    yield browser
    assert browser.evaluate("document.title") != "owned"
    assert all(url.startswith(pages_gateway.base_url) for url in browser.requests)


def text_of(page: Browser) -> str:
    text: str = page.evaluate("document.body.innerText")
    return text


PAGES = (
    *("", "requests", "usage", "usage?by=model", "usage?by=tenant&days=7", "tenants", "keys", "plans", "plans/pro"),
    *("budgets", "models", "receipts", "receipts?status=2xx&since=7d", "statements", "payments", "anchors", "settings"),
    *("do/tenant.add", "do/key.create", "do/budget.add", "do/passport.set", "do/tenant.remove"),
)


def test_every_page_is_easy_to_use_and_fits_every_screen(
    console: Browser, pages_gateway: Gateway, operated: Operated, axe_source: str
) -> None:
    receipt = operated.chat().headers["x-trustgate-receipt"]
    pages = (*PAGES, f"tenants/{operated.tenant}", f"keys/{operated.key}", f"receipts/{receipt}", "nowhere")
    for page in pages:
        console.look(dark=False, width=1200)
        console.open(f"{pages_gateway.base_url}/console/{page}".rstrip("/"))
        assert console.axe(axe_source) == [], page
        console.look(dark=True, width=360)
        assert console.axe(axe_source) == [], f"{page}, in the dark at 360 pixels"
        assert console.evaluate("document.documentElement.scrollWidth") <= 360, page
        assert [each for each in console.complaints if page != "nowhere"] == [], page
        assert console.evaluate("document.title") != "owned", page


def test_the_first_view_is_small(console: Browser, pages_gateway: Gateway) -> None:
    console.open(f"{pages_gateway.base_url}/console")
    assert len(console.requests) <= 6
    assert console.transferred_bytes < 60_000


def test_a_tenant_is_added_changed_suspended_and_removed(console: Browser, pages_gateway: Gateway) -> None:
    base = f"{pages_gateway.base_url}/console"
    console.open(f"{base}/tenants")
    console.click("a[href$='tenant.add']")
    console.submit("#action", name="Walked <i>GmbH</i>", plan="free")
    assert "This secret is shown only now" in text_of(console)
    secret: str = console.evaluate("document.getElementById('secret').textContent")
    line: str = console.evaluate("document.getElementById('action-line').textContent")
    assert line == "trustgate tenant add 'Walked <i>GmbH</i>' --plan free"
    with httpx.Client(base_url=pages_gateway.base_url, trust_env=False) as http:
        headers = {"authorization": f"Bearer {secret}"}
        assert http.get("/v1/models", headers=headers).status_code == 200
        console.click("main p a")
        assert "Walked <i>GmbH</i>" in console.evaluate("document.querySelector('h1').textContent")
        place = console.url
        assert secret not in console.evaluate("document.documentElement.outerHTML")

        console.click("a[href*='tenant.set']")
        console.submit("#action", plan="growth")
        assert "Done: change a tenant." in text_of(console)

        console.open(place)
        console.click("a[href*='tenant.suspend']")
        console.submit("#action")
        assert "Tick this to do it." in text_of(console), "what destroys asks first"
        assert http.get("/v1/models", headers=headers).status_code == 200
        console.submit("#action", confirm=True)
        assert http.get("/v1/models", headers=headers).status_code == 401

        console.open(place)
        console.click("a[href*='tenant.remove']")
        console.submit("#action", confirm=True)
        assert "removed" in text_of(console)
    names = [tenant["name"] for tenant in pages_gateway.cli_json("tenant", "list")["tenants"]]
    assert "Walked <i>GmbH</i>" not in names


def test_a_key_is_made_limited_rotated_and_revoked(
    console: Browser, pages_gateway: Gateway, operated: Operated
) -> None:
    base = f"{pages_gateway.base_url}/console"
    console.open(f"{base}/do/key.create?tenant={operated.tenant}")
    console.submit("#action", name="walked", requests_per_minute="1x")
    assert "is not a whole number" in text_of(console)
    console.submit("#action", requests_per_minute="60", expires="30d")
    console.click("main p a")
    key = console.url.rpartition("/")[2]
    shown = pages_gateway.cli_json("key", "show", key)["key"]
    assert (shown["name"], shown["limits"]["requests_per_minute"]) == ("walked", 60)
    console.click("a[href*='key.set']")
    console.submit("#action", name="renamed", requests_per_minute="none")
    console.click("a[href*='key.revoke']")
    console.submit("#action", confirm=True)
    shown = pages_gateway.cli_json("key", "show", key)["key"]
    assert (shown["name"], shown["limits"]["requests_per_minute"]) == ("renamed", None)
    assert shown["revoked_us"] is not None


def test_budgets_plans_and_models_are_kept(console: Browser, pages_gateway: Gateway) -> None:
    base = f"{pages_gateway.base_url}/console"
    console.open(f"{base}/do/budget.add")
    console.submit("#action", budget="walked budget", usd="25", per="month", everyone=True)
    assert "$25.00 a month" in text_of(console)
    console.open(f"{base}/do/plan.add")
    console.submit("#action", plan="walked", like="pro", max_tokens="100")
    assert "Max. completion\n100" in text_of(console)
    console.open(f"{base}/do/passport.add")
    console.submit("#action", slug="walked/model", input_pico_usd="900000")
    assert "look like a slip of the unit" in text_of(console)
    console.submit("#action", input_pico_usd="0.15", output_pico_usd="0.60")
    assert "$0.15" in text_of(console)
    for noun, name in (("budget", "walked budget"), ("plan", "walked")):
        console.open(f"{base}/do/{noun}.remove?{noun}={name}")
        console.submit("#action", confirm=True)
        assert f"Done: remove a {noun}." in text_of(console)


def test_a_refusal_has_its_next_step_and_keeps_what_was_entered(console: Browser, pages_gateway: Gateway) -> None:
    console.open(f"{pages_gateway.base_url}/console/do/plan.add")
    console.submit("#action", plan="pro")
    assert "already" in text_of(console)
    assert console.evaluate("document.getElementById('field-plan').value") == "pro"


def test_lists_are_searched_filtered_sorted_and_paged(console: Browser, pages_gateway: Gateway) -> None:
    base = f"{pages_gateway.base_url}/console"
    for name in ("listed b", "listed a"):
        pages_gateway.add_tenant(name)
    console.open(f"{base}/tenants")
    console.submit("form[role=search]", q="LISTED")
    rows = "Array.from(document.querySelectorAll('tbody tr'), (row) => row.cells[0].textContent)"
    assert sorted(console.evaluate(rows)) == ["listed a", "listed b"]
    console.click("thead th a")
    assert console.evaluate(rows) == ["listed a", "listed b"]
    console.click("thead th a")
    assert console.evaluate(rows) == ["listed b", "listed a"]
    console.open(f"{base}/tenants?q=listed&status=removed")
    assert "Nothing matches." in text_of(console)


def test_a_receipt_is_found_read_and_its_bundle_verified(
    console: Browser, pages_gateway: Gateway, operated: Operated
) -> None:
    answer = operated.chat()
    receipt = answer.headers["x-trustgate-receipt"]
    console.open(f"{pages_gateway.base_url}/console/receipt?id={answer.headers['x-request-id']}")
    text = text_of(console)
    assert receipt in text and console.evaluate("document.querySelectorAll('ol.steps > li').length") == 11
    bundle = console.evaluate(f"fetch('/console/receipts/{receipt}/bundle').then((r) => r.text())")
    assert pages_gateway.cli("receipt", "verify", "-", stdin=bundle).returncode == 0
    month = pages_gateway.cli_json("statement", "list", operated.tenant)["months"][0]
    statement = console.evaluate(f"fetch('/console/statements/{operated.tenant}/{month}.html').then((r) => r.text())")
    assert pages_gateway.cli("statement", "verify", "-", stdin=statement).returncode == 0


def test_requests_come_by_themselves_are_filtered_and_paused(
    console: Browser, pages_gateway: Gateway, operated: Operated
) -> None:
    console.open(f"{pages_gateway.base_url}/console/requests")
    console.wait_for("document.getElementById('live-state').textContent === 'Live'")
    first = operated.chat().headers["x-trustgate-receipt"]
    console.wait_for(f"document.querySelector('[data-id={first}]') !== null")
    console.evaluate(
        "((f) => { f.value = 'nothing like it'; f.dispatchEvent(new Event('input', {bubbles: true})); })"
        "(document.getElementById('field-live'))"
    )
    assert console.evaluate("Array.from(document.getElementById('live-log').rows).every((row) => row.hidden)")
    console.evaluate("document.getElementById('live-pause').click()")
    assert console.evaluate("document.getElementById('live-state').textContent") == "Paused"
    second = operated.chat().headers["x-trustgate-receipt"]
    console.evaluate("document.getElementById('live-pause').click()")
    console.wait_for(f"document.querySelector('[data-id={second}]') !== null")


def test_without_scripts_the_numbers_are_there_and_forms_work(console: Browser, pages_gateway: Gateway) -> None:
    base = f"{pages_gateway.base_url}/console"
    console.open(base, scripts=False)
    assert "Requests a second" in text_of(console) and "Money" in text_of(console)
    page = console.evaluate("document.documentElement.outerHTML")
    token = re.search(r'name="form_token" value="([^"]+)"', page)
    assert token is not None
    cookies = {cookie["name"]: cookie["value"] for cookie in console.cookies()}
    with httpx.Client(base_url=pages_gateway.base_url, cookies=cookies, trust_env=False) as http:
        form = {"form_token": token[1], "name": "no scripts"}
        made = http.post("/console/do/tenant.add", data=form, headers={"origin": pages_gateway.base_url})
        assert made.status_code == 200 and "tgk_" in made.text


def test_what_a_hostile_upstream_writes_stays_text(
    console: Browser, pages_gateway: Gateway, operated: Operated, pages_upstream: Upstream
) -> None:
    """The name that it gives its model stands in receipts, its refusals in the list of requests."""
    pages_upstream.script(Reply.chat(EVIL, model=EVIL), Reply.error(422, EVIL))
    answered = operated.chat("gpt-4o")
    assert answered.status_code == 200
    operated.chat("gpt-4o")
    for page in (f"receipts/{answered.headers['x-trustgate-receipt']}", "requests", "receipts", "usage?by=model", ""):
        console.open(f"{pages_gateway.base_url}/console/{page}")
        assert console.evaluate("document.querySelectorAll('main img').length") == 0, page
        assert console.evaluate("document.title") != "owned" and console.complaints == [], page
    console.open(f"{pages_gateway.base_url}/console/receipts/{answered.headers['x-trustgate-receipt']}")
    assert EVIL in console.evaluate("document.querySelector('main').textContent")


def test_signing_out_ends_the_session(console: Browser, pages_gateway: Gateway) -> None:
    cookies = {cookie["name"]: cookie["value"] for cookie in console.cookies()}
    console.click("header form button")
    assert "You are signed out." in text_of(console)
    assert console.cookies() == []
    with httpx.Client(base_url=pages_gateway.base_url, cookies=cookies, trust_env=False) as http:
        assert http.get("/console").status_code == 401


def test_what_is_wrong_is_shown_with_the_command_that_mends_it(
    console: Browser, pages_gateway: Gateway, pages_upstream: Upstream
) -> None:
    """As ``doctor`` has it, word for word."""
    checks = json.loads(pages_gateway.cli("doctor", "--json", check=False).stdout)["checks"]
    console.open(f"{pages_gateway.base_url}/console")
    text = text_of(console)
    names = {"disk", "log", "archive", "receipts", "upstream", "prices", "payment", "notices", "files"}
    wrong: list[dict[str, Any]] = [each for each in checks if each["status"] != "ok" and each["name"] in names]
    for finding in wrong:
        assert finding["message"] in text
    assert ("All is well." in text) is (wrong == [])
