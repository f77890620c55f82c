"""The words in which a body is refused that is no JSON, or breaks its type: what is wrong, and with which member."""

from __future__ import annotations

import re

import msgspec

from trustgate.errors import InvalidRequest

_PATH = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


def explain(error: msgspec.ValidationError) -> InvalidRequest:
    """msgspec's ``Expected `int`, got `str` - at `$.max_tokens``` as an error that names the member."""
    text = str(error)
    where = _PATH.search(text)
    # msgspec does not tell the key of a mapping: ``metadata[...]`` becomes ``metadata[]``.
    param = where.group(1).replace("[...]", "[]") if where else None
    message = text[: where.start()] if where else text
    without = re.search(r"missing required field `(\w+)`", message)
    if without:
        return missing(f"{param}.{without.group(1)}" if param else without.group(1))
    if param:
        return InvalidRequest(f"Invalid value for '{param}': {message}.", param=param, code="invalid_value")
    return InvalidRequest(f"The body must be a JSON object with the request's parameters: {message}.")


def missing(param: str) -> InvalidRequest:
    """Returns the refusal of a body without a member that it has to have."""
    return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def json_fault(body: bytes, error: Exception) -> str:
    """Returns why a body is no JSON, as the end of a sentence.

    Args:
        body: as it came.
        error: what reading it raised.
    """
    try:
        body.decode()
    except UnicodeDecodeError as unicode_error:
        return f"it is not valid UTF-8 (byte {unicode_error.start})"
    if re.search(rb"\\u[dD][89a-fA-F]", body) and "truncated" in str(error):
        return "a string holds half of a surrogate pair"
    if not body.strip():
        return "it is empty"
    return str(error).removeprefix("JSON is malformed: ")
