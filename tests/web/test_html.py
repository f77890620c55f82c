"""HTML is escaped by construction, whatever names are."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustgate.web.assets import Assets
from trustgate.web.charts import Bar, columns, ranks
from trustgate.web.html import printable, tag
from trustgate.web.page import document
from trustgate.web.parts import Figure, TableColumn, facts, figures, message, select_field, table, text_field

#: Texts that would be markup, end an attribute, or turn the direction of what follows.
HOSTILE = st.lists(
    st.sampled_from(["<script>x()</script>", '" onload="x()', "'", "&lt;", "</title>", "<!--", "\u202e", "\x00", "é"])
    | st.text(max_size=5),
    max_size=6,
).map(lambda parts: "x" + "".join(parts))


class _Seen(HTMLParser):
    """The elements, attributes and text of a document, as a parser of HTML sees them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(html: str) -> _Seen:
    parser = _Seen()
    parser.feed(html)
    parser.close()
    return parser


def _page(name: str) -> str:
    body = [
        table(name, [TableColumn(name, href=f"/x?q={name}"), name], [[name, name]], total=[name, name]),
        figures([Figure(name, name, name)]),
        facts([(name, name)]),
        message("bad", name),
        text_field("q", name, value=name, help=name, error=name, placeholder=name),
        select_field("s", name, [(name, name)], value=name),
        columns(name, [Bar(name, 1, name)]),
        ranks(name, [Bar(name, 1, name)]),
        tag("a", {"href": name}, name),
    ]
    return document(Assets(), name, body, brand=name, foot=name, aside=name).decode()


@settings(max_examples=40)
@given(HOSTILE)
def test_no_text_becomes_markup(name: str) -> None:
    """The page has the elements and attributes that it has with an innocent name, and the name as its text."""
    innocent, hostile = seen(_page("name")), seen(_page(name))
    assert hostile.elements == innocent.elements
    names = {attribute for attribute, _ in hostile.attributes}
    assert names <= {attribute for attribute, _ in innocent.attributes}
    assert not any(attribute.startswith("on") for attribute in names)
    assert hostile.text.count(printable(name)) >= 10


@pytest.mark.parametrize(
    ("address", "stays"),
    [
        ("/console?a=1#b", True),
        ("https://explorer.solana.com/tx/x", True),
        ("mailto:a@example.com", True),
        ("#main", True),
        ("?page=2", True),
        ("tenants/x", True),
        ("javascript:alert(1)", False),
        (" javascript:alert(1)", False),
        ("JAVASCRIPT:alert(1)", False),
        ("java\nscript:alert(1)", False),
        ("data:text/html,x", False),
        ("vbscript:x", False),
        ("//evil.example/x", False),
        ("/\\evil.example/x", False),
        ("\\\\evil.example", False),
    ],
)
def test_addresses_lead_to_pages_alone(address: str, stays: bool) -> None:
    assert ("href" in tag("a", {"href": address}, "x").text) is stays


@pytest.mark.parametrize("name", ["onclick", "ONLOAD", "style", "x y", 'a"b'])
def test_no_attribute_holds_a_script_or_a_style(name: str) -> None:
    with pytest.raises(ValueError, match="not an attribute"):
        tag("p", {name: "x"})


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        tag("p", None, object())
