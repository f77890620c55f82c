"""How people write the rules of a profile, and how these are written for them; the command line's and the console's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from trustgate.admin import notation
from trustgate.formats.written import usd
from trustgate.models.profiles import parameter_name, summed_up
from trustgate.types import HeaderValue, OwnCredential, ProfileRules

TITLES = {
    "names": "Names",
    "own_names_only": "Only own names",
    "default_model": "Default model",
    "default_for_unknown": "For unknown names",
    "parameters": "Set",
    "defaults": "Default",
    "caps": "Most of",
    "system": "System message",
    "providers": "Providers",
    "targets": "Targets",
    "headers": "Headers",
    "credentials": "Upstream keys",
}


_own_by: dict[str, Callable[[str], OwnCredential]] = {
    "env": lambda text: OwnCredential(env=text),
    "file": lambda text: OwnCredential(file=text),
}


class GivenRules:
    """What was given of the rules, by member, and what was given as ``none``, which takes it away.

    Its methods raise ``ValueError`` with a sentence for people.
    """

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.fees: dict[str, int] = {}
        self._removed: dict[str, list[str]] = {}

    @property
    def removed(self) -> dict[str, tuple[str, ...]]:
        """As ``ProfilePut`` has it."""
        return {member: tuple(entries) for member, entries in self._removed.items()}

    @property
    def is_empty(self) -> bool:
        return not self.members and not self._removed and not self.fees

    def single(self, member: str, text: str | None, read: Callable[[str], Any] = str) -> None:
        if text is None:
            return
        if notation.is_none(text):
            self._removed[member] = []
        else:
            self.members[member] = read(text)

    def words(self, member: str, texts: Sequence[str] | None) -> None:
        if not texts:
            return
        if found := notation.words_or_none(texts):
            self.members[member] = found
        else:
            self._removed[member] = []

    def names(self, texts: Sequence[str] | None) -> None:
        self._entries("names", "--name", texts, str)

    def headers(self, kind: str, texts: Sequence[str] | None) -> None:
        """``kind``: where the value is: ``text``, ``env`` or ``file``."""
        flag = "--header" if kind == "text" else f"--header-{kind}"
        self._entries("headers", flag, texts, lambda text: HeaderValue(**{kind: text}), str.lower)

    def credentials(self, kind: str, texts: Sequence[str] | None) -> None:
        """``kind``: where the key is: ``env`` or ``file``."""
        self._entries("credentials", f"--credential-{kind}", texts, _own_by[kind])

    def parameters(self, member: str, flag: str, texts: Sequence[str] | None, *, words: bool = False) -> None:
        """``words``: a text needs no quotes."""
        for name, text in _pairs(flag, texts):
            own = parameter_name(name)
            if notation.is_none(text) and not (words and own == "reasoning_effort"):
                self._removed.setdefault(member, []).append(own)
                continue
            quoted = f'"{text}"' if words and text.isalpha() else text
            self.members.setdefault(member, {})[own] = notation.parameters([f"{name}={quoted}"])[name]

    def fee(self, texts: Sequence[str] | None) -> None:
        self.fees = {slug: notation.usd(text) for slug, text in _pairs("--fee", texts)}

    def _entries(
        self,
        member: str,
        flag: str,
        texts: Sequence[str] | None,
        read: Callable[[str], Any],
        fold: Callable[[str], str] = str,
    ) -> None:
        for name, text in _pairs(flag, texts):
            if notation.is_none(text):
                self._removed.setdefault(member, []).append(fold(name))
            else:
                self.members.setdefault(member, {})[fold(name)] = read(text)


def _pairs(flag: str, texts: Sequence[str] | None) -> list[tuple[str, str]]:
    """``NAME=VALUE`` each."""
    found = []
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value:
            raise ValueError(f"{flag}: {text!r} is not NAME=VALUE.")
        found.append((name.strip(), value))
    return found


def rule_lines(rules: ProfileRules) -> list[tuple[str, str]]:
    """Returns the rules, a line for each entry: its title, and its value."""
    lines: list[tuple[str, str]] = []
    for name, value in summed_up(rules):
        title = TITLES[name]
        if name == "names":
            lines += [(f"Name {each}", target) for each, target in value.items()]
        elif name == "headers":
            lines += [(f"Header {each}", _header(source)) for each, source in value.items()]
        elif name == "credentials":
            lines += [(f"Upstream key for {each}", _own_key(own)) for each, own in value.items()]
        elif isinstance(value, dict):
            lines += [(f"{title} {each}", msgspec.json.encode(entry).decode()) for each, entry in value.items()]
        elif isinstance(value, tuple):
            lines.append((title, ", ".join(value)))
        else:
            lines.append((title, ("yes" if value else "no") if isinstance(value, bool) else str(value)))
    return lines


def _header(source: HeaderValue) -> str:
    return source.text if source.text is not None else _place(source.env, source.file)


def _own_key(own: OwnCredential) -> str:
    fee = usd(own.fee_nano_usd) if own.fee_nano_usd else "nothing"
    return f"{_place(own.env, own.file)}; a request is charged {fee}"


def _place(env: str | None, file: str | None) -> str:
    return f"in the environment variable {env}" if env is not None else f"in the file {file}"
