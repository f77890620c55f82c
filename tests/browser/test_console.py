"""The console in a headless Chromium: each page and task walked, light and dark, wide and narrow, with axe-core."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chromium import Browser
from tests.support.facilitator import FacilitatorDouble
from tests.support.gateway import Gateway
from tests.support.receiver import Receiver
from tests.support.upstream import Reply, Upstream

#: A name that would run a script wherever it became markup.
EVIL = "<img src=x onerror=\"document.title='owned'\">'\"&amp;"


@pytest.fixture(scope="module")
def facilitator() -> Iterator[FacilitatorDouble]:
    with FacilitatorDouble() as double:
        yield double


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
    # Forms are made alike: one of each kind of field.
    *("notices", "storage", "end-users", "find?q=e", "profiles/plan/pro"),
    *("do/key.create", "do/payment.set", "do/profile.set", "do/passport.set", "do/tenant.remove"),
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


def test_how_a_tenant_pays_is_set_and_ended(
    console: Browser, pages_gateway: Gateway, operated: Operated, facilitator: FacilitatorDouble
) -> None:
    tenant = pages_gateway.cli_json("tenant", "add", "walked payer")["tenant"]["id"]
    console.open(f"{pages_gateway.base_url}/console/tenants/{tenant}")
    console.click("a[href*='payment.set']")
    wallet = "0x" + "b6" * 20
    console.submit("#action", mode="prepaid", network="base-sepolia")
    assert "A network needs the wallet" in text_of(console)
    console.submit("#action", pay_to=wallet, facilitator=facilitator.url, top_up="2.50", flow="upfront")
    text = text_of(console)
    assert "base-sepolia (eip155:84532)" in text and "$2.50 or more" in text and "before the LLM server" in text
    terms = pages_gateway.cli_json("payment", "terms", tenant)["terms"][0]["terms"]
    assert (terms["mode"], terms["top_up_nano_usd"], len(terms["offers"])) == ("prepaid", 2_500_000_000, 1)
    console.click("a[href*='payment.off']")
    console.submit("#action", confirm=True)
    assert "off: nothing is due" in text_of(console)


def test_a_profile_is_set_entry_by_entry_and_cleared(console: Browser, pages_gateway: Gateway) -> None:
    tenant = pages_gateway.cli_json("tenant", "add", "walked profile")["tenant"]["id"]
    console.open(f"{pages_gateway.base_url}/console/tenants/{tenant}")
    console.click(f"a[href$='profiles/tenant/{tenant}']")
    console.click("a[href*='profile.set']")
    console.evaluate(
        "((f) => { f.value = 'gpt-4=trustgate/echo\\nmy own=trustgate/echo'; "
        "f.dispatchEvent(new Event('input', {bubbles: true})); })(document.getElementById('field-names'))"
    )
    line = f"trustgate profile set --tenant {tenant} --name gpt-4=trustgate/echo --name 'my own=trustgate/echo'"
    assert console.evaluate("document.getElementById('action-line').textContent") == line
    console.submit("#action", cap="max_tokens=800")
    assert "Name my own\ntrustgate/echo" in text_of(console) and "Most of max_tokens\n800" in text_of(console)
    console.click("a[href*='profile.set']")
    console.submit("#action", names="gpt-4=none", header=f"x-{'long' * 15}=a")
    assert "long" in text_of(console)
    for width in (360, 900):
        console.look(width=width)
        assert console.evaluate("document.documentElement.scrollWidth") <= width
    rules = pages_gateway.cli_json("profile", "show", "--tenant", tenant)["profile"]["rules"]
    assert (rules["names"], rules["caps"]) == ({"my own": "trustgate/echo"}, {"max_tokens": 800})
    console.click("a[href*='profile.clear']")
    console.submit("#action", confirm=True)
    assert "Done: clear a profile." in text_of(console)


def test_an_end_user_is_blocked_limited_and_served_again(console: Browser, pages_gateway: Gateway) -> None:
    added = pages_gateway.cli_json("tenant", "add", "walked app")
    tenant, secret = added["tenant"]["id"], added["key"]["secret"]
    pages_gateway.cli("key", "set", added["key"]["id"], "--end-users", "user")
    pages_gateway.cli(
        "budget", "add", "each-user", "--tenant", tenant, "--usd", "5", "--per", "month", "--each", "end-user"
    )
    body = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello"}], "user": "anna@example.com"}
    with httpx.Client(base_url=pages_gateway.base_url, trust_env=False) as http:
        http.headers["authorization"] = f"Bearer {secret}"
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        console.open(f"{pages_gateway.base_url}/console/end-users?tenant={tenant}")
        console.click("main td a[href*='end-user.block']")
        console.submit("#action", confirm=True)
        assert http.post("/v1/chat/completions", json=body).status_code == 403
        console.open(f"{pages_gateway.base_url}/console/end-users?tenant={tenant}")
        assert "blocked" in text_of(console) and "anna" not in text_of(console)
        console.click("main td a[href*='end-user.unblock']")
        console.submit("#action")
        assert http.post("/v1/chat/completions", json=body).status_code == 200
    console.open(f"{pages_gateway.base_url}/console/do/end-user.limit?tenant={tenant}")
    console.submit("#action", user="anna@example.com", budget="each-user", usd="0.5")
    [user] = [each for each in pages_gateway.cli_json("end-user", "list", tenant)["end_users"] if each["end_user"]]
    assert user["amounts"] == {"each-user": 500_000_000}


def test_a_webhook_is_added_tried_and_removed(console: Browser, pages_gateway: Gateway) -> None:
    base = f"{pages_gateway.base_url}/console"
    console.open(f"{base}/notices")
    console.click("a[href*='notify.add']")
    with Receiver() as receiver:
        console.submit("#action", url=receiver.url, name="walked hook", on="disk", private=True)
        assert "This secret is shown only now" in text_of(console)
        assert console.evaluate("document.getElementById('secret').textContent").startswith("whsec_")
        console.click("main p a")
        console.click("th.name a")
        console.click("a[href*='notify.test']")
        console.submit("#action")
        console.wait_for("document.querySelector('main table') !== null")
        assert "walked hook" in text_of(console) and "delivered" in text_of(console)
    console.open(f"{base}/do/notify.remove?subscriber=walked+hook")
    console.submit("#action", confirm=True)
    assert "There is no subscriber yet" in text_of(console)


def test_what_takes_long_shows_how_it_stands_and_what_came_of_it(
    console: Browser, pages_gateway: Gateway, operated: Operated, tmp_path: Path, axe_source: str
) -> None:
    base = f"{pages_gateway.base_url}/console"
    file = tmp_path / "the backup"
    console.open(f"{base}/storage")
    console.click("a[href$='do/backup']")
    console.submit("#action", file="relative")
    assert "Give the whole path" in text_of(console)
    console.submit("#action", file=str(file))
    console.wait_for("document.querySelector('main .message') !== null")
    assert "Backed up" in text_of(console) and f"to {file}." in text_of(console)
    assert file.stat().st_mode & 0o777 == 0o600
    assert console.axe(axe_source) == []
    place = console.url
    console.open(f"{base}/do/backup")
    console.submit("#action", file=str(file))
    console.wait_for("document.querySelector('main .message') !== null")
    assert "already exists" in text_of(console), "nothing is overwritten"
    for action, fields, told in (
        ("archive", {"before": "2020-01", "dry_run": True, "confirm": True}, "Would archive 0 receipts"),
        ("payment.reconcile", {}, "None is open."),
        ("compact", {}, "The database"),
        # No key pays for anchors here: a refusal stands where the result would.
        ("anchor.flush", {"dry_run": True, "confirm": True}, "trustgate anchor keygen"),
    ):
        console.open(f"{base}/do/{action}")
        console.submit("#action", **fields)
        console.wait_for("document.getElementById('work-stage') === null")
        assert told in text_of(console), action
    month = pages_gateway.cli_json("statement", "list", operated.tenant)["months"][0]
    console.open(f"{base}/do/statement.make?tenant={operated.tenant}")
    console.submit("#action", month=month)
    console.wait_for("document.querySelector('main .message') !== null")
    made = console.evaluate("fetch(document.querySelector('main .buttons a').href).then((r) => r.text())")
    assert pages_gateway.cli("statement", "verify", "-", stdin=made).returncode == 0
    console.open(place)
    assert "Backed up" in text_of(console), "what came of it is there when one comes back"


def test_one_field_finds_whatever_has_a_page(console: Browser, pages_gateway: Gateway, operated: Operated) -> None:
    base = f"{pages_gateway.base_url}/console"
    answer = operated.chat()
    receipt = answer.headers["x-trustgate-receipt"]
    for wanted, page in (
        (receipt, f"receipts/{receipt}"),
        (answer.headers["x-request-id"], f"receipts/{receipt}"),
        (operated.tenant, f"tenants/{operated.tenant}"),
        (operated.key, f"keys/{operated.key}"),
        ("growth", "plans/growth"),
    ):
        console.open(base)
        console.evaluate("document.querySelector('header input').focus()")
        console.type(wanted)
        console.key("Enter", leaves=True)
        assert console.url == f"{base}/{page}"
    console.open(f"{base}/find?q=nothing+like+it")
    assert "Nothing has this in its name or id" in text_of(console)


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
    console.submit("main form[role=search]", q="LISTED")
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


def focused(page: Browser) -> str:
    """What has the focus, and whether a ring shows it."""
    text: str = page.evaluate(
        "((e) => `${e.tagName} ${(e.innerText || e.name || '').trim()} "
        "${getComputedStyle(e).outlineStyle === 'none' ? 'unseen' : 'seen'}`)(document.activeElement)"
    )
    return text


def test_a_tenant_is_added_by_the_keyboard_alone(console: Browser, pages_gateway: Gateway) -> None:
    console.open(f"{pages_gateway.base_url}/console/tenants")
    console.key("Tab")
    assert focused(console) == "A Skip to the content seen"
    console.key("Enter")
    assert console.evaluate("document.activeElement.id") == "main"
    console.key("Tab")
    assert focused(console) == "A Add a tenant seen"
    console.key("Enter", leaves=True)
    console.key("Tab")
    console.key("Enter")
    console.key("Tab")
    assert focused(console) == "INPUT name seen"
    console.type("by keyboard")
    while not focused(console).startswith("BUTTON Add a tenant"):
        console.key("Tab")
        assert focused(console).endswith("seen")
    console.key("Space", leaves=True)
    assert "This secret is shown only now" in text_of(console)
    assert "by keyboard" in {each["name"] for each in pages_gateway.cli_json("tenant", "list")["tenants"]}


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


def test_without_scripts_each_task_can_be_done(
    console: Browser, pages_gateway: Gateway, operated: Operated, tmp_path: Path
) -> None:
    base = f"{pages_gateway.base_url}/console"
    console.open(f"{base}/plans", scripts=False)
    console.submit("main form[role=search]", q="grow")
    assert "Plans: 1 of" in text_of(console)
    console.submit("header form[role=search]", q=operated.tenant)
    assert console.url == f"{base}/tenants/{operated.tenant}"
    console.click("a[href*='budget.add']")
    console.submit("#action", budget="unscripted", usd="7", per="day")
    assert "Done: add a budget." in text_of(console) and "$7.00 a day" in text_of(console)
    console.open(f"{base}/do/budget.remove?budget=unscripted", scripts=False)
    console.submit("#action", confirm=True)
    console.open(f"{base}/do/backup", scripts=False)
    console.submit("#action", file=str(tmp_path / "unscripted.backup"))
    while "Backed up" not in text_of(console):
        console.click("main p a")  # Look again
    console.open(f"{base}/requests", scripts=False)
    assert "Scripts are switched off: reload the page for newer requests." in text_of(console)
    console.click("header form[method=post] button")
    assert "You are signed out." in text_of(console)


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


def test_requests_that_fail_are_seen_before_their_upstream_is_looked_at_again(
    console: Browser, pages_gateway: Gateway, operated: Operated
) -> None:
    pages_gateway.cli("passport", "add", "broken", "--base-url", "http://127.0.0.1:9/v1")
    try:
        assert {operated.chat("broken").status_code for _ in range(3)} <= {502, 503}
        console.open(f"{pages_gateway.base_url}/console")
    finally:
        pages_gateway.cli("passport", "revoke", "broken")
    text = text_of(console)
    assert "Requests fail just now: " in text and "All is well." not in text


def test_signing_out_ends_the_session(console: Browser, pages_gateway: Gateway) -> None:
    cookies = {cookie["name"]: cookie["value"] for cookie in console.cookies()}
    console.click("header form[method=post] button")
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
    # Besides, that requests fail just now, as those of other tests may.
    assert ("All is well." in text) is (wrong == [] and "Requests fail just now" not in text)
