"""The console as an ASGI application: who may come in, which address is which page, and every refusal as a page."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from trustgate.admin.commands import Admin
from trustgate.console import books, catalogue, chain, directory, forms, notices, usage
from trustgate.console.access import is_allowed, is_own_form, is_secure
from trustgate.console.end_users import end_users
from trustgate.console.finding import find
from trustgate.console.live import Live
from trustgate.console.options import options
from trustgate.console.overview import overview, refusal
from trustgate.console.profiles import profile
from trustgate.console.sessions import ConsoleSession, Sessions
from trustgate.console.storage import storage
from trustgate.console.view import BASE, Download, Redirect, Shown, View
from trustgate.console.work_page import work_page, work_state, work_statement
from trustgate.console.works import Works
from trustgate.errors import Conflict, NotFound, PermissionDenied, TrustGateError
from trustgate.gateway.api.uploads import ClientDisconnected
from trustgate.gateway.path.arrival import read_body
from trustgate.http.sending import send_body
from trustgate.observe.metrics import Metric
from trustgate.settings import Settings
from trustgate.types import Receipt
from trustgate.web.assets import Assets
from trustgate.web.html import Html, join, tag
from trustgate.web.page import HEADERS, Link, document
from trustgate.web.parts import command, heading, hidden, message

_MOST_BYTES: Final = 256 * 1024
_FIELDS_MOST: Final = 200

_logger = logging.getLogger("trustgate.console")

Page = Callable[..., Awaitable[Shown | Download | Redirect]]


async def _work(view: View, work_id: str) -> Shown:
    work = view.works.find(work_id)
    return work_page(work, view.works.statement(work))


async def _work_state(view: View, work_id: str) -> Download:
    return work_state(view.works.find(work_id))


#: Sessions are in a home: of several servers on one database only one has them.
_ONE_HOME: Final = (
    "Several servers may serve this database. A session is valid only on the machine that gave the link: behind a "
    "load balancer, send /console to that machine, or open the console at its own address."
)


async def _work_statement(view: View, work_id: str, form: str) -> Download:
    return work_statement(view.works.statement(view.works.find(work_id)), form)


#: The navigation.
LINKS: Final = (
    Link(BASE, "Overview"),
    *(
        Link(f"{BASE}/{name.lower()}", name)
        for name in (
            *("Requests", "Usage", "Tenants", "Keys", "Plans", "Budgets", "Models", "Receipts", "Statements"),
            *("Payments", "Anchors", "Notices", "Storage", "Settings"),
        )
    ),
)

#: What each address shows; its groups are the page's arguments.
PAGES: Final[tuple[tuple[re.Pattern[str], Page], ...]] = tuple(
    (re.compile(pattern), page)
    for pattern, page in (
        ("", overview),
        ("requests", usage.live),
        ("usage", usage.usage),
        ("tenants", directory.tenants),
        ("tenants/([^/]+)", directory.tenant),
        ("keys", directory.keys),
        ("keys/([^/]+)", directory.key),
        ("plans", directory.plans),
        # A plan is known by its name, which may have a slash.
        ("plans/(.+)", directory.plan),
        ("budgets", directory.budgets),
        ("models", catalogue.models),
        ("models/([^/]+)", catalogue.model),
        ("receipts", books.receipts),
        ("receipt", books.receipt_by_id),
        ("receipts/([^/]+)", books.receipt),
        ("receipts/([^/]+)/bundle", books.bundle),
        ("statements", books.statements),
        (r"statements/([^/]+)/(\d{4}-\d{2})\.(html|json|csv)", books.statement),
        ("payments", chain.payments),
        ("payments/([^/]+)", chain.payment),
        ("anchors", chain.anchors),
        ("settings", options),
        ("notices", notices.notices),
        ("notices/([^/]+)", notices.notice),
        ("storage", storage),
        ("end-users", end_users),
        ("profiles/(plan|tenant|key)/(.+)", profile),
        ("find", find),
        ("works/([^/]+)", _work),
        ("works/([^/]+)/state", _work_state),
        (r"works/([^/]+)/statement\.(html|json|csv)", _work_statement),
        ("do/([a-z.-]+)", forms.form),
    )
)


class Console:
    """The console, as one process serves it."""

    def __init__(
        self,
        admin: Admin,
        sessions: Sessions,
        works: Works,
        settings: Callable[[], Settings],
        *,
        recent: Callable[[], Sequence[Receipt]],
        stopping: Callable[[], bool],
        metrics: Callable[[], Sequence[Metric]] = tuple,
    ) -> None:
        """
        Args:
            admin: carries out the commands.
            sessions: those of the home.
            works: those of the home.
            settings: as they hold now.
            recent: the last receipts of this process, the newest at the end.
            stopping: whether the server stops.
            metrics: of each worker, by its number in the label ``worker``.
        """
        self._admin = admin
        self._sessions = sessions
        self._settings = settings
        self._recent = recent
        self._assets = Assets()
        self._works = works
        self._metrics = metrics
        self._live = Live(admin, sessions, settings, recent, stopping)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        if not is_allowed(scope, headers, self._settings()):
            raise HTTPException(404)
        path, method = scope["path"].removeprefix(BASE).removeprefix("/"), scope["method"]
        cookie = _cookie_name(scope, is_secure(scope, headers, self._settings()))
        # What a page requests by itself does not keep the session alive.
        is_by_itself = path == "live" or (path.startswith("works/") and path.endswith("/state"))
        session = self._sessions.find(_cookie(headers, cookie), used=not is_by_itself)
        try:
            if path == "open":
                await self._open(scope, headers, receive, send, cookie)
            elif session is None:
                await self._send(send, self._signed_out(_ended(headers, cookie, scope["method"])), None)
            elif path == "live" and method == "GET":
                if self._live.is_full:
                    raise PermissionDenied("Too many pages of the console are open.", hint="Close some of them.")
                await self._live.stream(session, receive, send)
            elif method == "POST":
                form = await _form(headers, receive, self._settings().serve.body_timeout_s)
                if not is_own_form(headers) or not session.is_form_token(form.get("form_token", "")):
                    raise PermissionDenied(
                        "This form was not sent by a page of this console.", hint="Go back, reload the page, try again."
                    )
                await self._post(path, form, session, send, cookie)
            else:
                await self._send(send, await self._get(path, scope, session), session, f"{BASE}/{path}".rstrip("/"))
        except ClientDisconnected:
            return
        except TrustGateError as error:
            await self._send(send, refusal(error), session)
        except HTTPException:
            raise
        except Exception:
            _logger.exception("internal error on a page of the console")
            fault = TrustGateError("The server failed. The error is in its log.")
            await self._send(send, refusal(fault), session)

    def _signed_out(self, told: str) -> Shown:
        is_one_of_several = bool(self._settings().store.url)
        body = join(
            heading("Not signed in"),
            message("wary", tag("p", None, told)) if told else None,
            tag("p", None, "The console is opened from the command line, on the machine of the gateway:"),
            command("trustgate console", "open-command"),
            tag("p", {"class": "soft"}, _ONE_HOME) if is_one_of_several else None,
        )
        return Shown("Not signed in", body, status=401)

    def _view(self, session: ConsoleSession, query: Mapping[str, str]) -> View:
        return View(self._admin, self._settings(), self._recent, session.form_token, query, self._works, self._metrics)

    async def _get(self, path: str, scope: Scope, session: ConsoleSession) -> Shown | Download | Redirect:
        query = _pairs(scope.get("query_string", b""))
        for pattern, page in PAGES:
            found = pattern.fullmatch(path)
            if found is not None:
                shown = await page(self._view(session, query), *found.groups())
                if isinstance(shown, Shown) and (told := forms.done_message(query.get("done", ""))) is not None:
                    return shown._replace(body=join(told, shown.body))
                return shown
        raise NotFound(f"There is no page {path[:100]} here.", hint="Go to the overview.")

    async def _post(self, path: str, form: Mapping[str, str], session: ConsoleSession, send: Send, cookie: str) -> None:
        if path == "logout":
            self._sessions.end(session)
            await self._send(send, self._signed_out("You are signed out."), None, cookie=_set_cookie(cookie, "", 0))
            return
        if not path.startswith("do/"):
            raise NotFound(f"There is no form {path[:100]} here.", hint="Go to the overview.")
        form_id = form.get("form_id", "")[:100]
        if form_id and not session.begin_form(form_id):
            raise Conflict(
                "This form has been sent before, so nothing was done now.",
                hint="See whether it was done; to do it once more, open the form anew.",
            )
        done = await forms.carry_out(self._view(session, {}), path.removeprefix("do/"), form)
        if isinstance(done, Shown) and done.status != 200:
            session.release_form(form_id)
        await self._send(send, done, session)

    async def _open(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send, cookie: str) -> None:
        """A link of ``trustgate console``: a form that uses its code. Opening it alone, as programs that look at
        links do, uses nothing up.
        """
        if scope["method"] == "GET":
            code = _pairs(scope.get("query_string", b"")).get("code", "")
            await self._send(send, _entrance(code), None)
            return
        form = await _form(headers, receive, self._settings().serve.body_timeout_s)
        secret = self._sessions.redeem(form.get("code", "")) if is_own_form(headers) else None
        if secret is None:
            await self._send(
                send, self._signed_out("This link is not valid any more: it works once, for two minutes."), None
            )
            return
        old = self._sessions.find(_cookie(headers, cookie))
        if old is not None:
            self._sessions.end(old)
        answer = [(b"location", BASE.encode()), (b"set-cookie", _set_cookie(cookie, secret).encode()), *HEADERS]
        await send_body(send, 303, answer, b"")

    async def _send(
        self,
        send: Send,
        shown: Shown | Download | Redirect,
        session: ConsoleSession | None,
        here: str = "",
        *,
        cookie: str | None = None,
    ) -> None:
        headers = list(HEADERS)
        if isinstance(shown, Redirect):
            await send_body(send, 303, [(b"location", shown.address.encode()), *headers], b"")
            return
        if cookie is not None:
            headers.append((b"set-cookie", cookie.encode()))
        if isinstance(shown, Download):
            own = [(name, value) for name, value in headers if name != b"content-type"]
            own.append((b"content-type", shown.content_type.encode()))
            own.append((b"content-disposition", f'attachment; filename="{_file_name(shown.name)}"'.encode()))
            await send_body(send, 200, own, shown.data)
            return
        page = document(
            self._assets,
            shown.title,
            shown.body,
            brand="TrustGate console",
            home=BASE,
            links=LINKS if session is not None else (),
            here=_section(here),
            aside=None if session is None else join(_search(), _sign_out(session)),
            foot="Times are UTC.",
            scripts=shown.scripts,
        )
        await send_body(send, shown.status, headers, page)


#: The sections of actions that are not named for one.
_SECTIONS: Final = {
    **dict.fromkeys(("passport", "alias", "profile"), "models"),
    **dict.fromkeys(("backup", "archive", "compact"), "storage"),
    "end-user": "tenants",
    "notify": "notices",
    "reload": "settings",
}


#: The sections of pages that are not in the navigation.
_WITHIN: Final = {"end-users": "tenants", "profiles": "models"}


def _section(here: str) -> str:
    """Returns the entry of the navigation that a page belongs to."""
    _, _, action = here.partition("/do/")
    if action:
        noun = action.partition(".")[0]
        plural = _SECTIONS.get(noun, f"{noun}s")
        here = f"{BASE}/{plural}"
    for page, section in _WITHIN.items():
        if here == f"{BASE}/{page}" or here.startswith(f"{BASE}/{page}/"):
            return f"{BASE}/{section}"
    hrefs = [link.href for link in LINKS]
    return here if here in hrefs else next((href for href in hrefs[1:] if here.startswith(f"{href}/")), "")


def _entrance(code: str) -> Shown:
    form = tag(
        "form",
        {"method": "post", "action": f"{BASE}/open", "id": "open"},
        hidden("code", code[:200]),
        tag("button", {"class": "main", "type": "submit"}, "Open the console"),
    )
    return Shown("Open the console", join(heading("Open the console"), form), ("console/open.js",))


def _search() -> Html:
    field = {"type": "search", "name": "q", "aria-label": "Search everything", "placeholder": "Search"}
    return tag(
        "form",
        {"method": "get", "action": f"{BASE}/find", "role": "search", "aria-label": "Everything"},
        tag("input", {**field, "autocomplete": "off"}),
        tag("button", {"class": "small", "type": "submit"}, "Find"),
    )


def _sign_out(session: ConsoleSession) -> Html:
    return tag(
        "form",
        {"method": "post", "action": f"{BASE}/logout"},
        hidden("form_token", session.form_token),
        tag("button", {"class": "small", "type": "submit"}, "Sign out"),
    )


# what a request brings


def _headers(scope: Scope) -> dict[str, str]:
    """Returns the headers by name. Cookies may come in several lines, as HTTP/2 does (RFC 9113, section 8.2.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}; {value}" if name == "cookie" and name in headers else value
    return headers


