"""``GET /``: the page for people. Status, how to connect, the log's checkpoint, the receipt checker.

Owns what it looks like and that it is harmless: one document that needs nothing from elsewhere and may open no
connection (Content-Security-Policy), and on it nothing that ``/ready``, ``/log/…`` and ``/openapi.json`` would not
show. No tenant, no upstream, no model's name. What a client calls the gateway is the operator's to say
(``payment.public_url``) or the browser's to see; the Host header is not asked.

The checker is that of ``examples/verify``: one file, ``pages/verify.html``, which works from the disk by itself and of
which this page takes the parts. What changes is put in at most once a second, the rest is made once.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from importlib.resources import files
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from trustgate.http.sending import send_body
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.solana.clusters import LOCAL

_FRESH_S = 1.0
_ECHO = "trustgate/echo"


class LastAnchor(NamedTuple):
    """The last anchor: how much of the log it covers, and the transaction. ``explorer``: "" where there is none."""

    size: int
    at_us: int
    network: str
    signature: str
    explorer: str
    fee_payer: str


class PageStatus(NamedTuple):
    """What the page shows. ``checks``: as in ``/ready``."""

    checks: Mapping[str, str]
    version: str
    started_us: int
    #: Their names, of which the page shows only whether the built-in one exists.
    models: tuple[str, ...]
    #: What clients call the gateway; "": the browser's address has it.
    public_url: str
    #: Whether tenants have a page of their own.
    has_account: bool
    origin: str
    vkey: str
    size: int
    root: bytes
    signed_us: int
    anchor: LastAnchor | None


class Page:
    def __init__(self, status: Callable[[], PageStatus], shown: Callable[[], bool]) -> None:
        """``shown``: whether the settings want it now."""
        self._status = status
        self._shown = shown
        self._body = b""
        self._stale_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._shown():
            raise HTTPException(404)
        if time.monotonic() >= self._stale_at:
            self._body = self._text.filled(_values(self._status())).encode()
            self._stale_at = time.monotonic() + _FRESH_S
        await send_body(send, 200, self._text.headers, self._body)

    @cached_property
    def _text(self) -> _Text:
        """Read once it is looked at."""
        return _Text(_template())


class _Text:
    """The page without its values, and the headers that belong to it."""

    def __init__(self, template: str) -> None:
        self._pieces = re.split(r"\{\{(.*?)\}\}", template)
        self.headers = [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"cache-control", b"public, max-age=1"),
            (b"content-security-policy", _policy(template).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]

    def filled(self, values: Mapping[str, str]) -> str:
        """The pieces are text and names in turn."""
        return "".join(values[piece] if at % 2 else piece for at, piece in enumerate(self._pieces))


# what is made once


def _template() -> str:
    """Returns the page with the checker in it; what is to be put in later stands in double braces."""
    folder = files("trustgate.gateway.views") / "pages"
    page, checker = ((folder / name).read_text("utf-8") for name in ("page.html", "verify.html"))
    parts = {
        "{{checker style}}": _between(checker, "<style>", "</style>"),
        "{{checker}}": _between(checker, "<!-- --- checker --- -->\n", "<!-- --- end of checker --- -->"),
        "{{checker script}}": _between(checker, '<script type="module">', "</script>"),
    }
    for place, part in parts.items():
        page = page.replace(place, part)
    return page


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


def _policy(page: str) -> str:
    """Returns its own styles and scripts by their hashes, and nothing else: no address to load from, none to send
    to.
    """

    def hashes(tag: str) -> str:
        parts = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


# what changes


def _values(status: PageStatus) -> dict[str, str]:
    base = status.public_url.rstrip("/")
    has_echo = _ECHO in status.models
    return {
        "status": _status(status.checks, has_echo),
        "version": escape(status.version),
        "started": _instant(status.started_us),
        "models": f"{len(status.models):,}",
        "base": escape(f"{base}/v1") if base else '<span class="base">ADDRESS-OF-THIS-PAGE/v1</span>',
        "model": _ECHO if has_echo else "MODEL",
        "about the model": f"<code>{_ECHO}</code> is built in and echoes your message." if has_echo else "",
        "account": 'Usage, limits and receipts of your key: <a href="account">account</a>.'
        if status.has_account
        else "",
        "origin": escape(status.origin),
        "size": f"{status.size:,}",
        "root": status.root.hex(),
        "signed": _instant(status.signed_us),
        "vkey": escape(status.vkey),
        "anchor": _anchor(status.anchor),
    }


def _status(checks: Mapping[str, str], has_echo: bool) -> str:
    wrong = {name: escape(state[:1].upper() + state[1:]) for name, state in checks.items() if state != "ok"}
    if not wrong:
        level, title = "good", "Ready."
    elif wrong.keys() == {"upstream"} and has_echo:
        level, title = "wary", f"Only {_ECHO} answers."
    else:
        level, title = "bad", "Not ready."
    told = ". ".join(wrong.values()) + "." if wrong else "Requests are answered."
    return f'<p class="status {level}"><strong>{title}</strong> {told}</p>'


def _anchor(anchor: LastAnchor | None) -> str:
    if anchor is None:
        return "<dt>Last anchor</dt><dd>None yet: until then only the log's key keeps it from being rewritten.</dd>"
    signature = f"<code>{escape(anchor.signature)}</code>"
    if anchor.explorer:
        signature = f'<a href="{escape(anchor.explorer)}" rel="noreferrer">{signature}</a>'
    receipts = f"{anchor.size:,} receipt{'' if anchor.size == 1 else 's'}"
    where = "a local chain, which is not public" if anchor.network == LOCAL else f"Solana {anchor.network}"
    rows = (
        ("Last anchor", f"{receipts}, {_instant(anchor.at_us)}, on {escape(where)}"),
        ("Transaction", signature),
        ("Paid by", f"<code>{escape(anchor.fee_payer)}</code>"),
    )
    return "".join(f"<dt>{term}</dt><dd>{value}</dd>" for term, value in rows)


def _instant(at_us: int) -> str:
    at = datetime.fromtimestamp(at_us // MICROSECONDS_PER_SECOND, UTC)
    return f'<time datetime="{at:%Y-%m-%dT%H:%M:%SZ}">{at:%Y-%m-%d %H:%M:%S} UTC</time>'
