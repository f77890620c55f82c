"""What a page of the console is made from, and what it gives: the request of a signed-in operator, and a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode

from trustgate.admin.commands import Admin, TenantList
from trustgate.formats.written import instant, names
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.observe.metrics import Metric
from trustgate.settings import Settings
from trustgate.types import Receipt
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import Mood, link_button, select_field, state, text_field

if TYPE_CHECKING:
    from trustgate.console.works import Works

BASE = "/console"


class View(NamedTuple):
    """A request of a signed-in operator."""

    admin: Admin
    settings: Settings
    #: The last receipts of this process, the newest at the end.
    recent: Callable[[], Sequence[Receipt]]
    #: What its forms carry (CSRF).
    form_token: str
    #: Of the address; the last one where a name is given twice.
    query: Mapping[str, str]
    #: What takes long and was begun here.
    works: Works
    #: Those of each worker, by its number in the label ``worker``.
    metrics: Callable[[], Sequence[Metric]] = tuple

    def get(self, name: str) -> str:
        """Returns a parameter without blanks around it; "" where it is not given."""
        return self.query.get(name, "").strip()


class Shown(NamedTuple):
    """A page: its title, what stands in it, its scripts, its status."""

    title: str
    body: object
    scripts: tuple[str, ...] = ("base.js",)
    status: int = 200


class Redirect(NamedTuple):
    """An answer that leads to the page at ``address``."""

    address: str


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
    is_danger = action.endswith((".remove", ".revoke", ".clear", ".block", ".off"))
    return link_button(url("do", action, **given), text, kind="danger" if is_danger else "")


def moment_link(at_us: int, *parts: str) -> Html:
    """Returns a time (UTC) as a link to a page of the console."""
    return tag("a", {"href": url(*parts), "class": "whole"}, instant(at_us))


#: More would not be of use in a list to choose from: then it is a field to write in.
CHOICES_MOST = 500


def tenant_field(choices: Sequence[tuple[str, str]], value: str, *, empty: str) -> Html:
    """Returns the field of a page's address that names a tenant.

    Args:
        choices: the tenants, of each its id and its name.
        value: the one that is chosen, an id or a name; "": none.
        empty: what stands for none.
    """
    if len(choices) > CHOICES_MOST:
        return text_field("tenant", "Tenant", value=value, kind="search", placeholder="name or id")
    return select_field("tenant", "Tenant", [("", empty), *choices], value=value)


async def tenant_names(admin: Admin) -> dict[str, str]:
    """Returns the names of all tenants by id, removed ones included."""
    return {tenant.id: tenant.name for tenant in await admin.execute(TenantList(removed=True))}


def when(at_us: int | None) -> Html | str:
    """Returns a time as how long ago it was, or how far off it is; its title has it exactly, UTC."""
    if not at_us:
        return names(())
    exact = instant(at_us)
    return tag(
        "time", {"datetime": f"{exact.replace(' ', 'T')}Z", "class": "whole", "title": f"{exact} UTC"}, _distance(at_us)
    )


def moment(at_us: int | None) -> Html | str:
    """Returns a time exactly, UTC, and how long ago it was."""
    if not at_us:
        return names(())
    exact = instant(at_us)
    shown = tag("time", {"datetime": f"{exact.replace(' ', 'T')}Z", "class": "whole"}, exact)
    return join(shown, tag("span", {"class": "soft"}, f" ({_distance(at_us)})"))


_SPANS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
#: Beyond it a time is shown as a date.
_DISTANCE_MOST_S = 60 * 86_400


def _distance(at_us: int) -> str:
    away_s = (at_us - now_us()) / MICROSECONDS_PER_SECOND
    if abs(away_s) >= _DISTANCE_MOST_S:
        return instant(at_us)[:10]
    for seconds, unit in _SPANS:
        count = int(abs(away_s) // seconds)
        if count:
            text = f"{count} {unit}{'' if count == 1 else 's'}"
            return f"in {text}" if away_s > 0 else f"{text} ago"
    return "in less than a minute" if away_s > 0 else "just now"


_MOODS: dict[str, Mood] = {
    **dict.fromkeys(
        ("active", "ok", "complete", "credited", "delivered", "anchored", "settled", "answers", "done"), "good"
    ),
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
