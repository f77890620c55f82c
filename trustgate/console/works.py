"""Work that takes longer than a page may: begun by a form, shown with its outcome on a page of its own.

Owns that work, in memory alone, as the sessions are: what a restart breaks off is begun again by the same form.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, Final

from trustgate.admin.commands import Admin
from trustgate.console.fields import Action, Given, Progress, Run
from trustgate.errors import Conflict, NotFound, TrustGateError
from trustgate.web.html import Html

#: More are not remembered; the oldest that has ended goes.
_MOST: Final = 32
_MADE_MOST: Final = 3

_logger = logging.getLogger("trustgate.console")


class LongWork:
    """An action under way, or ended: with a ``result`` or an ``error``."""

    def __init__(self, action: Action, line: str) -> None:
        self.id = secrets.token_urlsafe(9)
        self.action = action
        self.line = line
        self.progress = Progress()
        self.result: Html | None = None
        self.error: TrustGateError | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None

    async def do(self, admin: Admin, run: Run, ordered: Any, given: Given) -> None:
        """Carry it out. An error is kept, not raised: its page shows it."""
        try:
            self.result = await run(admin, ordered, given, self.progress)
        except TrustGateError as error:
            self.error = error
        except Exception:
            _logger.exception("internal error in work that the console began")
            self.error = TrustGateError("The server failed. The error is in its log.")


class Works:
    """The work that was begun in this process, the newest ``_MOST`` of it."""

    def __init__(self) -> None:
        self._works: dict[str, LongWork] = {}

    def begin(self, admin: Admin, action: Action, line: str, given: Given) -> LongWork:
        """Begin an action that has a ``run``.

        Args:
            admin: carries out its command.
            action: what is done.
            line: the line of the command line that does the same.
            given: what the form was given.

        Raises:
            ValueError: what was given is wrong; see the action's ``build``.
            Conflict: too much is under way.
        """
        assert action.run is not None
        ordered = action.build(given)
        for each in [each for each in self._works.values() if each.is_done][: max(0, len(self._works) - _MOST + 1)]:
            del self._works[each.id]
        if len(self._works) >= _MOST:
            raise Conflict("Too much is under way.", hint="Wait until some of it has ended.")
        # What was made is kept of the newest alone: it may be large.
        for each in list(self._works.values())[:-_MADE_MOST]:
            each.progress.statement = b""
        work = LongWork(action, line)
        self._works[work.id] = work
        work.task = asyncio.ensure_future(work.do(admin, action.run, ordered, given))
        return work

    def find(self, work_id: str) -> LongWork:
        """Returns the work of an id. Raises ``NotFound`` where there is none."""
        found = self._works.get(work_id)
        if found is None:
            raise NotFound("This work is no longer kept here.", hint="See its outcome on the pages that it concerns.")
        return found


def polled(outcome: Callable[[Any], Any], told: Callable[[Any], Html]) -> Run:
    """Returns what repeats the same command until it is done.

    Args:
        outcome: of the command's answer; None while it is under way (the answer has its ``stage``).
        told: returns what is shown of the outcome.
    """

    async def run(admin: Admin, ordered: Any, given: Given, progress: Progress) -> Html:
        while True:
            state = await admin.execute(ordered)
            found = outcome(state)
            if found is not None:
                return told(found)
            progress.say(state.stage)

    return run


def awaited(stage: str, told: Callable[[Any], Html]) -> Run:
    """Returns what carries out a command that returns when it is done.

    Args:
        stage: what is shown meanwhile.
        told: returns what is shown of its answer.
    """

    async def run(admin: Admin, ordered: Any, given: Given, progress: Progress) -> Html:
        progress.say(stage)
        return told(await admin.execute(ordered))

    return run
