"""Terminal output: text and tables for people, one JSON document for programs. The only module that imports rich.

Owns the look: tables, cards, dates (UTC), money (nano-USD as dollars, up to nine decimals), grouped numbers. What must
be copied whole (ids, secrets, commands) is never cut off nor wrapped: a table that is too wide for the terminal
becomes cards, and lines that are too long are left to the terminal. Where output is not a terminal nothing is
fitted to a width.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from trustgate.formats.written import (
    counted,
    factor,
    instant,
    instant_utc,
    names,
    number,
    optional,
    size,
    usd,
    usd_per_million,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

#: What is written the same on pages.
__all__ = [
    "counted",
    "factor",
    "instant",
    "instant_utc",
    "names",
    "number",
    "optional",
    "size",
    "usd",
    "usd_per_million",
]

#: Never shown: a hash of a secret helps only to guess it.
_HIDDEN = frozenset({"secret_sha256"})

_UNLIMITED_WIDTH = 100_000
#: As wide as a screen is where there is no terminal to fit it into.
_SCREEN_WIDTH = 160


class Styled(NamedTuple):
    """A cell with a style of rich's."""

    text: str
    style: str


Cell = str | Styled

_STATUS_STYLES = {
    "active": "green",
    "suspended": "yellow",
    "deprecated": "yellow",
    "expired": "yellow",
    "removed": "red",
    "revoked": "red",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
}


class Column(NamedTuple):
    title: str
    align: Literal["left", "right"] = "left"


def right(title: str) -> Column:
    """Returns a column of numbers."""
    return Column(title, "right")


# JSON


