"""What commands give of names, limits, scopes and price factors, checked before it is kept."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from trustgate.access.end_users import read_sources
from trustgate.errors import InvalidRequest
from trustgate.formats.written import INTEGER_MOST
from trustgate.types import ENDPOINTS, FEATURES, Limits, Scope, matches

T = TypeVar("T", Limits, Scope)

_NAME_MOST = 64
#: A price a thousand times what a model costs is a slip of the keyboard.
_MOST_FACTOR_PPM = 1_000 * 1_000_000


def checked_factor(factor_ppm: int | None) -> int | None:
    """Returns the factor, millionths, where it is one. Raises ``InvalidRequest``."""
    if factor_ppm is not None and not 0 <= factor_ppm <= _MOST_FACTOR_PPM:
        raise InvalidRequest("The price factor must be between 0 and 1,000.", param="price_factor_ppm")
    return factor_ppm


def checked_name(name: str, whose: str) -> str:
    """Returns the name as it is kept: Unicode's composed form (NFC). Raises ``InvalidRequest``."""
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= _NAME_MOST or not name.isprintable() or name != name.strip():
        raise InvalidRequest(
            f"{whose} name must have 1 to {_NAME_MOST} printable characters, without blanks around it.", param="name"
        )
    if name.startswith("-"):
        raise InvalidRequest(f"{whose} name cannot begin with a dash.", param="name")
    if not name.strip("."):
        # In an address of the console such a name would be taken for a folder (RFC 3986, section 5.2.4).
        raise InvalidRequest(f"{whose} name cannot be of dots alone.", param="name")
    return name


def changed(record: T, changes: Mapping[str, object], whose: str) -> T:
    """Returns limits or a scope with the changes, by field name. Raises ``InvalidRequest``."""
    unknown = changes.keys() - set(record.__struct_fields__)
    if unknown:
        raise InvalidRequest(f"There is no {', '.join(sorted(unknown))} in {whose}.")
    try:
        return msgspec.convert({**msgspec.to_builtins(record), **changes}, type(record))
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Invalid value for {whose}: {error}.") from None


def check_limits(limits: Limits) -> None:
    """Raises ``InvalidRequest`` for a limit that cannot be kept exactly."""
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        if value is not None and not 0 <= value <= INTEGER_MOST:
            raise InvalidRequest(f"{name} must be a whole number from 0 on.", param=name)


def check_scope(scope: Scope) -> None:
    """Raises ``InvalidRequest`` for patterns that match no endpoint or feature, or are none."""
    for name in ("models", "endpoints", "features"):
        patterns: tuple[str, ...] = getattr(scope, name)
        if not all(pattern and pattern.isprintable() for pattern in patterns):
            raise InvalidRequest(f"{name} are globs of printable characters.", hint="* is everything.", param=name)
    read_sources(scope.end_users or ())
    for name, singular, known in (("endpoints", "endpoint", ENDPOINTS), ("features", "feature", FEATURES)):
        for pattern in getattr(scope, name):
            if not any(matches((pattern,), each) for each in known):
                raise InvalidRequest(
                    f"There is no {singular} {pattern!r}.", hint=f"The {name} are: {', '.join(known)}.", param=name
                )
