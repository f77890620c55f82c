"""What strangers try on the console: forged forms, stolen and guessed links, frames, other hosts, a public port."""

from __future__ import annotations

import asyncio
import itertools
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
import typer

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway
from trustgate import cli
from trustgate.admin.consoling import ConsoleEnd
from trustgate.console.access import is_allowed, is_own_form
from trustgate.console.app import Console
from trustgate.console.fields import Action, Progress
from trustgate.console.sessions import CODE_S, IDLE_S, LIFE_S, Sessions
from trustgate.console.works import Works
from trustgate.errors import Conflict, NotFound
from trustgate.server.pages import console_url
from trustgate.settings import PaymentSettings, ServeSettings, Settings, StoreSettings
from trustgate.web.html import Html, tag


@pytest.fixture(scope="module")
def served(make_module_gateway: GatewayFactory) -> Gateway:
    return make_module_gateway().start()


@pytest.fixture
def http(served: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.base_url, trust_env=False) as client:
        yield client


def new_code(served: Gateway) -> str:
    return str(parse_qs(urlsplit(served.cli_json("console")["url"]).query)["code"][0])


def redeem(http: httpx.Client, code: str, **headers: str) -> httpx.Response:
    return http.post("/console/open", data={"code": code}, headers={"origin": str(http.base_url), **headers})


def sign_in(served: Gateway, http: httpx.Client) -> str:
    """Sign in; gives the token that forms carry."""
    assert redeem(http, new_code(served)).status_code == 303
    token = re.search(r'name="form_token" value="([^"]+)"', http.get("/console").text)
    assert token is not None
    return token[1]


# links and sessions


def test_before_a_link_is_asked_for_there_is_no_console(make_gateway: GatewayFactory) -> None:
    gateway = make_gateway().start()
    with httpx.Client(base_url=gateway.base_url, trust_env=False) as http:
        nowhere, console = http.get("/nowhere"), http.get("/console")
        assert console.status_code == 404
        assert console.json()["error"]["code"] == nowhere.json()["error"]["code"] == "unknown_url"
        gateway.cli("console", "--no-open")
        assert http.get("/console").status_code == 401


@pytest.mark.parametrize(("url", "told"), [("postgres://db.example/trustgate", True), ("", False)])
async def test_where_several_servers_may_serve_it_says_which_one_knows_a_session(
    tmp_path: Path, url: str, told: bool
) -> None:
    """Sessions are in a home; on a database that others may serve too, a browser may meet another machine."""
    settings = Settings(home=tmp_path, store=StoreSettings(url=url or None))
    console = Console(Nothing(), Sessions(tmp_path), Works(tmp_path), lambda: settings, recent=tuple, stopping=bool)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/console", "scheme": "http", "http_version": "1.1"}
    near = {"client": ("127.0.0.1", 5), "server": ("127.0.0.1", 4010), "headers": [(b"host", b"127.0.0.1:4010")]}
    await console({**scope, **near}, _never, send)
    page = b"".join(message.get("body", b"") for message in sent).decode()
    assert sent[0]["status"] == 401 and ("Several servers may serve this database" in page) is told


class Nothing:
    """An ``Admin`` that is never asked."""

    async def execute(self, command: Any) -> Any:
        raise AssertionError(command)

    async def feed(self, command: Any, write: Any) -> Any:
        raise AssertionError(command)

    async def close(self) -> None: ...


async def _never() -> Any:
    raise AssertionError("the body of a GET was read")


def test_a_link_works_once(served: Gateway, http: httpx.Client) -> None:
    code = new_code(served)
    assert http.get("/console/open", params={"code": code}).status_code == 200, "looking at it uses nothing up"
    assert redeem(http, code).status_code == 303
    http.cookies.clear()
    assert redeem(http, code).status_code == 401
    assert redeem(http, code[:-1]).status_code == redeem(http, "").status_code == 401


def test_the_cookie_is_out_of_reach(served: Gateway, http: httpx.Client) -> None:
    cookie = redeem(http, new_code(served)).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/console"} <= set(cookie.split("; "))


