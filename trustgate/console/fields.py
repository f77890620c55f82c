"""Fields and actions: what a form has, how it is read, and its line of the command line."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from trustgate.admin import notation
from trustgate.admin.commands import Admin, Command, Feed, NewKey, TenantWithKey
from trustgate.admin.subscriptions import SubscriberMade
from trustgate.types import ENDPOINTS, FEATURES, WINDOWS
from trustgate.web.html import Html

#: What was given: of a field by its name, read; fields that were left empty are not in it.
Given = Mapping[str, Any]

#: What a field shows to choose from: of what exists.
Choices = Literal["tenants", "plans", "models", "budgets", ""]


class Progress:
    """How work that takes long stands, and what it has made."""

    def __init__(self) -> None:
        self.stage = "Begun"
        #: A statement that was made, as a document in JSON.
        self.statement = b""
        #: Is given each other stage.
        self.on_stage: Callable[[str], None] | None = None

    def say(self, stage: str) -> None:
        if stage == self.stage:
            return
        self.stage = stage
        if self.on_stage is not None:
            self.on_stage(stage)


#: Does such work: of the command and what was given. Returns what came of it, to be shown.
Run = Callable[[Admin, Any, Given, Progress], Awaitable[Html]]


class _None:
    """What the word ``none`` is read as: it takes away what was there."""


NONE: Final = _None()


class Field(NamedTuple):
    """A field of a form, and the option of the command line that it stands for.

    ``flag``: "" for an argument; one with a ``kind`` of ``check`` stands alone, one of ``lines`` is repeated for each
    line. ``group``: fields of a group are shown under its name, folded.
    """

    name: str
    label: str
    flag: str = ""
    read: Callable[[str], Any] = str
    kind: Literal["text", "check", "lines"] = "text"
    help: str = ""
    required: bool = False
    example: str = ""
    options: tuple[str, ...] = ()
    choices: Choices = ""
    group: str = ""


class Action(NamedTuple):
    """One thing that can be done.

    Attributes:
        words: of the command line, after ``trustgate``.
        build: makes the command of what was given.
        then: the parts of the address to go to, of the command's result.
        ask: the question before it is done; "" for what needs none.
        note: what is shown above its fields.
        run: does what takes longer than a page may; ``then`` is given None. None: the command is carried out.
    """

    words: tuple[str, ...]
    title: str
    fields: tuple[Field, ...]
    build: Callable[[Given], Command[Any] | Feed[Any]]
    then: Callable[[Any], tuple[str, ...]]
    ask: str = ""
    note: str = ""
    run: Run | None = None

    def line(self, texts: Mapping[str, str]) -> str:
        """Returns the line that does the same, of what stands in the fields."""
        arguments, options = [], []
        for field in self.fields:
            text = texts.get(field.name, "").strip()
            if field.kind == "check":
                options += [field.flag] if text else []
            elif not field.flag:
                named = [field.label.upper().replace(" ", "-")] if field.required else []
                arguments += [shlex.quote(text)] if text else named
            elif field.kind == "lines":
                options += [part for line in read_lines(text) for part in (field.flag, shlex.quote(line))]
            elif text:
                options += [field.flag, shlex.quote(text)]
        # What begins with a dash is an argument after "--" alone.
        parts = [*options, "--", *arguments] if any(each[:1] == "-" for each in arguments) else [*arguments, *options]
        return " ".join(("trustgate", *self.words, *parts))


def secret_of(result: object) -> str | None:
    """Returns the secret that a result has, to be shown this one time."""
    return result.secret or None if isinstance(result, NewKey | TenantWithKey | SubscriberMade) else None


# reading


def or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: NONE if notation.is_none(text) else read(text)


def read_words_or_none(text: str) -> tuple[str, ...]:
    return notation.words_or_none((text,))


def read_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def read_path(text: str) -> str:
    """Returns an absolute path on the server's machine: a relative one would depend on the server's working folder.

    Raises ValueError: it is relative, or not a path there.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError("There is no such user on the gateway's machine: give the whole path, from / on.") from None
    if not text.isprintable():
        raise ValueError("A path has no control characters here.")
    if not path.is_absolute():
        raise ValueError("Give the whole path, from / on: it is a place on the gateway's machine.")
    return str(path)


def or_absent(value: Any) -> Any:
    return None if value is NONE else value


# limits and scope, of plans and keys

_LIMITS = (
    *(Field(f"requests_per_{w}", f"Requests a {w}", f"--requests-per-{w}", or_none(notation.whole)) for w in WINDOWS),
    *(Field(f"tokens_per_{w}", f"Tokens a {w}", f"--tokens-per-{w}", or_none(notation.whole)) for w in WINDOWS),
    *(
        Field(f"cost_nano_usd_per_{w}", f"Spending a {w}, USD", f"--usd-per-{w}", or_none(notation.usd))
        for w in WINDOWS
    ),
    Field("parallel_requests", "Requests at the same time", "--parallel-requests", or_none(notation.whole)),
    Field("max_tokens", "Largest completion, tokens", "--max-tokens", or_none(notation.whole)),
    Field("max_prompt_tokens", "Largest prompt, tokens", "--max-prompt-tokens", or_none(notation.whole)),
)
_SCOPE = (
    Field("models", "Models", "--models", read_words_or_none, example="gpt-4o, openai/*"),
    Field("endpoints", "Endpoints", "--endpoints", read_words_or_none, help=", ".join(ENDPOINTS)),
    Field("features", "Features", "--features", read_words_or_none, help=", ".join(FEATURES)),
    Field("parameters", "Parameters", "--parameters", read_words_or_none, help="What steers an upstream"),
    Field("end_users", "End users", "--end-users", read_words_or_none, help="user, header:NAME"),
)
ALLOWED = tuple(
    field._replace(group=group) for group, fields in (("Limits", _LIMITS), ("Scope", _SCOPE)) for field in fields
)


def limits_of(given: Given) -> dict[str, int | None]:
    return {field.name: or_absent(given[field.name]) for field in _LIMITS if field.name in given}


def scope_of(given: Given) -> dict[str, tuple[str, ...]]:
    return {field.name: given[field.name] for field in _SCOPE if field.name in given}
