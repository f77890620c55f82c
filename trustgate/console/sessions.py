"""The console's one-time codes, and the sessions that they open: in files, for all processes of a home.

A code is 256 random bits, works once and for ``CODE_S`` seconds. A session is another 256 bits, made when the code is
redeemed and at no other time, so none can be given to a browser beforehand (session fixation). Files are named by the
SHA-256 of either, and hold when the link was made; a session's was last used when it was last modified. To redeem a
code is to rename its file, which succeeds once, in whichever process.

Times are of a clock that starts with the machine, so what one server leaves, the next must not find: the server that
starts removes the folder (``server.pages.forget_console``).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from trustgate.errors import Unavailable

#: How long a link works, how long a session stays valid unused and, from its link on, in all, seconds.
CODE_S: Final = 120.0
IDLE_S: Final = 30 * 60.0
LIFE_S: Final = 12 * 3600.0
#: More are not kept; the oldest goes.
_CODES_MOST: Final = 8
_SESSIONS_MOST: Final = 16
_FORMS_MOST: Final = 256
_NEW: Final = ".new"


class ConsoleSession:
    """One signed-in browser, for a request of it."""

    def __init__(self, digest: str, secret: str, sent: Path) -> None:
        """``sent``: the folder of its forms that were carried out, or are just now."""
        self.digest = digest
        #: What each form of it carries (CSRF). It follows from the cookie, so it is written nowhere.
        self.form_token = hmac.digest(_bytes(secret), b"trustgate console form", "sha256").hex()
        self._sent = sent

    def is_form_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.form_token.encode())

    def begin_form(self, form_id: str) -> bool:
        """Returns whether this form has not been sent before: pressed twice, or sent again with its page.

        Raises:
            Unavailable: that cannot be written down.
        """
        with written_in(self._sent):
            self._sent.mkdir(mode=0o700, exist_ok=True)
            try:
                os.close(os.open(self._sent / _digest(form_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                return False
        _keep(_forms(self._sent), _FORMS_MOST)
        return True

    def release_form(self, form_id: str) -> None:
        """Let a form be sent again: nothing was done."""
        with contextlib.suppress(OSError):
            (self._sent / _digest(form_id)).unlink()


class Sessions:
    """The codes and sessions of one home."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            folder: of the console, in the home; it need not be there yet.
            clock: seconds that never go back, the same for all processes.
        """
        self._folder = folder
        self._codes = folder / "codes"
        self._sessions = folder / "sessions"
        self._forms = folder / "forms"
        self._clock = clock

    def issue(self) -> str:
        """Returns a code that opens one session. Raises ``Unavailable`` where the folder cannot be written."""
        code = secrets.token_urlsafe(32)
        with written_in(self._folder):
            for folder in (self._folder, self._codes, self._sessions, self._forms):
                folder.mkdir(mode=0o700, exist_ok=True)
            self._remove_ended()
            replace_file(self._codes / _digest(code), repr(self._clock()).encode())
        _keep(_found(self._codes), _CODES_MOST)
        return code

    def redeem(self, code: str) -> str | None:
        """Use a code up.

        Returns:
            The secret of a new session, for its cookie; None: there is no such code, or not any more.
        """
        path, now_s = self._codes / _digest(code), self._clock()
        kept = _read(path)
        if kept is None or now_s - kept.made_s >= CODE_S:
            return None
        secret = secrets.token_urlsafe(32)
        try:
            _use(path, now_s)
            path.rename(self._sessions / _digest(secret))
        except OSError:
            return None  # another one has used it meanwhile
        _keep(_found(self._sessions), _SESSIONS_MOST)
        return secret

    def find(self, secret: str, *, used: bool = True) -> ConsoleSession | None:
        """Returns the session of a cookie; None where it is over. ``used``: this counts as its use."""
        digest = _digest(secret)
        session = ConsoleSession(digest, secret, self._forms / digest)
        if not self.is_alive(session):
            return None
        if used:
            try:
                # The file is not written anew: one that was removed meanwhile must not come back.
                _use(self._sessions / digest, self._clock())
            except OSError:
                return None
        return session

    def is_alive(self, session: ConsoleSession) -> bool:
        """Returns whether a session has not ended; one that has is forgotten."""
        kept = _read(self._sessions / session.digest)
        if kept is None:
            return False
        if self._is_over(kept):
            self.end(session)
            return False
        return True

    def end(self, session: ConsoleSession) -> None:
        self._end(session.digest)

    def end_all(self) -> int:
        """Returns how many sessions it has ended; codes that wait end too."""
        # The codes first: one that is redeemed meanwhile is then among the sessions.
        for kept in _found(self._codes):
            kept.path.unlink(missing_ok=True)
        self._remove_ended()
        return sum(self._end(kept.path.name) for kept in _found(self._sessions))

    def _end(self, digest: str) -> bool:
        """Returns whether there was such a session, and no other process has ended it."""
        try:
            (self._sessions / digest).unlink()
        except FileNotFoundError:
            return False
        shutil.rmtree(self._forms / digest, ignore_errors=True)
        return True

    def _is_over(self, kept: _Kept) -> bool:
        now_s = self._clock()
        return now_s - kept.used_s >= IDLE_S or now_s - kept.made_s >= LIFE_S

    def _remove_ended(self) -> None:
        for kept in _found(self._codes):
            if self._clock() - kept.made_s >= CODE_S:
                kept.path.unlink(missing_ok=True)
        for kept in _found(self._sessions):
            if self._is_over(kept):
                self._end(kept.path.name)
        for folder in self._forms.glob("*"):
            if not (self._sessions / folder.name).exists():
                shutil.rmtree(folder, ignore_errors=True)


# files


class _Kept(NamedTuple):
    """A file, when it was made, and when it was used last, in the clock's seconds."""

    path: Path
    made_s: float
    used_s: float


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there, for this user alone. Raises ``OSError``."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_NEW}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def written_in(folder: Path) -> Iterator[None]:
    """Raise ``Unavailable``, which names the folder, for an ``OSError``."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"The console cannot write to {folder}: {error.strerror}. Nothing was done.",
            hint="Free space on the disk, or correct the permissions of the folder, and try again.",
        ) from None


def _read(path: Path) -> _Kept | None:
    """Returns None where it is not there any more, or damaged."""
    try:
        return _Kept(path, float(path.read_bytes()), path.stat().st_mtime)
    except (OSError, ValueError):
        return None


def _found(folder: Path) -> list[_Kept]:
    """Returns the oldest first."""
    kept = [_read(path) for path in folder.glob("*") if path.suffix != _NEW]
    return sorted((each for each in kept if each is not None), key=lambda each: each.made_s)


def _forms(folder: Path) -> list[_Kept]:
    """Returns the forms of a session, the oldest first."""
    found = []
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            at_s = path.stat().st_mtime_ns / 1e9
            found.append(_Kept(path, at_s, at_s))
    return sorted(found, key=lambda each: each.made_s)


def _keep(found: list[_Kept], most: int) -> None:
    """Remove the oldest of them."""
    for kept in found[: max(0, len(found) - most)]:
        with contextlib.suppress(OSError):
            kept.path.unlink()


def _use(path: Path, at_s: float) -> None:
    """Raises ``OSError``."""
    os.utime(path, (at_s, at_s))


def _digest(text: str) -> str:
    return hashlib.sha256(_bytes(text)).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