def test_no_session_is_given_beforehand(served: Gateway, http: httpx.Client) -> None:
    """Fixation: what a browser brings becomes no session, and signing in again ends the one before."""
    name = f"trustgate-console-{urlsplit(served.base_url).port}"
    planted = {"cookie": f"{name}=chosen-by-a-stranger"}
    given = redeem(http, new_code(served), **planted).headers["set-cookie"]
    assert given.startswith(f"{name}=") and "chosen-by-a-stranger" not in given
    http.cookies.clear()
    assert http.get("/console", headers=planted).status_code == 401
    sign_in(served, http)
    old = dict(http.cookies)
    assert redeem(http, new_code(served)).status_code == 303
    assert dict(http.cookies) != old
    with httpx.Client(base_url=served.base_url, cookies=old, trust_env=False) as other:
        assert other.get("/console").status_code == 401


def test_cookies_of_other_servers_on_this_machine_lock_nobody_out(served: Gateway, http: httpx.Client) -> None:
    """Cookies know no ports: a browser sends those of every other program at this address too."""
    sign_in(served, http)
    own = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    http.cookies.clear()
    for other in ('state={"x": 1}', "a=b c", '"', "=", "x@y=1", "path=/", "k[1]=2", "ä=1"):
        for lines in ([f"{other}; {own}"], [f"{own}; {other}"], [other, own], [own, other]):
            headers = [(b"cookie", line.encode()) for line in lines]
            assert http.head("/console", headers=headers).status_code == 200, lines


def test_a_page_number_without_end_is_the_last_page(served: Gateway, http: httpx.Client) -> None:
    sign_in(served, http)
    shown = http.get("/console/plans", params={"page": "9" * 5000})
    assert shown.status_code == 200 and "Plans: " in shown.text


def test_a_name_with_a_slash_leads_to_its_plan(served: Gateway, http: httpx.Client) -> None:
    sign_in(served, http)
    served.cli("plan", "add", "team/one two")
    address = re.search(r'href="(/console/plans/team[^"]+)"', http.get("/console/plans").text)
    assert address is not None
    shown = http.get(address[1])
    assert shown.status_code == 200 and "Plan team/one two" in shown.text


def test_lines_to_copy_run_nothing_that_a_name_holds(served: Gateway, http: httpx.Client) -> None:
    sign_in(served, http)
    name = "$(touch owned); x"
    served.cli("tenant", "add", name)
    for page in (
        http.get("/console/usage", params={"tenant": name}),
        http.get("/console/statements", params={"tenant": name}),
    ):
        assert page.status_code == 200
        lines = [unescape(line) for line in re.findall(r">(trustgate (?:usage|statement) [^<]*)<", page.text)]
        assert all(shlex.quote(name) in line for line in lines if "touch" in line)
        assert "touch" in unescape(page.text)


def test_the_command_line_takes_each_line_that_a_page_shows(served: Gateway, http: httpx.Client) -> None:
    """What is there to be copied is tried with Click: its words, options and arguments, as they are parsed."""
    sign_in(served, http)
    added = served.cli_json("tenant", "add", "lines")
    secret, tenant, key = added["key"]["secret"], added["tenant"]["id"], added["key"]["id"]
    body = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello"}]}
    with httpx.Client(base_url=served.base_url, trust_env=False) as client:
        answer = client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {secret}"})
    receipt = answer.headers["x-trustgate-receipt"]
    names = ("", "usage", "models", "anchors", "storage", "settings", "payments", "end-users?tenant=" + tenant)
    pages = (*names, f"statements?tenant={tenant}", f"receipts/{receipt}", f"profiles/key/{key}", f"tenants/{tenant}")
    lines: set[str] = set()
    for page in pages:
        text = http.get(f"/console/{page}".rstrip("/")).text
        lines |= {unescape(line) for line in re.findall(r">(trustgate [^<]*)</(?:pre|code)>", text)}
    assert len(lines) >= 6
    for line in lines:
        _parse(shlex.split(line)[1:])


