"""HTML that is escaped by construction.

``tag`` makes elements; text in them is escaped, ``Html`` is not. Only ``tag``, ``join`` and ``raw`` make ``Html``, and
``raw`` is for constants of the program. So a name that a tenant, a model or an upstream chose can never become markup.

A template engine was weighed (Jinja2 with autoescape): two more packages, its escaping is the same for URLs,
attributes and text, and templates are not type-checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_ATTRIBUTE = re.compile(r"[a-zA-Z][a-zA-Z0-9:-]*")
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "col", "source"})
_URLS = frozenset({"href", "src", "action", "formaction", "poster", "data", "xlink:href"})
#: A relative address, or one of these schemes: never ``javascript:`` or ``data:``.
_SAFE_URL = re.compile(r"(?:https?://|mailto:|[#?]|/(?![/\\])|(?![^/?#]*:)[^/\\])", re.IGNORECASE)


class Html:
    """Finished HTML."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        """``text`` is not escaped; only this module and constants may call it."""
        self.text = text

    def __str__(self) -> str:
        return self.text


def tag(name: str, attributes: Mapping[str, str | int | bool | None] | None = None, /, *children: object) -> Html:
    """Returns one element.

    Args:
        name: its name, lower case.
        attributes: their values are escaped; True is an attribute without a value, None and False are left out. An
            address that is neither relative nor http, https or mailto is left out: it may come from outside.
        children: what it holds: text (escaped), whole numbers, elements, iterables of these; None is left out.

    Raises:
        ValueError: an attribute that holds a script or a style, which the pages' policy forbids.
        TypeError: a child of another kind.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of an element")
    written = "".join(_attribute(key, value) for key, value in (attributes or {}).items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children).text}</{name}>")


def join(*children: object) -> Html:
    """Returns the children, as ``tag`` takes them, one after the other."""
    return Html("".join(map(_child, children)))


def raw(constant: str) -> Html:
    """Returns HTML that the program itself holds. Never for anything that comes from outside."""
    return Html(constant)


def printable(text: str) -> str:
    """Returns the text with control characters and signs that change the direction made visible."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def _child(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child.text
    if isinstance(child, str):
        return escape(printable(child))
    if isinstance(child, int) and not isinstance(child, bool):
        return str(child)
    if isinstance(child, Iterable):
        return "".join(map(_child, child))
    raise TypeError(f"{type(child).__name__} cannot stand in HTML")


def _attribute(name: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    if not _ATTRIBUTE.fullmatch(name) or name.lower().startswith("on") or name.lower() == "style":
        raise ValueError(f"{name!r} is not an attribute that a page may have")
    if value is True:
        return f" {name}"
    text = str(value)
    if name in _URLS and not _SAFE_URL.match(text):
        return ""
    return f' {name}="{escape(printable(text))}"'
