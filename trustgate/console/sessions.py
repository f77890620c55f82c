"""Who may use the console: one-time codes, and the sessions that they open. In memory alone: a restart ends them all.

A code is 256 random bits, works once and for ``CODE_S`` seconds. A session is another 256 bits, made when the code is
redeemed and at no other time, so none can be given to a browser beforehand (session fixation). Both are kept as their
SHA-256 and compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final

#: How long a link works, how long a session lives unused and in all, seconds.
CODE_S: Final = 120.0
IDLE_S: Final = 30 * 60.0
LIFE_S: Final = 12 * 3600.0
#: More are not kept; the oldest goes.
_CODES_MOST: Final = 8
_SESSIONS_MOST: Final = 16
_FORMS_MOST: Final = 256


class ConsoleSession:
    """One signed-in browser."""

    def __init__(self, digest: bytes, at_s: float) -> None:
        self.digest = digest
        self.began_s = at_s
        self.used_s = at_s
        #: What each form of it carries (CSRF).
        self.form_token = secrets.token_urlsafe(32)
        #: The ids of the forms that were carried out, or are just now; the oldest first.
        self._sent: dict[str, None] = {}

    def is_form_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.form_token.encode())

    def begin_form(self, form_id: str) -> bool:
        """Returns whether this form has not been sent before: pressed twice, or sent again with its page."""
        if form_id in self._sent:
            return False
        self._sent[form_id] = None
        while len(self._sent) > _FORMS_MOST:
            del self._sent[next(iter(self._sent))]
        return True

    def release_form(self, form_id: str) -> None:
        """Let a form be sent again: nothing was done."""
        self._sent.pop(form_id, None)


class Sessions:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds that never go back."""
        self._clock = clock
        #: SHA-256 of each code, and until when it works; the oldest first.
        self._codes: dict[bytes, float] = {}
        self._sessions: dict[bytes, ConsoleSession] = {}

    def issue(self) -> str:
        """Returns a code that opens one session."""
        code = secrets.token_urlsafe(32)
        self._codes[_digest(code)] = self._clock() + CODE_S
        while len(self._codes) > _CODES_MOST:
            del self._codes[next(iter(self._codes))]
        return code

    def redeem(self, code: str) -> str | None:
        """Use a code up.

        Returns:
            The secret of a new session, for its cookie; None: there is no such code, or not any more.
        """
        given, now_s = _digest(code), self._clock()
        found = None
        for kept in list(self._codes):
            if self._codes[kept] <= now_s:
                del self._codes[kept]
            elif hmac.compare_digest(kept, given):
                found = kept
        if found is None:
            return None
        del self._codes[found]
        secret = secrets.token_urlsafe(32)
        digest = _digest(secret)
        self._sessions[digest] = ConsoleSession(digest, now_s)
        while len(self._sessions) > _SESSIONS_MOST:
            del self._sessions[next(iter(self._sessions))]
        return secret

    def find(self, secret: str, *, used: bool = True) -> ConsoleSession | None:
        """Returns the session of a cookie; None where it is over. ``used``: this counts as its use."""
        session = self._sessions.get(_digest(secret))
        if session is None or not self.is_alive(session):
            return None
        if used:
            session.used_s = self._clock()
        return session

    def is_alive(self, session: ConsoleSession) -> bool:
        """Returns whether a session has not ended; one that has is forgotten."""
        now_s = self._clock()
        if self._sessions.get(session.digest) is not session:
            return False
        if now_s - session.used_s >= IDLE_S or now_s - session.began_s >= LIFE_S:
            self.end(session)
            return False
        return True

    def end(self, session: ConsoleSession) -> None:
        self._sessions.pop(session.digest, None)

    def end_all(self) -> int:
        """Returns how many sessions it has ended; codes that wait end too."""
        count = len(self._sessions)
        self._sessions.clear()
        self._codes.clear()
        return count


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