def _parse(words: list[str]) -> None:
    """Raises ``click.UsageError`` for a line that the command line does not take."""
    command: Any = cli.app
    command = typer.main.get_command(command)
    while True:
        context = command.make_context("trustgate", list(words), resilient_parsing=False)
        rest = [*context._protected_args, *context.args]
        if not hasattr(command, "resolve_command") or not rest:
            return
        _, command, words = command.resolve_command(context, rest)


def test_the_operator_sees_which_keys_the_operator_did_not_make(served: Gateway, http: httpx.Client) -> None:
    sign_in(served, http)
    served.cli("plan", "add", "makers", "--own-keys", "1")
    maker = served.cli_json("tenant", "add", "maker", "--plan", "makers")["key"]
    made = http.post("/v1/keys", json={}, headers={"authorization": f"Bearer {maker['secret']}"}).json()
    by = f'<dd><a href="/console/keys/{maker["id"]}">'
    assert f"<dt>Made by</dt>{by}" in http.get(f"/console/keys/{made['id']}").text
    assert "Made by" not in http.get(f"/console/keys/{maker['id']}").text


def test_ending_all_sessions_ends_links_too(served: Gateway, http: httpx.Client) -> None:
    sign_in(served, http)
    code = new_code(served)
    assert served.cli_json("console", "--end")["sessions"] >= 1
    assert http.get("/console").status_code == 401
    assert redeem(http, code).status_code == 401


def test_a_code_and_a_session_end_with_time(tmp_path: Path) -> None:
    now = [1000.0]
    sessions = Sessions(tmp_path, lambda: now[0])
    late, code = sessions.issue(), sessions.issue()
    now[0] += CODE_S - 1
    secret = sessions.redeem(code)
    assert secret is not None and sessions.find(secret) is not None
    now[0] += 2
    assert sessions.redeem(late) is None
    now[0] += IDLE_S - 3
    assert sessions.find(secret, used=False) is not None
    now[0] += 2
    assert sessions.find(secret) is None, "unused for too long"
    again = sessions.redeem(sessions.issue())
    assert again is not None
    for _ in range(int(LIFE_S / IDLE_S) * 2 - 1):
        now[0] += IDLE_S / 2
        assert sessions.find(again) is not None
    now[0] += IDLE_S / 2
    assert sessions.find(again) is None, "used all the time, but too old"
    forgotten = sessions.redeem(sessions.issue())
    assert forgotten is not None and sessions.find(forgotten) is not None
    now[0] += IDLE_S
    sessions.issue()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1, "the new link alone"


