"""What a page of the console is made from, and what it gives: the request of a signed-in operator, and a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote, urlencode

from trustgate.admin.commands import Admin, TenantList
from trustgate.formats.written import instant, names
from trustgate.settings import Settings
from trustgate.types import Receipt
from trustgate.web.html import Html, tag
from trustgate.web.parts import Mood, link_button, state

BASE = "/console"


class View(NamedTuple):
    """A request of a signed-in operator."""

    admin: Admin
    settings: Settings
    #: The last receipts, the newest at the end.
    recent: Callable[[], Sequence[Receipt]]
    #: What its forms carry (CSRF).
    form_token: str
    #: Of the address; the last one where a name is given twice.
    query: Mapping[str, str]

    def get(self, name: str) -> str:
        """Returns a parameter without blanks around it; "" where it is not given."""
        return self.query.get(name, "").strip()


class Shown(NamedTuple):
    """A page: its title, what stands in it, its scripts, its status."""

    title: str
    body: object
    scripts: tuple[str, ...] = ("base.js",)
    status: int = 200


class Download(NamedTuple):
    """A file to keep."""

    name: str
    content_type: str
    data: bytes


def url(*parts: str, **query: str | int | None) -> str:
    """Returns an address of the console; empty parameters are left out."""
    path = "/".join((BASE, *(quote(part, safe="") for part in parts)))
    given = {name: str(value) for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def link(text: str, *parts: str, **query: str | int | None) -> Html:
    """Returns a link to a page of the console."""
    return tag("a", {"href": url(*parts, **query)}, text)


def do(text: str, action: str, **given: str) -> Html:
    """Returns a button that leads to a form; ``given``: what is filled in."""
    is_danger = action.endswith((".remove", ".revoke"))
    return link_button(url("do", action, **given), text, kind="danger" if is_danger else "")


def moment_link(at_us: int, *parts: str) -> Html:
    """Returns a time (UTC) as a link to a page of the console."""
    return tag("a", {"href": url(*parts), "class": "whole"}, instant(at_us))


async def tenant_names(admin: Admin) -> dict[str, str]:
    """Returns the names of all tenants by id, removed ones included."""
    return {tenant.id: tenant.name for tenant in await admin.execute(TenantList(removed=True))}


def when(at_us: int | None) -> Html | str:
    """Returns a time, UTC."""
    if not at_us:
        return names(())
    text = instant(at_us)
    return tag("time", {"datetime": f"{text.replace(' ', 'T')}Z", "class": "whole"}, text)


_MOODS: dict[str, Mood] = {
    **dict.fromkeys(("active", "ok", "complete", "credited", "delivered", "anchored", "settled", "answers"), "good"),
    **dict.fromkeys(
        (
            *("suspended", "deprecated", "expired", "warn", "client_gone", "cut", "upstream_cut", "refused", "planned"),
            *("unknown", "settling", "reserved", "not probed", "soft"),
        ),
        "wary",
    ),
    **dict.fromkeys(("removed", "revoked", "fail", "failed", "upstream_error", "blocked", "does not answer"), "bad"),
}


def word(text: str) -> Html:
    """Returns a word for how something stands, in its colour."""
    return state(text, _MOODS.get(text, ""))
