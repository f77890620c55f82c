"""The frame of every page: its head, header, navigation and foot; and the headers that make it harmless."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trustgate.web.assets import Assets
from trustgate.web.html import Html, join, tag

#: No third party, nothing inline, no frame around it. Scripts write text, not markup (trusted types).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)

#: Referrers stay within the gateway: with ``no-referrer`` browsers would send ``Origin: null`` with forms.
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-store"),
)


class Link(NamedTuple):
    """An entry of the navigation."""

    href: str
    name: str


def document(
    assets: Assets,
    title: str,
    body: object,
    *,
    brand: str = "TrustGate",
    home: str = "/",
    links: Sequence[Link] = (),
    here: str = "",
    aside: object = None,
    foot: object = None,
    scripts: Sequence[str] = (),
    styles: Sequence[str] = ("base.css",),
) -> bytes:
    """Returns a whole page.

    Args:
        assets: where its styles and scripts are.
        title: of the window; the body has its own ``h1``.
        body: what stands in ``main``, as ``html.tag`` takes it.
        brand: the name at the top, a link to ``home``.
        links: the navigation; ``here`` is the address of the entry that is shown.
        aside: what stands at the end of the header, such as a button to sign out.
        foot: what stands below the page.
        scripts: names of module scripts among the assets; a page works without them where it can.
        styles: names of stylesheets among the assets.
    """
    head = tag(
        "head",
        None,
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("title", None, f"{title} – {brand}"),
        tag("link", {"rel": "icon", "href": assets.url("icon.svg"), "type": "image/svg+xml"}),
        [tag("link", {"rel": "stylesheet", "href": assets.url(name)}) for name in styles],
        [tag("script", {"type": "module", "src": assets.url(name)}) for name in scripts],
    )
    navigation = None
    if links:
        entries = [
            tag("a", {"href": link.href, "aria-current": "page" if link.href == here else None}, link.name)
            for link in links
        ]
        navigation = tag("nav", {"aria-label": "Pages", "class": "pages"}, entries)
    header = tag(
        "header", {"class": "top"}, tag("a", {"class": "brand", "href": home}, brand), navigation, _aside(aside)
    )
    page = tag(
        "body",
        None,
        tag("a", {"class": "skip", "href": "#main"}, "Skip to the content"),
        header,
        tag("main", {"id": "main", "tabindex": "-1"}, body),
        tag("footer", {"class": "foot"}, foot) if foot is not None else None,
    )
    return ("<!doctype html>\n" + tag("html", {"lang": "en"}, head, page).text + "\n").encode()


def _aside(aside: object) -> Html:
    return join() if aside is None else tag("div", {"class": "aside"}, aside)
