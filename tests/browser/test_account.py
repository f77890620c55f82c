"""The tenant's page in a headless Chromium: each task walked, and what would harm it tried."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.checker import check_readable
from tests.support.chromium import Browser
from tests.support.gateway import Gateway
from tests.support.upstream import DONE, Gate, Reply, Upstream, delta

_PATIENCE_MS = 15_000
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


class Account(NamedTuple):
    """A tenant whose plan lets it make keys, and a client with its key."""

    gateway: Gateway
    name: str
    secret: str
    http: httpx.Client

    def chat(self, model: str = "trustgate/echo") -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        return self.http.post("/v1/chat/completions", json=body)


@pytest.fixture(scope="module")
def account(pages_gateway: Gateway) -> Iterator[Account]:
    pages_gateway.cli("plan", "add", "account", "--own-keys", "9", "--requests-per-day", "1000")
    pages_gateway.cli("passport", "add", "gpt-4o", "--input-price", "2.5", "--output-price", "10")
    added = pages_gateway.cli_json("tenant", "add", "Ältere & Söhne", "--plan", "account")
    pages_gateway.cli("budget", "add", "team", "--tenant", "Ältere & Söhne", "--usd", "5", "--per", "month")
    secret = added["key"]["secret"]
    head = {"authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=pages_gateway.base_url, headers=head, trust_env=False) as http:
        yield Account(pages_gateway, "Ältere & Söhne", secret, http)


@pytest.fixture
def page(browser: Browser, account: Account) -> Iterator[Browser]:
    """The page, signed in. However it is used, its console stays empty and all its requests go to the gateway."""
    sign_in(browser, account.gateway.base_url, account.secret)
    yield browser
    assert browser.complaints == []
    assert all(url.startswith((account.gateway.base_url, "blob:", "data:")) for url in browser.requests)
    assert browser.cookies() == []


def show(browser: Browser, url: str, first: str = "") -> None:
    """The page, as in a new tab. ``first``: a script to run before its own, as an extension does."""
    browser.open(f"{url}/account", first=f"sessionStorage.clear(); {first}")
    until(browser, "document.getElementById('sign-in')")


def sign_in(browser: Browser, url: str, secret: str, first: str = "") -> None:
    show(browser, url, first)
    type_key(browser, secret)
    until(browser, "document.querySelector('.figures')")


def type_key(browser: Browser, key: str) -> None:
    put(browser, "key", key)
    press(browser, "#sign-in button")


def go(page: Browser, view: str, ready: str) -> None:
    """Show a view, until what ``ready`` selects is there."""
    page.call("function (view) { location.hash = view }", f"#{view}")
    wait(page, ready)


def wait(page: Browser, selector: str) -> None:
    until(page, f"document.querySelector({json.dumps(f'#view {selector}')}) && !document.querySelector('[aria-busy]')")


def until(page: Browser, expression: str) -> None:
    """Wait until an expression in the page is true. AssertionError, with what the page shows, where it never is."""
    page.evaluate(
        f"new Promise((done, fail) => {{ const end = Date.now() + {_PATIENCE_MS}; const look = () => ({expression}) ? "
        "done(0) : Date.now() > end ? fail(Error(document.body.innerText)) : requestAnimationFrame(look); look(); })"
    )


def text_of(page: Browser, selector: str = "#view") -> str:
    text: str = page.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
    return text


def put(page: Browser, field: str, value: str) -> None:
    """Fill in a field, by its id."""
    page.call(
        """function (id, value) {
          document.getElementById(id).value = value;
          document.getElementById(id).dispatchEvent(new Event("change"));
        }""",
        field,
        value,
    )


def press(page: Browser, selector: str) -> None:
    page.evaluate(f"document.querySelector({json.dumps(selector)}).click(), 0")


# signing in


def test_the_key_is_in_this_tab_alone(page: Browser, account: Account) -> None:
    assert account.secret not in page.url and account.secret not in "".join(page.requests)
    assert page.evaluate("document.cookie") == ""
    assert account.secret not in page.evaluate("JSON.stringify(localStorage) + document.documentElement.outerHTML")
    assert page.evaluate("Object.values(sessionStorage)") == [account.secret]
    press(page, "#sign-out")
    wait(page, "#sign-in")
    assert page.evaluate("sessionStorage.length") == 0
    assert account.name not in text_of(page, "body")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("tgk_wrong", "is not a TrustGate key"),
        ("tgk_ключ", "not an API key"),
        ("tgk_a\nb: c", "not an API key"),
    ],
)
def test_a_wrong_key_is_refused_in_words(browser: Browser, account: Account, key: str, told: str) -> None:
    show(browser, account.gateway.base_url)
    browser.evaluate("document.getElementById('key').type = 'hidden', 0")  # a field of one line would drop the break
    type_key(browser, key)
    wait(browser, ".message.bad")
    assert told in text_of(browser, ".message.bad")
    assert browser.evaluate("sessionStorage.length") == 0


def test_a_revoked_key_is_signed_out(browser: Browser, account: Account) -> None:
    key = account.http.post("/v1/keys", json={"name": "short"}).json()
    sign_in(browser, account.gateway.base_url, key["secret"])
    account.http.delete(f"/v1/keys/{key['id']}")
    go(browser, "usage", "#sign-in")
    assert "has been revoked" in text_of(browser, ".message.bad")
    assert browser.evaluate("sessionStorage.length") == 0


def test_without_scripts_it_says_how_to_read_the_figures(browser: Browser, account: Account) -> None:
    browser.open(f"{account.gateway.base_url}/account", scripts=False)
    assert "/v1/account" in text_of(browser, "pre")
    assert browser.evaluate("document.querySelector('input')") is None, "no key can end up in an address"


def tab_to(browser: Browser, what: str) -> None:
    """Press Tab until ``what`` (an expression of ``e``) holds for what has the focus; the ring is seen all the way."""
    for _ in range(40):
        browser.key("Tab")
        if browser.evaluate(f"((e) => Boolean({what}))(document.activeElement)"):
            assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"40 times Tab do not lead to {what}")


def test_a_tenant_signs_in_and_asks_by_the_keyboard_alone(browser: Browser, account: Account) -> None:
    show(browser, account.gateway.base_url)
    browser.type(account.secret)
    browser.key("Enter")
    until(browser, "document.querySelector('.figures')")
    tab_to(browser, "e.hash === '#playground'")
    browser.key("Enter")
    wait(browser, "#text")
    tab_to(browser, "e.id === 'text'")
    browser.type("Hello from the keyboard")
    tab_to(browser, "e.id === 'send'")
    browser.key("Space")
    until(browser, "document.querySelectorAll('#talk .turn').length === 2")
    assert "Hello from the keyboard" in text_of(browser, "#talk")


def test_the_first_view_is_small_and_kept(browser: Browser, account: Account) -> None:
    show(browser, account.gateway.base_url)
    assert len(browser.requests) <= 6
    assert browser.transferred_bytes < 30_000
    with httpx.Client(base_url=account.gateway.base_url, trust_env=False) as http:
        for path in ("/account", "/account/verify.js"):
            etag = http.get(path).headers["etag"]
            assert http.get(path, headers={"if-none-match": etag}).status_code == 304


def test_it_may_run_nothing_but_its_own_scripts(account: Account) -> None:
    response = httpx.get(f"{account.gateway.base_url}/account", trust_env=False)
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy and "http" not in policy
    for directive in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"):
        assert directive in policy
    assert "set-cookie" not in response.headers


def test_the_settings_switch_it_off_while_serving(account: Account) -> None:
    settings = account.gateway.home / "trustgate.toml"
    settings.write_text("[serve]\naccount = false\n")
    try:
        account.gateway.cli("reload")
        for path in ("/account", "/account/verify.js"):
            refused = httpx.get(account.gateway.base_url + path, trust_env=False)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_url")
    finally:
        settings.unlink()
        account.gateway.cli("reload")
    assert httpx.get(f"{account.gateway.base_url}/account", trust_env=False).status_code == 200


# the views


def test_the_overview_says_what_is_left_and_when_it_begins_anew(page: Browser, account: Account) -> None:
    account.chat()
    go(page, "usage", ".chart")
    go(page, "overview", ".figures")
    left = account.http.get("/v1/account").json()["limits"][0]["left"]
    shown = text_of(page)
    assert account.name in shown and f"{left:,}" in shown and "$5.00" in shown and "team" in shown
    assert f"{account.gateway.base_url}/v1" in shown


def test_usage_is_a_chart_and_the_figures_beside_it(page: Browser, account: Account) -> None:
    account.chat("gpt-4o")
    go(page, "usage", ".chart")
    [row] = [row for row in account.http.get("/v1/usage?by=model").json()["data"] if row["group"] == "gpt-4o"]
    cells = page.evaluate(
        "Array.from(document.querySelectorAll('tbody tr'), (r) => Array.from(r.cells, (c) => c.innerText))"
        ".find((cells) => cells[0] === 'gpt-4o')"
    )
    assert cells[1] == str(row["requests"])
    assert cells[3:5] == [str(row["prompt_tokens"]), str(row["completion_tokens"])]
    assert page.evaluate("document.querySelectorAll('.chart rect').length") >= 1
    put(page, "unit", "cost_nano_usd")
    until(page, "document.querySelector('figcaption').innerText.startsWith('Cost')")
    assert page.evaluate("document.querySelector('.chart text').textContent").startswith("most: $0.000")


def test_receipts_are_found_opened_and_verified(page: Browser, account: Account) -> None:
    answer = account.chat("gpt-4o")
    receipt = answer.headers["x-trustgate-receipt"]
    account.chat()
    go(page, "receipts", "tbody tr")
    put(page, "model", "gpt-*")
    press(page, "#find button")
    until(page, "!document.querySelector('#view table').innerText.includes('echo')")
    put(page, "id", receipt)
    press(page, "#open button")
    wait(page, "#verify")
    assert receipt in text_of(page) and "answered by gpt-4o" in text_of(page)
    press(page, "#verify")
    wait(page, "#verdict .message")
    assert "The receipt holds" in text_of(page, "#verdict .message")
    states = checks_of(page)
    assert states["inclusion"] == states["checkpoint"] == states["consistency"] == states["log now"] == "passed"
    choose(page, "got", answer.content)
    press(page, "#verify")
    until(page, "document.querySelector('#verdict').innerText.includes('for the given response')")
    choose(page, "got", answer.content + b" ")
    press(page, "#verify")
    wait(page, "#verdict .message.bad")
    assert "not what the receipt was issued for" in text_of(page, "#verdict .message")


def checks_of(page: Browser) -> dict[str, str]:
    found: dict[str, str] = page.evaluate(
        "Object.fromEntries(Array.from(document.querySelectorAll('.checks li'), "
        "(e) => [e.querySelector('strong').innerText, e.querySelector('.how').innerText]))"
    )
    return found


def choose(page: Browser, field: str, data: bytes) -> None:
    page.call(
        """function (field, encoded) {
          const chosen = new DataTransfer();
          chosen.items.add(new File([Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0))], "body"));
          document.getElementById(field).files = chosen.files;
        }""",
        field,
        base64.b64encode(data).decode(),
    )


def test_another_tenants_receipt_is_not_shown(browser: Browser, account: Account) -> None:
    sign_in(browser, account.gateway.base_url, account.secret)
    other = account.gateway.cli_json("tenant", "add", "stranger")["key"]["secret"]
    head = {"authorization": f"Bearer {other}"}
    body = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "mine"}]}
    url = f"{account.gateway.api_url}/chat/completions"
    receipt = httpx.post(url, json=body, headers=head, trust_env=False).headers["x-trustgate-receipt"]
    go(browser, f"receipts/{receipt}", ".message.bad")
    assert "There is no receipt" in text_of(browser, ".message.bad")


def test_a_statement_is_verified_and_saved(page: Browser, account: Account) -> None:
    account.chat()
    go(page, "statements", "tbody tr")
    press(page, "#view td button")
    wait(page, "#verdict .message")
    assert "The statement holds" in text_of(page, "#verdict .message")
    assert checks_of(page)["sums"] == "passed"
    page.evaluate("URL.createObjectURL = (blob) => { globalThis.saved = blob; return '#statements' }, 0")
    press(page, "#view button[aria-label^='JSON']")
    until(page, "globalThis.saved")
    assert json.loads(page.evaluate("saved.text()"))["format"] == "trustgate-statement@v1"


def test_a_key_is_made_limited_shown_once_and_revoked(page: Browser, account: Account) -> None:
    go(page, "keys", "#new-key")
    name = HOSTILE[:60]
    put(page, "new-name", name)
    put(page, "new-models", "trustgate/*, gpt-4o")
    put(page, "new-requests", "7")
    put(page, "new-spending", "1.5")
    press(page, "#new-key button")
    wait(page, "#secret")
    secret = text_of(page, "#secret").strip()
    [key] = [each for each in account.http.get("/v1/keys").json()["data"] if each["name"] == name]
    assert key["models"] == ["trustgate/*", "gpt-4o"]
    assert key["limits"] == {"requests_per_day": 7, "cost_nano_usd_per_month": 1_500_000_000}
    head = {"authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=account.gateway.base_url, headers=head, trust_env=False) as http:
        assert http.get("/v1/models").status_code == 200
        go(page, "overview", ".figures")
        go(page, "keys", "tbody tr")
        assert secret not in page.evaluate("document.documentElement.outerHTML + JSON.stringify(sessionStorage)")
        assert name in text_of(page) and page.evaluate("document.title") == "Keys – TrustGate"
        page.evaluate("globalThis.asked = ''; confirm = (text) => { asked = text; return false }, 0")
        press(page, "td button.danger")
        assert page.evaluate("asked").startswith("Revoke the key") and http.get("/v1/models").status_code == 200
        page.evaluate("confirm = () => true, 0")
        press(page, "td button.danger")
        wait(page, ".message.good")
        assert http.get("/v1/models").status_code == 401


def test_a_plan_without_keys_of_ones_own_shows_no_form(browser: Browser, account: Account) -> None:
    secret = account.gateway.cli_json("tenant", "add", "plain")["key"]["secret"]
    sign_in(browser, account.gateway.base_url, secret)
    go(browser, "keys", "table")
    assert "leaves keys to the operator" in text_of(browser)
    assert browser.evaluate("document.querySelector('#new-key') ?? document.querySelector('.danger')") is None


# the playground


def ask(page: Browser, text: str, model: str = "gpt-4o") -> None:
    put(page, "model", model)
    put(page, "text", text)
    press(page, "#send")


def test_an_answer_proves_itself(page: Browser, account: Account, pages_upstream: Upstream) -> None:
    go(page, "playground", "#ask")
    put(page, "model", "gpt-4o")
    assert "$2.5 a million tokens in, $10 out" in text_of(page, "#price")
    pages_upstream.script(Reply.chat_stream("It is 42."))
    ask(page, "What is it?")
    wait(page, ".proof .state")
    assert "It is 42." in text_of(page, ".turn.model .said")
    assert text_of(page, ".proof .state") == "verified"
    assert "what you sent and what you got, byte for byte" in text_of(page, ".proof")
    receipt = account.http.get("/v1/receipts?limit=1").json()["data"][0]["receipt"]
    used = f"{receipt['prompt_tokens']} tokens in, {receipt['completion_tokens']} out, billed $"
    assert used in text_of(page, ".meter")
    page.evaluate("document.querySelector('.proof details').open = true, 0")
    states = checks_of(page)
    assert states["request"] == states["response"] == states["inclusion"] == states["consistency"] == "passed"


def test_an_answer_is_stopped_and_what_came_stays(browser: Browser, account: Account, pages_upstream: Upstream) -> None:
    page = browser  # a receipt that is not there yet is asked for again: the browser's console shows the 404
    sign_in(page, account.gateway.base_url, account.secret)
    go(page, "playground", "#ask")
    gate = Gate()
    pages_upstream.script(Reply.sse([delta("Once upon"), gate, delta(" a time"), DONE]))
    ask(page, "Tell me a story")
    until(page, "document.querySelector('.turn.model .said')?.innerText === 'Once upon'")
    assert "about" in text_of(page, ".meter")
    press(page, "#stop")
    wait(page, ".proof .state")
    gate.open()
    assert text_of(page, ".turn.model .said") == "Once upon"
    assert text_of(page, ".proof .state") == "verified" and "It is for what you sent, byte" in text_of(page, ".proof")
    assert "client gone" in text_of(page, ".meter")
    assert page.evaluate("document.getElementById('send').disabled") is False


def test_what_a_model_says_is_text_and_no_markup(page: Browser, pages_upstream: Upstream) -> None:
    go(page, "playground", "#ask")
    pages_upstream.script(Reply.sse([*(delta(each) for each in HOSTILE), DONE]))
    ask(page, HOSTILE)
    wait(page, ".proof .state")
    assert text_of(page, ".turn.model .said") == HOSTILE == text_of(page, ".turn.user .said")
    assert page.evaluate("document.querySelectorAll('#view img, #view script').length") == 0
    assert page.evaluate("document.title") == "Playground – TrustGate"


def test_a_refusal_is_told_and_the_talk_goes_on(browser: Browser, account: Account, pages_upstream: Upstream) -> None:
    page = browser
    sign_in(page, account.gateway.base_url, account.secret)
    go(page, "playground", "#ask")
    pages_upstream.script(Reply.error(400, "This is <b>too much</b>."))
    ask(page, "Please")
    wait(page, ".turn .message.bad")
    assert "This is <b>too much</b>." in text_of(page, ".turn .message.bad")
    pages_upstream.script(Reply.chat_stream("Now yes."))
    ask(page, "Again")
    wait(page, ".proof .state")
    assert "Now yes." in text_of(page)


def test_a_plan_without_streaming_gets_whole_answers(browser: Browser, account: Account) -> None:
    secret = account.gateway.cli_json("tenant", "add", "free-of-charge", "--plan", "free")["key"]["secret"]
    sign_in(browser, account.gateway.base_url, secret)
    go(browser, "playground", "#ask")
    ask(browser, "Echo this", "trustgate/echo")
    wait(browser, ".proof .state")
    assert "Echo this" in text_of(browser, ".turn.model .said") and text_of(browser, ".proof .state") == "verified"


# the log's consistency, by its tiles


class _Log:
    """A log of many leaves: its tiles, and its root at any size."""

    def __init__(self, size: int) -> None:
        self.leaves = [hashlib.sha256(b"\0%d" % at).digest() for at in range(size)]
        self.tiles: dict[str, str] = {}
        level, row = 0, self.leaves
        while row:
            for index in range(-(-len(row) // 256)):
                path = f"x{index // 1000:03}/{index % 1000:03}" if index >= 1000 else f"{index:03}"
                data = b"".join(row[index * 256 : index * 256 + 256])
                self.tiles[f"/log/tile/{level}/{path}"] = base64.b64encode(data).decode()
            level, row = level + 1, [self._of(row[at : at + 256]) for at in range(0, len(row) // 256 * 256, 256)]

    def root(self, size: int) -> bytes:
        return self._of(self.leaves[:size])

    @staticmethod
    def _of(row: list[bytes]) -> bytes:
        # RFC 6962, section 2.1, from the leaves up: what has no partner rises as it is.
        while len(row) > 1:
            paired = [hashlib.sha256(b"\1" + row[at] + row[at + 1]).digest() for at in range(0, len(row) - 1, 2)]
            row = paired + ([row[-1]] if len(row) % 2 else [])
        return row[0]


_CONSISTENT = """
async function (tiles, cases) {
  const bytes = (encoded) => Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  globalThis.fetch = async (path) => {
    const [whole, width] = path.split(".p/");
    const data = bytes(tiles[whole]);
    return new Response(width === undefined ? data : data.slice(0, 32 * Number(width)));
  };
  const checks = await import("/account/verify.js");
  const { consistent } = await import("/assets/account/checks.js");
  const found = [];
  for (const [old, now] of cases) {
    const state = ([size, root]) => ({ size: BigInt(size), root: bytes(root) });
    found.push(await consistent(checks, state(old), state(now)).then(() => true, (error) => error.message));
  }
  return found;
}
"""


def test_a_log_that_was_rewritten_is_noticed_at_every_size(page: Browser) -> None:
    log = _Log(66_000)
    sizes = [(1, 2), (2, 3), (3, 7), (255, 256), (256, 257), (300, 1_000), (513, 65_536), (65_537, 66_000), (7, 66_000)]
    state = {size: [size, base64.b64encode(log.root(size)).decode()] for pair in sizes for size in pair}
    good = [[state[old], state[now]] for old, now in sizes]
    forged = [[[old, base64.b64encode(bytes(32)).decode()], state[now]] for old, now in sizes]
    found: list[Any] = page.call(_CONSISTENT, log.tiles, [*good, *forged])
    assert found[: len(sizes)] == [True] * len(sizes)
    assert all("does not lead from" in each for each in found[len(sizes) :])


# everybody


@pytest.mark.parametrize(
    ("view", "ready"),
    [
        *(("overview", ".figures"), ("playground", "#ask"), ("usage", ".chart"), ("receipts", "tbody tr")),
        *(("statements", "tbody tr"), ("keys", "#new-key"), ("balance", ".figures")),
    ],
)
def test_each_view_can_be_read_and_used_by_everybody(
    page: Browser, account: Account, axe_source: str, view: str, ready: str
) -> None:
    account.chat()
    go(page, view, ready)
    assert page.axe(axe_source) == []
    check_readable(page)
    assert page.evaluate("document.activeElement.matches('h1, body') || document.activeElement.id === 'text'")
