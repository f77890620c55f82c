"""The parts of pages: figures, tables, messages, fields. All text in them is escaped (``web.html``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from trustgate.web.html import Html, tag

Mood = Literal["good", "wary", "bad", ""]


class TableColumn(NamedTuple):
    """A column of a table. ``number``: aligned right. ``href``: of its title, where a click sorts by it."""

    title: str
    number: bool = False
    href: str = ""
    sorted: Literal["ascending", "descending", ""] = ""


def table(
    caption: str,
    columns: Sequence[TableColumn | str],
    rows: Iterable[Sequence[object]],
    *,
    empty: object = "There is none.",
    total: Sequence[object] | None = None,
    hide_caption: bool = False,
) -> Html:
    """Returns a table that scrolls by itself where the screen is too narrow.

    Args:
        caption: what it shows, for screen readers too; ``hide_caption`` leaves it to them alone.
        rows: their cells, as ``html.tag`` takes children; the first one names its row.
        empty: what stands instead of a table without rows.
        total: the cells of a last row.
    """
    made = [column if isinstance(column, TableColumn) else TableColumn(column) for column in columns]
    body = [_row(made, row) for row in rows]
    if not body:
        return tag("p", {"class": "soft"}, empty)
    if total is not None:
        body.append(_row(made, total, "sum"))
    head = tag("thead", None, tag("tr", None, [_head(column) for column in made]))
    title = tag("caption", {"class": "visually-hidden" if hide_caption else None}, caption)
    # A box that scrolls can be reached and moved by the keyboard.
    box = {"class": "wide", "tabindex": "0", "role": "region", "aria-label": caption}
    return tag("div", box, tag("table", None, title, head, tag("tbody", None, body)))


def _head(column: TableColumn) -> Html:
    attributes = {
        "scope": "col",
        "class": "n" if column.number else None,
        "aria-sort": column.sorted or None,
    }
    arrow = {"ascending": " ↑", "descending": " ↓", "": ""}[column.sorted]
    title: object = tag("a", {"href": column.href}, column.title, arrow) if column.href else column.title
    return tag("th", attributes, title)


def _row(columns: Sequence[TableColumn], cells: Sequence[object], name: str | None = None) -> Html:
    made = [
        tag("th", {"scope": "row", "class": "name"}, cell)
        if at == 0
        else tag("td", {"class": "n" if column.number else None}, cell)
        for at, (column, cell) in enumerate(zip(columns, cells, strict=True))
    ]
    return tag("tr", {"class": name}, made)


def heads(*titles: str) -> list[TableColumn]:
    """Returns columns by their titles; one that begins with ``>`` is a column of numbers."""
    return [TableColumn(title.removeprefix(">"), title.startswith(">")) for title in titles]


class Figure(NamedTuple):
    """One number: its name, the number, and a note. ``id``: where a script puts a newer one."""

    name: str
    value: object
    note: object = None
    id: str = ""


def figures(shown: Iterable[Figure]) -> Html:
    """Returns numbers side by side."""
    boxes = [
        tag(
            "div",
            None,
            tag("dt", None, figure.name),
            tag(
                "dd",
                None,
                tag("span", {"id": figure.id or None}, figure.value),
                tag("small", None, figure.note) if figure.note else None,
            ),
        )
        for figure in shown
    ]
    return tag("dl", {"class": "figures"}, boxes)


def facts(shown: Iterable[tuple[str, object]]) -> Html:
    """Returns names and what belongs to each."""
    return tag("dl", {"class": "facts"}, [(tag("dt", None, name), tag("dd", None, value)) for name, value in shown])


def message(mood: Mood, *content: object) -> Html:
    """Returns a box with a message; a failure (``bad``) is read out at once by a screen reader."""
    role = "alert" if mood == "bad" else "status"
    return tag("div", {"class": f"message {mood}".strip(), "role": role}, content)


def state(text: str, mood: Mood = "") -> Html:
    """Returns a word for how something stands."""
    return tag("span", {"class": f"state {mood}".strip()}, text)


def code(text: str) -> Html:
    """Returns an id or a hash: set in type of one width, broken where the line ends."""
    return tag("code", None, text)


def identifier(text: str, name: str) -> Html:
    """Returns an id or a hash, and a button that copies it. ``name``: an id that no other part of the page has."""
    copy = {"type": "button", "class": "small", "data-copy": name, "aria-label": f"Copy {text}"}
    return tag(
        "span",
        {"class": "identifier"},
        tag("code", {"id": name}, text),
        tag("button", {**copy, "hidden": True}, "Copy"),
    )


def command(text: str, name: str) -> Html:
    """Returns a command line, and a button that copies it. ``name``: an id that no other part of the page has."""
    return tag(
        "div",
        {"class": "command"},
        tag("pre", {"id": name, "class": "mono"}, text),
        tag("button", {"type": "button", "class": "small", "data-copy": name, "hidden": True}, "Copy"),
    )


def card(title: str, *content: object) -> Html:
    """Returns a box with a title."""
    return tag("section", {"class": "card"}, tag("h2", None, title), content)


# forms


def text_field(
    name: str,
    label: str,
    *,
    value: str = "",
    kind: Literal["text", "number", "search", "password", "date"] = "text",
    help: object = None,
    error: str = "",
    required: bool = False,
    placeholder: str = "",
    attributes: Mapping[str, str | int | bool | None] | None = None,
) -> Html:
    """Returns a field for one line. ``error``: what is wrong with what was entered."""
    own: dict[str, str | int | bool | None] = {
        "id": f"field-{name}",
        "name": name,
        "type": kind,
        "value": value,
        "required": required,
        "placeholder": placeholder or None,
        "autocomplete": "off",
        **(attributes or {}),
    }
    return _field(name, label, lambda described: tag("input", {**own, **described}), help, error)


def area_field(
    name: str,
    label: str,
    *,
    value: str,
    help: object,
    error: str,
    placeholder: str,
    attributes: Mapping[str, str | int | bool | None] | None,
) -> Html:
    """Returns a field for several lines."""
    own: dict[str, str | int | bool | None] = {
        "id": f"field-{name}",
        "name": name,
        "rows": min(12, max(2, value.count("\n") + 2)),
        "placeholder": placeholder or None,
        "spellcheck": "false",
        **(attributes or {}),
    }
    # A line break at the start of it would be dropped (WHATWG HTML, section 13.1.2.5).
    return _field(name, label, lambda described: tag("textarea", {**own, **described}, "\n", value), help, error)


def select_field(
    name: str,
    label: str,
    choices: Sequence[tuple[str, str]],
    *,
    value: str,
    help: object = None,
    error: str = "",
    attributes: Mapping[str, str | int | bool | None] | None = None,
) -> Html:
    """Returns a field that offers choices: of each its value and its name."""
    options = [tag("option", {"value": key, "selected": key == value}, shown) for key, shown in choices]
    own = {"id": f"field-{name}", "name": name, **(attributes or {})}
    return _field(name, label, lambda described: tag("select", {**own, **described}, options), help, error)


def check_field(
    name: str,
    label: str,
    *,
    checked: bool = False,
    help: object = None,
    attributes: Mapping[str, str | int | bool | None] | None = None,
) -> Html:
    """Returns a box to tick; ticked it sends ``yes``."""
    own: dict[str, str | int | bool | None] = {"type": "checkbox", "name": name, "value": "yes", "checked": checked}
    return tag(
        "div",
        {"class": "field"},
        tag("label", {"class": "check"}, tag("input", {**own, **(attributes or {})}), tag("span", None, label)),
        tag("small", None, help) if help else None,
    )


def hidden(name: str, value: str) -> Html:
    return tag("input", {"type": "hidden", "name": name, "value": value})


def _field(name: str, label: str, control: object, help: object, error: str) -> Html:
    described = " ".join(part for part, is_there in (("error", error), ("help", help)) if is_there)
    attributes = {
        "aria-describedby": " ".join(f"{part}-{name}" for part in described.split()) or None,
        "aria-invalid": "true" if error else None,
    }
    assert callable(control)
    return tag(
        "div",
        {"class": "field wrong" if error else "field"},
        tag("label", {"for": f"field-{name}"}, label),
        control(attributes),
        tag("small", {"id": f"error-{name}", "class": "error"}, error) if error else None,
        tag("small", {"id": f"help-{name}"}, help) if help else None,
    )


def buttons(*shown: object) -> Html:
    return tag("div", {"class": "buttons"}, shown)


def link_button(href: str, text: str, *, kind: Literal["main", "danger", "small", ""] = "") -> Html:
    """Returns a link that looks like a button."""
    return tag("a", {"class": f"button {kind}".strip(), "href": href}, text)


def heading(title: object, *, level: Literal[1, 2] = 1, beside: object = None) -> Html:
    """Returns a heading, with what may be done beside it."""
    by = tag("div", {"class": "by"}, beside) if beside is not None else None
    return tag("div", {"class": "head"}, tag(f"h{level}", None, title), by)