def test_codes_and_sessions_are_bounded_and_kept_as_hashes(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    secrets = [sessions.redeem(sessions.issue()) for _ in range(40)]
    alive = [secret for secret in secrets if secret is not None and sessions.find(secret) is not None]
    assert alive == secrets[-16:]
    codes = [sessions.issue() for _ in range(20)]
    assert [sessions.redeem(code) is not None for code in codes] == [False] * 12 + [True] * 8
    codes.append(sessions.issue())
    found = [sessions.find(str(secret)) for secret in secrets]
    tokens = [session.form_token for session in found if session is not None]
    assert len(tokens) == 8, "those that were opened since have taken the others' places"
    kept = "".join(f"{path}{path.read_text() if path.is_file() else ''}" for path in tmp_path.rglob("*"))
    assert not any(secret in kept for secret in (*map(str, alive), *codes, *tokens))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 17 and {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_session_holds_at_every_process_and_ends_at_all(tmp_path: Path) -> None:
    one, two = Sessions(tmp_path), Sessions(tmp_path)
    code = one.issue()
    secret = two.redeem(code)
    assert secret is not None and one.redeem(code) is None
    here, there = one.find(secret), two.find(secret)
    assert here is not None and there is not None and here.is_form_token(there.form_token)
    assert [here.begin_form("a"), there.begin_form("a"), there.begin_form("b")] == [True, False, True]
    here.release_form("a")
    assert there.begin_form("a")
    waiting = two.issue()
    one.end(here)
    assert two.find(secret) is None and not two.is_alive(there)
    assert one.redeem(waiting) is not None
    assert (two.end_all(), one.end_all()) == (1, 0)


async def test_work_is_shown_by_every_process_and_ends_with_its_own(tmp_path: Path) -> None:
    one, two = Works(tmp_path), Works(tmp_path)
    go_on, said = asyncio.Event(), asyncio.Event()

    async def run(_: object, __: object, ___: object, progress: Progress) -> Html:
        progress.say("Half done")
        said.set()
        await go_on.wait()
        progress.statement = b"{}"
        return tag("p", None, "Made <it>")

    action = Action(("backup",), "Back up", (), lambda _: ConsoleEnd(), lambda _: ("storage",), run=run)
    work = one.begin(Nothing(), action, "trustgate backup", {})
    await said.wait()
    seen = two.find(work.id)
    assert (seen.stage, seen.is_done, seen.title, seen.place) == ("Half done", False, "Back up", ("storage",))
    go_on.set()
    await asyncio.gather(*one.under_way())
    ended = two.find(work.id)
    assert (ended.result, two.statement(ended)) == ("<p>Made &lt;it&gt;</p>", b"{}")
    # As a process leaves it that is killed: no process holds its lock.
    (tmp_path / "works" / f"{work.id}.json").write_bytes(msgspec.json.encode(seen))
    broken = two.find(work.id)
    assert broken.is_done and "has ended" in broken.problem and "again" in broken.hint
    with pytest.raises(NotFound):
        two.find("../" + work.id)


def test_a_stream_ends_with_its_session_and_with_the_server(make_gateway: GatewayFactory) -> None:
    gateway = make_gateway().start()
    for end in ("session", "server"):
        with httpx.Client(base_url=gateway.base_url, trust_env=False, timeout=30.0) as http:
            sign_in(gateway, http)
            with http.stream("GET", "/console/live") as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith("data: ")
                if end == "session":
                    assert gateway.cli_json("console", "--end")["sessions"] == 1
                else:
                    gateway.process.signal(signal.SIGTERM)
                # Three lines an event, one event a second: a stream that went on would not fail by itself.
                assert "event: end" in itertools.islice(lines, 60)
    gateway.stop()
    assert list((gateway.home / "console" / "sessions").iterdir()), "left by the server that has stopped"
    gateway.start()
    assert not (gateway.home / "console").exists(), "and ended by the next one"


# forged forms


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {},
    ],
)
def test_a_form_from_elsewhere_does_nothing(served: Gateway, http: httpx.Client, headers: dict[str, str]) -> None:
    token = sign_in(served, http)
    form = {"form_token": token, "name": "forged"}
    refused = http.post("/console/do/tenant.add", data=form, headers=headers)
    assert refused.status_code == 403 and "was not sent by a page of this console" in refused.text
    assert "forged" not in served.cli("tenant", "list", "--json").stdout
    assert redeem(http, new_code(served), **{"origin": "https://evil.example", **headers}).status_code == 401


@pytest.mark.parametrize("token", ["", "x", "é", None])
def test_a_form_without_its_token_does_nothing(served: Gateway, http: httpx.Client, token: str | None) -> None:
    sign_in(served, http)
    form = {"name": "forged", **({} if token is None else {"form_token": token})}
    refused = http.post("/console/do/tenant.add", data=form, headers={"origin": served.base_url})
    assert refused.status_code == 403
    assert "forged" not in served.cli("tenant", "list", "--json").stdout


def test_a_form_that_is_sent_twice_is_carried_out_once(served: Gateway, http: httpx.Client) -> None:
    """A button pressed twice, or a page loaded anew, must not make a key, or add money, a second time."""
    sign_in(served, http)
    tenant = served.cli_json("tenant", "add", "twice")["tenant"]["id"]

    def form(**fields: str) -> dict[str, str]:
        page = http.get("/console/do/key.create", params={"tenant": tenant}).text
        return {**dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]+)"', page)), "tenant": tenant, **fields}

    def send(given: dict[str, str]) -> int:
        return http.post("/console/do/key.create", data=given, headers={"origin": served.base_url}).status_code

    first = form(name="one")
    assert [send(first), send(first), send(form(name="two"))] == [200, 409, 200]
    wrong = form(name="three", expires="some day")
    assert [send(wrong), send({**wrong, "expires": "1d"})] == [400, 200], "nothing was done by the first one"
    names = [key["name"] for key in served.cli_json("key", "list", "twice")["keys"]]
    assert sorted(names) == ["default", "one", "three", "two"]


