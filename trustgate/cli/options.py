"""Options that several commands share, gathered into one value before the command sees them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")
CommandFunction = Callable[..., None]


def option(name: str, kind: Any, flag: str, **details: Any) -> inspect.Parameter:
    """Returns one shared option: None where it is not given. ``details`` are those of ``typer.Option``."""
    annotation = Annotated[kind | None, typer.Option(flag, **details)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def with_options(
    into: str, options: Sequence[inspect.Parameter], collect: Callable[[Mapping[str, Any]], T]
) -> Callable[[CommandFunction], CommandFunction]:
    """Returns a decorator: the command has ``options`` instead of its parameter ``into``, which gets what ``collect``
    makes of their values by name.
    """

    def decorate(function: CommandFunction) -> CommandFunction:
        @functools.wraps(function)
        def command(**given: Any) -> None:
            shared = {parameter.name: given.pop(parameter.name) for parameter in options}
            function(**given, **{into: collect(shared)})

        own = inspect.signature(function, eval_str=True)
        kept = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own.parameters.values()
            if parameter.name != into
        ]
        parameters = _json_last([*kept, *options])
        # typer reads a command's parameters from these, and must not look behind them.
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del command.__wrapped__
        return command

    return decorate


def _json_last(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """``--json`` stands at the end of every help text."""
    return sorted(parameters, key=lambda parameter: parameter.name == "json")
