"""Work that takes longer than a page may: begun by a form, shown with its outcome on a page of its own.

Owns that work's state, in files, so that each process of the home can show it. The process that does it holds a lock
meanwhile: a lock that is free, without an outcome, means that the process has ended. What a restart breaks off is
begun again by the same form.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from trustgate.admin.commands import Admin
from trustgate.console.fields import Action, Given, Progress, Run
from trustgate.console.sessions import LIFE_S, replace_file, written_in
from trustgate.errors import Conflict, NotFound, TrustGateError
from trustgate.web.html import Html

#: More are not remembered; the oldest that has ended goes.
_MOST: Final = 32
_MADE_MOST: Final = 3
#: A stage that comes sooner after the one before is not written: a backup has a new one for each part.
_STAGE_EVERY_S: Final = 0.3
_ID: Final = re.compile(r"[A-Za-z0-9_-]{12}")

_logger = logging.getLogger("trustgate.console")


class LongWork(msgspec.Struct, frozen=True, kw_only=True):
    """An action under way, or ended: with a ``result`` or a ``problem``.

    Attributes:
        begun_s: in seconds of the clock that all processes of the machine share.
        title: of the action.
        place: the parts of the address to go to afterwards.
        line: does the same on the command line.
        stage: what is shown while it is under way.
        result: its outcome, as finished HTML; None where there is none yet.
        problem: why it failed, and what to do next (``hint``); "" where it has not.
        made: whether a statement was made.
    """

    id: str
    begun_s: float
    title: str
    place: tuple[str, ...]
    line: str
    stage: str
    result: str | None = None
    problem: str = ""
    hint: str = ""
    made: bool = False

    @property
    def is_done(self) -> bool:
        return self.result is not None or bool(self.problem)


class Works:
    """The work that was begun in this home's processes, the newest ``_MOST`` of it."""

    def __init__(self, folder: Path) -> None:
        """``folder``: of the console, in the home."""
        self._folder = folder / "works"
        self._tasks: set[asyncio.Task[None]] = set()

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
            Unavailable: the folder cannot be written.
        """
        assert action.run is not None
        ordered = action.build(given)
        progress = Progress()
        work = LongWork(
            id=secrets.token_urlsafe(9),
            begun_s=time.monotonic(),
            title=action.title,
            place=action.then(None),
            line=line,
            stage=progress.stage,
        )
        with written_in(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._make_room()
            lock = os.open(self._path(work.id, "lock"), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._write(work)
            except OSError:
                os.close(lock)
                self._remove(work.id)
                raise
        task = asyncio.ensure_future(self._do(work, admin, action.run, ordered, given, progress, lock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return work

    def find(self, work_id: str) -> LongWork:
        """Returns the work of an id. Raises ``NotFound`` where there is none."""
        found = self._read(work_id)
        if found is not None and not found.is_done and not self._is_held(work_id):
            # It may have come to its end just now.
            found = self._read(work_id)
            if found is not None and not found.is_done:
                return msgspec.structs.replace(
                    found, problem="The process that did this has ended.", hint="Send its form again: it goes on."
                )
        if found is None:
            raise NotFound("This work is no longer kept here.", hint="See its outcome on the pages that it concerns.")
        return found

    def statement(self, work: LongWork) -> bytes:
        """Returns the statement that was made, as a document in JSON; b"" where it is kept no more."""
        try:
            return self._path(work.id, "statement").read_bytes() if work.made else b""
        except OSError:
            return b""

    def under_way(self) -> Sequence[asyncio.Task[None]]:
        """Returns what this process is at."""
        return tuple(self._tasks)

    async def _do(
        self, work: LongWork, admin: Admin, run: Run, ordered: Any, given: Given, progress: Progress, lock: int
    ) -> None:
        shown_s = float("-inf")

        def show(stage: str) -> None:
            nonlocal shown_s
            if time.monotonic() - shown_s < _STAGE_EVERY_S:
                return
            shown_s = time.monotonic()
            with contextlib.suppress(OSError):
                self._write(msgspec.structs.replace(work, stage=stage))

        progress.on_stage = show
        try:
            ended = await _ended(work, run(admin, ordered, given, progress))
            if progress.statement:
                replace_file(self._path(work.id, "statement"), progress.statement)
                ended = msgspec.structs.replace(ended, made=True)
            self._write(ended)
        except OSError as error:
            _logger.error("%s: its outcome cannot be kept for the console: %s", work.line, error.strerror)
        finally:
            os.close(lock)

    def _make_room(self) -> None:
        """Remove what is old, and statements but the newest: they may be large. Raises ``Conflict``."""
        works = self._all()
        for work in [each for each in works if time.monotonic() - each.begun_s >= LIFE_S and each.is_done]:
            self._remove(work.id)
            works.remove(work)
        for work in [each for each in works if each.is_done][: max(0, len(works) - _MOST + 1)]:
            self._remove(work.id)
            works.remove(work)
        if len(works) >= _MOST:
            raise Conflict("Too much is under way.", hint="Wait until some of it has ended.")
        for work in [each for each in works if each.made][:-_MADE_MOST]:
            self._path(work.id, "statement").unlink(missing_ok=True)

    def _all(self) -> list[LongWork]:
        """Returns the oldest first."""
        found = []
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(NotFound):
                found.append(self.find(path.stem))
        return sorted(found, key=lambda work: work.begun_s)

    def _remove(self, work_id: str) -> None:
        for kind in ("json", "statement", "lock"):
            self._path(work_id, kind).unlink(missing_ok=True)

    def _path(self, work_id: str, kind: str) -> Path:
        return self._folder / f"{work_id}.{kind}"

    def _write(self, work: LongWork) -> None:
        replace_file(self._path(work.id, "json"), msgspec.json.encode(work))

    def _read(self, work_id: str) -> LongWork | None:
        if not _ID.fullmatch(work_id):
            return None
        try:
            return msgspec.json.decode(self._path(work_id, "json").read_bytes(), type=LongWork)
        except (OSError, msgspec.DecodeError):
            return None

    def _is_held(self, work_id: str) -> bool:
        """Returns whether a process is at this work."""
        try:
            lock = os.open(self._path(work_id, "lock"), os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False


async def _ended(work: LongWork, result: Any) -> LongWork:
    """Returns the work with its outcome. ``result``: is waited for; an error is kept, not raised."""
    try:
        return msgspec.structs.replace(work, result=str(await result))
    except TrustGateError as error:
        return msgspec.structs.replace(work, problem=error.message, hint=error.hint or "")
    except Exception:
        _logger.exception("internal error in work that the console began")
        return msgspec.structs.replace(work, problem="The server failed. The error is in its log.")


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
