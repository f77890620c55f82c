"""Lists of the console: search, filter, sort, page; all of it in the address, so that it works without scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from trustgate.console.view import View, url
from trustgate.formats.written import number
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import TableColumn, hidden, select_field, table, text_field

T = TypeVar("T")

PAGE_SIZE = 50


class ListColumn(NamedTuple, Generic[T]):
    """A column: its title, the content of its cells, and what it is sorted by (None: it is not)."""

    title: str
    cell: Callable[[T], object]
    key: Callable[[T], Any] | None = None
    number: bool = False


class Filter(NamedTuple, Generic[T]):
    """A choice that narrows a list: its name in the address, its label, its values and names, which ones stay.

    The first value holds where none is given.
    """

    name: str
    label: str
    choices: Sequence[tuple[str, str]]
    keeps: Callable[[T, str], bool]


def listing(
    view: View,
    place: Sequence[str],
    items: Sequence[T],
    columns: Sequence[ListColumn[T]],
    *,
    caption: str,
    empty: object,
    text: Callable[[T], str],
    filters: Sequence[Filter[T]] = (),
    keeping: Mapping[str, str] | None = None,
) -> Html:
    """Returns a list with its search form.

    Args:
        place: the parts of its address.
        items: all that there are, in the order in which they stand unless they are sorted.
        caption: what it shows.
        empty: what stands where there are no items at all.
        text: what a search looks through.
        keeping: parameters of the page's own address.
    """
    if not items:
        return tag("div", {"class": "soft"}, empty)
    chosen = {each.name: _chosen(view, each) for each in filters}
    query = view.get("q")
    kept = [
        item
        for item in items
        if query.casefold() in text(item).casefold() and all(each.keeps(item, chosen[each.name]) for each in filters)
    ]
    sort, columns_by = view.get("sort"), {str(at): column for at, column in enumerate(columns)}
    by = columns_by.get(sort.removeprefix("-"))
    if by is not None and by.key is not None:
        kept.sort(key=by.key, reverse=sort.startswith("-"))
    else:
        sort = ""
    pages = max(1, -(-len(kept) // PAGE_SIZE))
    # Digits without end are not read: Python refuses them.
    page = min(max(1, int(view.get("page")[:9])), pages) if view.get("page").isdecimal() else 1
    state = {"q": query, "sort": sort, **chosen, **(keeping or {})}
    heads = [_head(place, state, str(at), column) for at, column in enumerate(columns)]
    rows = [[column.cell(item) for column in columns] for item in kept[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]]
    return join(
        _form(place, query, sort, filters, chosen, keeping or {}),
        table(f"{caption}: {_counted(len(kept), len(items))}", heads, rows, empty="Nothing matches."),
        pager(
            url(*place, **state, page=page - 1) if page > 1 else "",
            url(*place, **state, page=page + 1) if page < pages else "",
            f"Page {page} of {pages}" if pages > 1 else "",
        ),
    )


def pager(before: str, after: str, where: str) -> Html | None:
    """Returns links to the pages before and after; None where there is but one."""
    if not before and not after:
        return None
    links = [
        tag("a", {"class": "button small", "href": before, "rel": "prev"}, "← Before") if before else None,
        tag("span", {"class": "soft"}, where) if where else None,
        tag("a", {"class": "button small", "href": after, "rel": "next"}, "After →") if after else None,
    ]
    return tag("nav", {"class": "pager", "aria-label": "Pages of the list"}, links)


def only_some(shown: int, all_: int, which: str) -> Html | None:
    """Returns the sentence that a table has only some of its rows, such as ``the dearest``; None where it has all."""
    if shown == all_:
        return None
    return tag("p", {"class": "soft"}, f"{number(shown)} of {number(all_)}: {which}. The command line lists all.")


def _counted(kept: int, all_: int) -> str:
    return number(all_) if kept == all_ else f"{number(kept)} of {number(all_)}"


def _chosen(view: View, each: Filter[T]) -> str:
    given = view.get(each.name)
    values = [value for value, _ in each.choices]
    return given if given in values else values[0]


def _head(place: Sequence[str], state: dict[str, str], name: str, column: ListColumn[T]) -> TableColumn:
    if column.key is None:
        return TableColumn(column.title, column.number)
    current = state["sort"]
    goes_up = current == name
    link = url(*place, **{**state, "sort": f"-{name}" if goes_up else name})
    order = {name: "ascending", f"-{name}": "descending"}.get(current, "")
    return TableColumn(column.title, column.number, link, order)  # type: ignore[arg-type]


def _form(
    place: Sequence[str],
    query: str,
    sort: str,
    filters: Sequence[Filter[T]],
    chosen: Mapping[str, str],
    keeping: Mapping[str, str],
) -> Html:
    fields = [
        text_field("q", "Search", value=query, kind="search"),
        [select_field(each.name, each.label, each.choices, value=chosen[each.name]) for each in filters],
        [hidden(name, value) for name, value in {**keeping, "sort": sort}.items() if value],
        tag("div", {"class": "field"}, tag("button", {"type": "submit"}, "Show")),
    ]
    return tag("form", {"class": "line", "method": "get", "action": url(*place), "role": "search"}, fields)
