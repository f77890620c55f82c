"""The page of work that takes long: how it stands, and what came of it."""

from __future__ import annotations

import msgspec

from trustgate.console.books import statement_file
from trustgate.console.view import Download, Shown, link, url, word
from trustgate.console.works import LongWork
from trustgate.errors import NotFound
from trustgate.web.html import Html, join, raw, tag
from trustgate.web.parts import buttons, command, heading, link_button, message


def work_page(work: LongWork, statement: bytes) -> Shown:
    """Returns the page of the work. A script reloads it when the work is done; without scripts a link does.

    Args:
        work: under way, or ended.
        statement: that was made; b"" for none.
    """
    title = work.title
    if work.problem:
        hint = tag("p", None, work.hint) if work.hint else None
        state, shown = word("failed"), message("bad", tag("p", None, work.problem), hint)
    elif work.result is not None:
        # Finished HTML: a process of this home has made it by ``tag`` and written it down.
        state, shown = word("done"), join(raw(work.result), _made(work) if statement else None)
    else:
        state = word("under way")
        shown = join(
            tag(
                "p",
                {"id": "work-stage", "role": "status", "data-work": url("works", work.id, "state")},
                work.stage,
            ),
            tag("progress", {"aria-label": title}),
            tag("p", {"class": "soft"}, "It goes on if you leave this page. ", link("Look again", "works", work.id)),
        )
    body = join(
        heading(title, beside=state),
        shown,
        tag("p", None, link("Go on", *work.place)) if work.is_done else None,
        tag("h2", None, "The same on the command line"),
        command(work.line, "action-line"),
    )
    return Shown(title, body, ("base.js",) if work.is_done else ("base.js", "console/work.js"))


def work_state(work: LongWork) -> Download:
    """Returns the stage, and whether it is done, as JSON for the page's script."""
    state = {"stage": work.stage, "done": work.is_done}
    return Download("state.json", "application/json", msgspec.json.encode(state))


def _made(work: LongWork) -> Html:
    links = [
        link_button(url("works", work.id, f"statement.{form}"), title)
        for form, title in (("html", "Page (HTML)"), ("json", "Data (JSON)"), ("csv", "Table (CSV)"))
    ]
    return join(tag("p", None, "Download it:"), buttons(links))


def work_statement(statement: bytes, form: str) -> Download:
    """Returns the statement that was made. Raises ``NotFound`` where it is kept no more."""
    if not statement:
        raise NotFound("This statement is kept no more.", hint="Make it again.")
    return statement_file(statement, form)