async def _form(headers: Mapping[str, str], receive: Receive, timeout_s: float) -> dict[str, str]:
    """Returns the fields of a form. Raises ``NotFound`` for what is none, and as ``read_body``."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise NotFound("Only forms are taken here.")
    return _pairs(await read_body(receive, _MOST_BYTES, timeout_s))


def _pairs(encoded: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(encoded.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MOST))
    except ValueError:
        return {}


def _ended(headers: Mapping[str, str], cookie: str, method: str) -> str:
    """Returns the notice for a browser whose session has ended; "" for one that has no cookie of a session."""
    if not _cookie(headers, cookie):
        return ""
    return "Your session has ended." + (" What you sent was not done." if method == "POST" else "")


def _cookie_name(scope: Scope, secure: bool) -> str:
    """Returns a name that no other gateway on this host has: cookies are shared by all ports of a host."""
    if secure:
        return "__Host-trustgate-console"
    server = scope.get("server") or ("", 0)
    return f"trustgate-console-{server[1]}"


def _cookie(headers: Mapping[str, str], name: str) -> str:
    """Returns a cookie's value; "" where it is not there.

    ``http.cookies`` gives up at the first cookie that is not as RFC 6265 wants it, and browsers send those of all
    programs on this host: others must not decide whether ours is found.
    """
    pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
    return next((value for key, _, value in pairs if key == name), "")


def _set_cookie(name: str, value: str, max_age_s: int | None = None) -> str:
    secure = "; Secure" if name.startswith("__Host-") else ""
    age = "" if max_age_s is None else f"; Max-Age={max_age_s}"
    return f"{name}={value}; Path={'/' if secure else BASE}; HttpOnly; SameSite=Strict{secure}{age}"


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