def test_credit_that_a_form_adds_counts_once_in_another_session_too(served: Gateway, http: httpx.Client) -> None:
    """As where the gateway was killed while it was at work on the form."""
    tenant = served.cli_json("tenant", "add", "credited")["tenant"]["id"]
    served.cli("payment", "set", tenant, "--mode", "prepaid")
    given = {"tenant": tenant, "add": "2", "form_id": "the-form"}
    for sent in (given, given, {**given, "add": "3"}, {**given, "form_id": "another"}):
        http.cookies.clear()
        token = sign_in(served, http)
        headers = {"origin": served.base_url}
        answer = http.post("/console/do/tenant.credit", data={**sent, "form_token": token}, headers=headers)
        assert answer.status_code == (400 if sent["add"] == "3" else 303), answer.text
    assert served.cli_json("tenant", "credit", tenant)["balance_nano_usd"] == 4_000_000_000


def test_nothing_is_done_by_a_get(served: Gateway, http: httpx.Client) -> None:
    token = sign_in(served, http)
    shown = http.get("/console/do/tenant.add", params={"form_token": token, "name": "by-get"})
    assert shown.status_code == 200
    assert "by-get" not in served.cli("tenant", "list", "--json").stdout


@pytest.mark.parametrize(("path", "status"), [("do/nothing", 404), ("do/tenant.add/x", 404), ("%2e%2e/v1", 404)])
def test_other_addresses_lead_nowhere(served: Gateway, http: httpx.Client, path: str, status: int) -> None:
    sign_in(served, http)
    assert http.get(f"/console/{path}").status_code == status


def test_bodies_are_bounded_and_of_forms_alone(served: Gateway, http: httpx.Client) -> None:
    token = sign_in(served, http)
    headers = {"origin": served.base_url}
    assert http.post("/console/logout", json={"form_token": token}, headers=headers).status_code == 404
    large = {"form_token": token, "name": "x" * 300_000}
    assert http.post("/console/do/tenant.add", data=large, headers=headers).status_code == 413


def test_a_form_that_does_not_arrive_holds_nothing(make_gateway: GatewayFactory) -> None:
    """Every client may send to this address, so one that sends nothing must not hold a connection for ever."""
    gateway = make_gateway()
    gateway.make_home()
    (gateway.home / "trustgate.toml").write_text("[serve]\nbody_timeout_s = 0.2\n")
    gateway.start().cli("console", "--no-open")
    address = urlsplit(gateway.base_url)
    head = f"POST /console/open HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-length: 100\r\n"
    head += "content-type: application/x-www-form-urlencoded\r\n\r\ncode="
    with socket.create_connection((address.hostname, address.port), 15.0) as connection:
        connection.sendall(head.encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ") and b"did not arrive" in answer


# frames, hosts, ports


def test_no_page_is_framed_cached_or_given_to_others(served: Gateway, http: httpx.Client) -> None:
    sign_in(served, http)
    for path in ("/console", "/console/keys", "/console/open?code=x", "/console/nowhere"):
        headers = http.get(path).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store" and headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "10.0.0.1:4010"},
        {"x-forwarded-for": "203.0.113.9"},
        {"forwarded": "for=203.0.113.9"},
        {"via": "1.1 proxy"},
        {"x-forwarded-port": "443"},
        {"cf-connecting-ip": "203.0.113.9"},
        {"true-client-ip": "203.0.113.9"},
    ],
)
def test_another_host_and_a_proxy_find_nothing(served: Gateway, http: httpx.Client, headers: dict[str, str]) -> None:
    """DNS rebinding, and a reverse proxy in front of the loopback address."""
    sign_in(served, http)
    assert http.get("/console", headers=headers).status_code == 404
    assert redeem(http, new_code(served), **headers).status_code == 404