def plain(value: Any) -> Any:
    """Returns a record as JSON values: every field it has, defaults included, except the hidden ones."""
    if isinstance(value, msgspec.Struct):
        members = {name: getattr(value, name) for name in value.__struct_fields__ if name not in _HIDDEN}
        return {name: plain(member) for name, member in members.items() if member is not msgspec.UNSET}
    if isinstance(value, Mapping):
        return {name: plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return value


def document(value: Any) -> None:
    """Print ``value`` as one JSON document, always in UTF-8."""
    text = msgspec.json.format(msgspec.json.encode(plain(value)), indent=2)
    sys.stdout.flush()
    sys.stdout.buffer.write(text + b"\n")


def json_text(value: Any) -> str:
    """Returns a value as JSON on one line."""
    return msgspec.json.encode(value).decode()


# words


def status(word: str) -> Styled:
    return Styled(word, _STATUS_STYLES.get(word, ""))


# people's output


def table(
    columns: Sequence[str | Column], rows: Iterable[Sequence[Cell]], *, empty: str, optional: Sequence[str] = ()
) -> None:
    """Rows under heads. ``empty`` is printed where there are none, on stderr as it is not data.

    ``optional``: the titles of columns that are left out, one after another, where the terminal is too narrow.
    """
    listed = list(rows)
    if not listed:
        say(empty, to_stderr=True)
        return
    heads = [Column(column) if isinstance(column, str) else column for column in columns]
    console = _console()
    cells = [[_inert(cell) for cell in row] for row in listed]
    # rich's own table takes half a millisecond a row: a list of 20,000 budgets would take a quarter of a minute.
    titles = [(len(head.title), head.title, "bold") for head in heads]
    widths = [max(row[at][0] for row in (titles, *cells)) for at in range(len(heads))]
    kept = list(range(len(heads)))
    for left_out in (None, *optional):
        kept = [at for at in kept if heads[at].title != left_out]
        if sum(widths[at] + _GAP for at in kept) - _GAP <= console.width:
            styles: dict[str, tuple[str, str]] = {"": ("", "")}
            for row in (titles, *cells):
                sys.stdout.write(_row([(heads[at].align, widths[at], *row[at]) for at in kept], console, styles))
            return
    for each in listed:
        card((head.title, cell) for head, cell in zip(heads, each, strict=True))
        say("")


def card(fields: Iterable[tuple[str, Cell]], *, title: str | None = None) -> None:
    """Names and values, one a line. A value longer than the terminal is left to the terminal to break."""
    listed = [(name, cell) for name, cell in fields]
    width = max((len(name) for name, _ in listed), default=0)
    console = _console()
    if title is not None:
        console.print(_text(Styled(title, "bold")), soft_wrap=True)
    for name, cell in listed:
        console.print(_line(Styled(name.ljust(width + 2), "dim")) + _cell(cell), soft_wrap=True)


def finding(word: str, name: str, message: str, hint: str | None) -> None:
    """One line of a diagnosis, and how to fix it."""
    console = _console()
    console.print(_line(Styled(f"{word:<5}", _STATUS_STYLES[word]), f"{name:<11}{message}"), soft_wrap=True)
    if hint:
        console.print(_text(Styled(f"{'':<16}→ {hint}", "cyan")), soft_wrap=True)


def check(state: str, name: str, detail: str) -> None:
    """One line of an examination: what was checked, and what was found."""
    mark = {"passed": "✓", "failed": "✗"}.get(state, "–")
    style = {"passed": "green", "failed": "bold red"}.get(state, "dim")
    _console().print(_line(Styled(f"{mark} {name:<19}", style), detail), soft_wrap=True)


def step(state: str, number: str, name: str, detail: str) -> None:
    """One step of several: how it went, and what is known of it, in a column of its own where there is room."""
    mark, style = _STEP_MARKS[state]
    head = f" {mark} {number:>4}  {name:<{_STEP_NAME}}  "
    console = _console()
    indent = len(head)
    if console.width - indent < _STEP_LEAST:
        head, indent = f"{head.rstrip()}\n{' ' * _STEP_NARROW}", _STEP_NARROW
    # Ids are left whole: what is wider than the terminal it breaks itself.
    width = max(console.width - indent, 1)
    lines = textwrap.wrap(detail, width, break_long_words=False, break_on_hyphens=False)
    body = f"\n{' ' * indent}".join(lines)
    told = Styled(body, "red" if state == "stopped" else "")
    console.print(_line(Styled(head if lines else head.rstrip(), style), told), soft_wrap=True)


_STEP_NAME = len("bearer auth")
#: The narrowest column that is worth having, and where the text stands when there is none.
_STEP_LEAST, _STEP_NARROW = 30, 4
_STEP_MARKS = {"passed": ("✓", "green"), "stopped": ("✗", "bold red"), "not reached": ("·", "dim")}


def say(text: Cell, *, to_stderr: bool = False) -> None:
    """One line or several, exactly as they are."""
    _console(to_stderr=to_stderr).print(_text(text), soft_wrap=True)


@contextlib.contextmanager
def waiting(what: str, *, quiet: bool) -> Iterator[None]:
    """A spinner on stderr for as long as the block runs, where that is a terminal and not ``quiet``."""
    console = _console(to_stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(_text(what)):
        yield


@contextlib.contextmanager
def working(first: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Tell on stderr what is being done for as long as the block runs: a spinner, or a line for each new stage.

    For work that goes through stages; in the log of a job they are worth a line. ``quiet``: nothing of it.
    """
    if quiet:
        yield lambda stage: None
        return
    console = _console(to_stderr=True)
    if console.is_terminal:
        with console.status(_text(first)) as spinner:
            yield lambda stage: spinner.update(_text(stage))
        return
    last = first

    def report(stage: str) -> None:
        nonlocal last
        if stage != last:
            last = stage
            say(stage, to_stderr=True)

    say(first, to_stderr=True)
    yield report


class Grid(NamedTuple):
    """Part of a screen: a table. Where the terminal is too narrow the last columns are left out, the first ones cut."""

    columns: Sequence[str | Column]
    rows: Sequence[Sequence[Cell]]


#: What a screen is made of, from top to bottom: a line of cells, or a table.
Part = Sequence[Cell] | Grid


def screen(parts: Sequence[Part]) -> None:
    """Print a screen once."""
    console = _console()
    with console.capture() as captured:
        console.print(_fitted(parts, min(console.width, _SCREEN_WIDTH)))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


@contextlib.contextmanager
def live() -> Iterator[Callable[[Sequence[Part]], None]]:
    """Take the whole terminal for as long as the block runs; give what is to be shown now, as often as it changes."""
    from rich.live import Live

    console = _console()
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as shown:
        yield lambda parts: shown.update(_fitted(parts, console.width), refresh=True)


def _fitted(parts: Sequence[Part], width: int) -> RenderableType:
    from rich.console import Group

    return Group(*(_fit_grid(part, width) if isinstance(part, Grid) else _fit_line(part, width) for part in parts))


def _fit_line(cells: Sequence[Cell], width: int) -> Text:
    """Cells side by side, as many lines as they need; none is broken unless it is wider than the terminal."""
    from rich.text import Text

    lines = [Text()]
    for text in map(_cell, cells):
        if lines[-1].cell_len and lines[-1].cell_len + 3 + text.cell_len > width:
            lines.append(Text())
        lines[-1] += Text("   " if lines[-1].cell_len else "") + text
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


_FIRST_COLUMN_LEAST = 12


def _fit_grid(grid: Grid, width: int) -> RenderableType:
    from rich.table import Table

    heads = [Column(column) if isinstance(column, str) else column for column in grid.columns]
    cells = [[_cell(cell) for cell in row] for row in grid.rows]
    widths = [max([_text(head.title).cell_len, *(row[at].cell_len for row in cells)]) for at, head in enumerate(heads)]
    first = min(widths[0], max(_FIRST_COLUMN_LEAST, width - sum(part + 2 for part in widths[1:])))
    kept, used = 1, first
    while kept < len(heads) and used + 2 + widths[kept] <= width:
        used += 2 + widths[kept]
        kept += 1
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at, head in enumerate(heads[:kept]):
        limit = min(first, width) if at == 0 else None
        made.add_column(head.title, justify=head.align, no_wrap=True, overflow="ellipsis", max_width=limit)
    for row in cells:
        made.add_row(*row[:kept])
    return made


#: Eighths of a line's height.
_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """Returns the last ``width`` values as bars beside each other; the highest is a whole line high."""
    shown = values[-width:]
    top = max(shown, default=0)
    return "".join(_BARS[min(7, int(value * 8 / top))] if value > 0 and top else _BARS[0] for value in shown)


def bar(value: float, top: float, width: int) -> str:
    """Returns a bar that is ``width`` characters long at ``top``, in eighths of a character."""
    eighths = round(value * 8 * width / top) if top > 0 else 0
    if value > 0 and eighths == 0:
        eighths = 1
    whole, rest = divmod(eighths, 8)
    return "█" * whole + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")


Advance = Callable[[int, int | None], None]


@contextlib.contextmanager
def progress(what: str, *, quiet: bool, in_bytes: bool = False) -> Iterator[Advance]:
    """A bar on stderr for as long as the block runs, where that is a terminal and not ``quiet``.

    ``advance(done, total)``: a total of None is unknown; what is done is counted then.
    """
    console = _console(to_stderr=True)
    if quiet or not console.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    counted = [DownloadColumn(binary_units=True)] if in_bytes else [TextColumn("{task.fields[counted]}")]
    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), *counted, TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, counted="")
        yield lambda done, total: bar.update(
            task, completed=done, total=total, counted=number(done) + (f" of {number(total)}" if total else "")
        )


#: Blanks between columns.
_GAP = 2


def _row(cells: Iterable[tuple[str, int, int, str, str]], console: Console, styles: dict[str, tuple[str, str]]) -> str:
    """Returns a line of a table of (align, width of the column, width of the text, text, style), without blanks at its
    end. ``styles``: what the terminal is sent before and after a text, by style; filled here.
    """
    line, blanks = "", 0
    for align, width, taken, text, style in cells:
        if style not in styles:
            styles[style] = _around(console, style)
        before, after = styles[style]
        room = width - taken
        line += f"{' ' * (blanks + room * (align == 'right'))}{before}{text}{after}" if text else ""
        blanks = (_GAP + room * (align != "right")) if text else blanks + width + _GAP
    return f"{line.rstrip()}\n"


def _around(console: Console, style: str) -> tuple[str, str]:
    """Returns what a terminal is sent before and after a text of this style: nothing where it has no colours."""
    with console.capture() as captured:
        console.print(_text(Styled("|", style)), end="")
    before, _, after = captured.get().partition("|")
    return before, after


def printable(text: str) -> str:
    """Returns lines of text in which no control code is left: neither escapes nor signs that change the direction."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def _text(cell: Cell) -> Text:
    """Text without markup: a name with brackets in it is a name with brackets in it, and no control code gets out."""
    from rich.text import Text

    words, style = cell if isinstance(cell, Styled) else (cell, "")
    return Text(printable(words), style=style)


def _cell(cell: Cell) -> Text:
    """The text of a cell: what is in it never begins a line that looks like a row of its own."""
    words, style = cell if isinstance(cell, Styled) else (cell, "")
    return _text(Styled(words.replace("\n", "�"), style))


def _inert(cell: Cell) -> tuple[int, str, str]:
    """Returns how many columns of a terminal a cell takes, its text as ``_cell`` has it, and its style."""
    from rich.cells import cell_len

    words, style = cell if isinstance(cell, Styled) else (cell, "")
    text = printable(words).replace("\n", "�")
    return len(text) if text.isascii() else cell_len(text), text, style


def _line(*cells: Cell) -> Text:
    from rich.text import Text

    return Text.assemble(*map(_text, cells))


def _console(*, to_stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    # Without a terminal there is no width to fit into.
    width = None if stream.isatty() else _UNLIMITED_WIDTH
    return Console(stderr=to_stderr, width=width, highlight=False, markup=False, emoji=False)
