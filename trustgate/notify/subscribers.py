"""Subscribers in memory: who is sent notices, and of which kinds.

Owns the rules of what a subscriber may be. A webhook's secret is 24 random bytes as Standard Webhooks writes them
(specification 1.0, "Signature scheme": ``whsec_`` and base64). It is kept with the subscriber in the database, whose
file is its owner's alone, because every message is signed with it; it is shown once.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from msgspec.structs import replace

from trustgate.errors import Conflict, InvalidRequest, NotFound
from trustgate.ids import new_id, now_us
from trustgate.observe.notices import KINDS
from trustgate.types import Subscriber

ALL = "all"
SECRET_PREFIX = "whsec_"  # noqa: S105 - not a secret
#: How many there may be: each notice is kept for each of them.
SUBSCRIBERS_MOST = 32
_SECRET_BYTES = 24
_URL_MOST = 2_000
#: Characters at the end of a URL by which two of one receiver are told apart.
_URL_SHOWN = 4
_NAME_MOST = 100
_WORDS_MOST = 64


class Subscribers:
    """The subscribers that there are, removed ones left out."""

    def __init__(self, subscribers: Iterable[Subscriber] = ()) -> None:
        self._by_id = {each.id: each for each in subscribers if each.removed_us is None}

    def put(self, subscriber: Subscriber) -> None:
        """Add, replace, or take out one that was removed."""
        if subscriber.removed_us is None:
            self._by_id[subscriber.id] = subscriber
        else:
            self._by_id.pop(subscriber.id, None)

    def all(self) -> list[Subscriber]:
        """Returns them, the oldest first."""
        return list(self._by_id.values())

    def get(self, subscriber_id: str) -> Subscriber | None:
        return self._by_id.get(subscriber_id)

    def find(self, ref: str) -> Subscriber:
        """Returns the one of this id or name. Raises ``NotFound``."""
        found = self._by_id.get(ref) or next((each for each in self._by_id.values() if each.name == ref), None)
        if found is None:
            raise NotFound(
                f"There is no subscriber {ref!r}.", hint="trustgate notify list", code="subscriber_not_found"
            )
        return found

    def interested(self, kind: str) -> list[Subscriber]:
        """Returns those that are sent notices of this kind."""
        return [each for each in self._by_id.values() if ALL in each.kinds or kind in each.kinds]

    def make(
        self, *, name: str, kinds: Sequence[str], url: str, command: Sequence[str], is_private: bool
    ) -> Subscriber:
        """Returns a new subscriber, a webhook with a new secret. Raises ``InvalidRequest`` or ``Conflict``."""
        if bool(url) == bool(command):
            raise InvalidRequest(
                "A subscriber is either a webhook or a program.", hint="Give URL, or --command PROGRAM."
            )
        if len(self._by_id) >= SUBSCRIBERS_MOST:
            raise Conflict(
                f"There are {SUBSCRIBERS_MOST} subscribers, the most that may be.",
                hint="Remove one: trustgate notify list",
            )
        if url:
            check_url(url, is_private=is_private)
        name = _checked_name(name or (urlsplit(url).hostname or "" if url else command[0].rpartition("/")[2]))
        if any(each.name == name for each in self._by_id.values()):
            raise Conflict(f"The subscriber {name!r} already exists.", hint="Choose another name: --name NAME")
        return Subscriber(
            id=new_id("sub"),
            name=name,
            kinds=checked_kinds(kinds),
            url=url,
            command=_checked_command(command),
            is_private=is_private,
            secret=SECRET_PREFIX + base64.b64encode(os.urandom(_SECRET_BYTES)).decode() if url else "",
            created_us=now_us(),
        )


def removed(subscriber: Subscriber) -> Subscriber:
    """Returns the record of a removal; the secret goes."""
    return replace(subscriber, secret="", removed_us=now_us())


def checked_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Returns the kinds without repetition. Raises ``InvalidRequest`` for one that there is not."""
    for kind in kinds:
        if kind != ALL and kind not in KINDS:
            raise InvalidRequest(
                f"Unknown kind of notice: {kind!r}.", hint=f"Kinds: {', '.join(KINDS)}, or {ALL}.", param="on"
            )
    return (ALL,) if not kinds or ALL in kinds else tuple(dict.fromkeys(kinds))


def shown_url(url: str) -> str:
    """Returns a webhook's URL as operators are shown it: its origin, and the end of what follows.

    Many receivers (Slack, Discord, ntfy) take messages from everyone who knows the path.
    """
    parts = urlsplit(url)
    rest = url[len(f"{parts.scheme}://{parts.netloc}") :]
    if rest in ("", "/"):
        return url
    return f"{parts.scheme}://{parts.netloc}/…{rest[-_URL_SHOWN:] if len(rest) >= 4 * _URL_SHOWN else ''}"


def check_url(url: str, *, is_private: bool) -> None:
    """Raise ``InvalidRequest`` for what no webhook may have. Addresses are judged when they are connected to."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("https", "http") or not url.isascii() or not url.isprintable():
        raise InvalidRequest("That is no webhook's URL.", hint="It looks like https://example.com/hook", param="url")
    if len(url) > _URL_MOST or " " in url:
        raise InvalidRequest(f"A URL has at most {_URL_MOST} characters, and no blanks.", param="url")
    if parts.username is not None:
        raise InvalidRequest(
            "The webhook's URL holds a user or password.",
            hint="Leave it out: receivers check the signature of a message instead.",
            param="url",
        )
    if parts.scheme == "http" and not is_private:
        raise InvalidRequest(
            "A webhook needs https:// unless it is in a private network.",
            hint="Use https://, or --private for an address of this machine or network.",
            param="url",
        )


def _checked_name(name: str) -> str:
    if not name or len(name) > _NAME_MOST or not name.isprintable() or name != name.strip():
        raise InvalidRequest(
            f"A subscriber's name has 1 to {_NAME_MOST} printable characters.", hint="--name NAME", param="name"
        )
    return name


def _checked_command(command: Sequence[str]) -> tuple[str, ...]:
    if not command:
        return ()
    program = shutil.which(command[0])
    if program is None or "/" not in program:
        raise InvalidRequest(
            f"There is no program {command[0]!r} that this user may run.",
            hint="Give its whole path. No shell is used: write what needs one into a script.",
            param="command",
        )
    if len(command) > _WORDS_MOST or any("\0" in word or len(word) > _URL_MOST for word in command):
        raise InvalidRequest(f"A command has at most {_WORDS_MOST} words.", param="command")
    return (os.path.abspath(program), *command[1:])  # noqa: PTH100 - links are left as they are