def test_what_comes_by_http_1_0_comes_through_a_proxy(served: Gateway, http: httpx.Client) -> None:
    """nginx as it is set up by default: no header of its own, the loopback address as host, HTTP/1.0."""
    sign_in(served, http)
    cookies = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    address = urlsplit(served.base_url)
    for version, status in (("1.0", b"404"), ("1.1", b"200")):
        with socket.create_connection((address.hostname, address.port), 10.0) as connection:
            head = f"GET /console HTTP/{version}\r\nhost: {address.netloc}\r\ncookie: {cookies}\r\nconnection: close"
            connection.sendall(f"{head}\r\n\r\n".encode())
            assert connection.makefile("rb").readline().split()[1] == status


def _scope(client: str, scheme: str = "http") -> dict[str, object]:
    return {"client": (client, 5), "scheme": scheme}


@pytest.mark.parametrize(
    ("mode", "client", "scheme", "host", "allowed"),
    [
        ("loopback", "127.0.0.1", "http", "127.0.0.1:4010", True),
        ("loopback", "::1", "http", "[::1]:4010", True),
        ("loopback", "::ffff:127.0.0.1", "http", "localhost:4010", True),
        ("loopback", "203.0.113.9", "http", "127.0.0.1:4010", False),
        ("loopback", "203.0.113.9", "https", "llm.example.com", False),
        ("network", "203.0.113.9", "http", "10.0.0.1:4010", False),
        ("network", "203.0.113.9", "https", "10.0.0.1:4010", True),
        ("network", "127.0.0.1", "http", "llm.example.com", True),
        ("network", "127.0.0.1", "http", "evil.example", False),
        ("off", "127.0.0.1", "https", "127.0.0.1:4010", False),
    ],
)
def test_from_where_the_console_is_reached(
    tmp_path: object, mode: str, client: str, scheme: str, host: str, allowed: bool
) -> None:
    settings = Settings(
        home=tmp_path,  # type: ignore[arg-type]
        serve=ServeSettings(console=mode),  # type: ignore[arg-type]
        payment=PaymentSettings(public_url="https://llm.example.com"),
    )
    assert is_allowed(_scope(client, scheme), {"host": host}, settings) is allowed


@pytest.mark.parametrize(
    ("mode", "address", "public_url", "url"),
    [
        ("loopback", "http://127.0.0.1:4010", "", "http://127.0.0.1:4010"),
        ("loopback", "http://0.0.0.0:4010", "https://llm.example.com", "http://127.0.0.1:4010"),
        ("network", "http://0.0.0.0:4010", "https://llm.example.com/", "https://llm.example.com"),
        ("network", "https://10.0.0.1:4010", "", "https://10.0.0.1:4010"),
        ("network", "http://0.0.0.0:4010", "", "http://127.0.0.1:4010"),
        ("loopback", "http://10.0.0.1:4010", "", None),
        ("network", "http://10.0.0.1:4010", "", None),
        ("off", "http://127.0.0.1:4010", "", None),
    ],
)
def test_a_link_leads_where_the_console_is(
    tmp_path: object, mode: str, address: str, public_url: str, url: str | None
) -> None:
    settings = Settings(
        home=tmp_path,  # type: ignore[arg-type]
        serve=ServeSettings(console=mode),  # type: ignore[arg-type]
        payment=PaymentSettings(public_url=public_url),
    )
    if url is None:
        with pytest.raises(Conflict) as refused:
            console_url(settings, address)
        assert refused.value.hint
    else:
        assert console_url(settings, address) == url


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({"origin": "http://a:1", "host": "a:1"}, True),
        ({"origin": "http://a:1", "host": "A:1", "sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-origin", "host": "a"}, True),
        ({"origin": "http://a:1", "host": "a:1", "sec-fetch-site": "cross-site"}, False),
        ({"origin": "http://a:2", "host": "a:1"}, False),
        ({"origin": "", "host": ""}, False),
        ({"host": "a"}, False),
        ({"sec-fetch-site": "none", "host": "a"}, False),
    ],
)
def test_whose_form_it_is(headers: dict[str, str], own: bool) -> None:
    assert is_own_form(headers) is own
