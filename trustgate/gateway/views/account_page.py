"""``GET /account``: the page on which a tenant sees what it used, what is left, its receipts and its keys.

Owns the frame alone, which is the same for everybody and holds no data: what is shown the page's scripts
(``web/static/account``) read with the tenant's API key from the same routes that any client reads. The key is in the
page's memory and in the tab's session storage; it travels in the ``Authorization`` header, never in an address or a
cookie, so that a page elsewhere cannot act in a tenant's name. The checks of receipts and statements are those of
``pages/verify.html``, served as a module at ``/account/verify.js``.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.types import Receive, Scope, Send

from trustgate.errors import NotFound
from trustgate.http.sending import send_body, send_error
from trustgate.web.assets import Assets
from trustgate.web.html import Html, tag
from trustgate.web.page import HEADERS, Link, document

_VIEWS = (
    *(("overview", "Overview"), ("playground", "Playground"), ("usage", "Usage"), ("receipts", "Receipts")),
    *(("statements", "Statements"), ("keys", "Keys"), ("balance", "Balance")),
)
_EXPORTS = (
    "verifyBundle, verifyStatement, verifierKey, openCheckpoint, verifyConsistency, statementSummary, sha256, usd"
)


class AccountPage:
    """The ASGI application of ``/account`` and ``/account/verify.js``."""

    def __init__(self) -> None:
        page = document(
            Assets(),
            "Your account",
            _body(),
            home="/account",
            links=[Link(f"#{name}", title) for name, title in _VIEWS],
            aside=tag("button", {"type": "button", "id": "sign-out", "class": "small", "hidden": True}, "Sign out"),
            scripts=("account/app.js",),
            styles=("base.css", "account/account.css"),
        )
        script = _checks().encode()
        shown = [header for header in HEADERS if header[0] != b"cache-control"]
        script_headers = [(b"content-type", b"text/javascript; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
        self._served = {"/account": (shown, page), "/account/verify.js": (script_headers, script)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._served.get(scope["path"])
        if found is None:
            await send_error(send, NotFound("There is no such page.", code="unknown_url"))
            return
        headers, body = found
        etag = b'"%s"' % hashlib.sha256(body).hexdigest()[:16].encode()
        headers = [*headers, (b"cache-control", b"no-cache"), (b"etag", etag)]
        if etag in dict(scope["headers"]).get(b"if-none-match", b""):
            await send_body(send, 304, headers, b"")
        else:
            await send_body(send, 200, headers, body)


def _checks() -> str:
    """Returns the checks of ``verify.html`` as a module."""
    page = (files("trustgate.gateway.views") / "pages" / "verify.html").read_text("utf-8")
    core = page.partition("// --- core:")[2].partition("\n")[2].partition("// --- end of core ---")[0]
    return f"{core}\nexport {{ {_EXPORTS} }};\n"


def _body() -> list[Html]:
    return [
        tag("div", {"id": "announce", "class": "visually-hidden", "aria-live": "polite"}),
        tag("div", {"id": "view"}, _without_scripts()),
    ]


def _without_scripts() -> Html:
    """What is there until the script has run, and for good where none runs: the same figures by curl."""
    command = 'curl -s -H "Authorization: Bearer $OPENAI_API_KEY" ADDRESS/v1/account'
    return tag(
        "div",
        {"id": "without-scripts"},
        tag("h1", None, "Your account"),
        tag(
            "p",
            None,
            "This page reads your figures with your API key, which must not end up in an address: it needs JavaScript "
            "for that. Without it, the same figures are here, ADDRESS being what stands before /account above:",
        ),
        tag("pre", {"tabindex": "0", "role": "region", "aria-label": "Command"}, command),
        tag(
            "p",
            None,
            "Likewise /v1/usage, /v1/receipts, /v1/keys, /v1/statements and /v1/credits; ",
            tag("a", {"href": "/openapi.json"}, "openapi.json"),
            " describes them.",
        ),
    )
