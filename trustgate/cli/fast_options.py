"""Parsing command-line values that are plainly valid without Typer's validator.

Typer hands every value to pydantic, whose import takes as long as a whole command. Owns the short way past it: texts,
paths, choices and what a parser takes are read here. Every other value goes to Typer, which reports what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

from typer.core import TyperArgument, TyperOption


class _NotPlain(Exception):
    """Typer decides what becomes of the value."""


def read_plainly() -> None:
    """Have Typer take the short way from now on. An older Typer, which has no such validator, is left alone."""
    for kind in (TyperOption, TyperArgument):
        validator = getattr(kind, "get_runtime_param", None)
        if validator is not None:
            kind.get_runtime_param = _shortened(validator)  # type: ignore[assignment, method-assign]


def _shortened(validator: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda parameter: _Reader(lambda: validator(parameter))


class _Reader:
    """Stands where Typer has the validator of a parameter, which is made when it is needed."""

    def __init__(self, validator: Callable[[], Any]) -> None:
        self._validator = validator

    def coerce(self, value: Any, *, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        described = param.type_descriptor
        try:
            return _read(value, described.annotation, described.parameter_info)
        except (_NotPlain, ValueError):
            return self._validator().coerce(value, param=param, ctx=ctx)


def _read(value: Any, kind: Any, info: Any) -> Any:
    """Raises ``_NotPlain``, or what a parser raises for what it does not take."""
    if get_origin(kind) is list and isinstance(value, (list, tuple)):
        (one,) = get_args(kind)
        return [_read(each, one, info) for each in value]
    if info.parser is not None:
        return info.parser(value)
    if kind in (int, float) and type(value) is kind:  # a default
        return _within(value, info)
    if not isinstance(value, str):
        raise _NotPlain
    if kind is str or (value in get_args(kind) and info.case_sensitive):
        return value
    if kind is int and value.isascii() and value.isdigit():
        return _within(int(value), info)
    if kind is Path and _usable(value, info):
        return Path(value)
    raise _NotPlain


def _within(number: float, info: Any) -> float:
    if (info.min is None or number >= info.min) and (info.max is None or number <= info.max):
        return number
    raise _NotPlain


def _usable(path: str, info: Any) -> bool:
    """Returns whether Typer has nothing to check of a path."""
    wanted = (info.file_okay, info.dir_okay, info.exists, info.writable, info.resolve_path)
    return wanted == (True, True, False, False, False) and (not Path(path).exists() or os.access(path, os.R_OK))
