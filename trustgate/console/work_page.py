"""The page of work that takes long: how it stands, and what came of it."""

from __future__ import annotations

import msgspec

from trustgate.console.view import Download, Shown, link, url, word
from trustgate.console.works import LongWork
from trustgate.web.html import join, tag
from trustgate.web.parts import command, heading, message


def work_page(work: LongWork) -> Shown:
    """Returns how it stands; a script reloads the page when it is done, and without one a link does."""
    title = work.action.title
    if work.error is not None:
        hint = tag("p", None, work.error.hint) if work.error.hint else None
        state, shown = word("failed"), message("bad", tag("p", None, work.error.message), hint)
    elif work.result is not None:
        state, shown = word("done"), work.result
    else:
        state = word("under way")
        shown = join(
            tag("p", {"id": "work-stage", "role": "status", "data-work": url("works", work.id, "state")}, work.stage),
            tag("progress", {"aria-label": title}),
            tag("p", {"class": "soft"}, "It goes on if you leave this page. ", link("Look again", "works", work.id)),
        )
    place = work.action.then(None)
    body = join(
        heading(title, beside=state),
        shown,
        tag("p", None, link("Go on", *place)) if work.is_done else None,
        tag("h2", None, "The same on the command line"),
        command(work.line, "action-line"),
    )
    return Shown(title, body, ("base.js",) if work.is_done else ("base.js", "console/work.js"))


def work_state(work: LongWork) -> Download:
    """Returns the same for the page's script."""
    state = {"stage": work.stage, "done": work.is_done}
    return Download("state.json", "application/json", msgspec.json.encode(state))
