"""The verbs on the console, as data; see ``admin.commands``."""

from __future__ import annotations

import msgspec

from trustgate.admin.commands import Command


class ConsoleLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link that opens the console once, and until when it works."""

    url: str
    expires_us: int


class ConsoleOpen(Command[ConsoleLink], frozen=True, kw_only=True, tag="console.open"):
    """Make a link to the console of the running server."""

    result = ConsoleLink


class ConsoleEnded(msgspec.Struct, frozen=True, kw_only=True):
    sessions: int


class ConsoleEnd(Command[ConsoleEnded], frozen=True, kw_only=True, tag="console.end"):
    """End all sessions of the console, and links that were not used."""

    result = ConsoleEnded
