"""End users: the users of an app that calls with one key, known by pseudonyms alone.

Owns where a request names its end user, and how a pseudonym is made of the name:

    salt of a tenant = HMAC-SHA256(secret of the database, tenant id)
    pseudonym        = "eu_" ‖ the first 96 bits of HMAC-SHA256(salt, name in UTF-8), hexadecimal

So the same name is another pseudonym with another tenant, names cannot be told from pseudonyms without the secret,
and the operator finds a name's pseudonym by making it again. The name itself is never kept.
"""

from __future__ import annotations

import hmac
import re
from typing import Any, Final

import msgspec

from trustgate.errors import InvalidRequest

_PSEUDONYM = re.compile(r"eu_[0-9a-f]{24}")
_DIGITS: Final = 24
#: RFC 9110 section 5.6.2: a token.
_HEADER = re.compile(r"header:([A-Za-z0-9!#$%&'*+.^_`|~-]{1,64})")
_NOT_A_NAME: Final = frozenset({"authorization", "x-api-key", "cookie", "host", "content-length", "content-type"})
#: In place of a header's name: the members of the body.
BODY: Final = b""


class _Named(msgspec.Struct):
    """OpenAI API reference: ``safety_identifier`` and ``user``, which it replaces; Anthropic's ``metadata``."""

    safety_identifier: Any = None
    user: Any = None
    metadata: Any = None


_decode = msgspec.json.Decoder(_Named).decode


def salt_of(secret: bytes, tenant_id: str) -> bytes:
    """Returns what a tenant's pseudonyms are salted with, 32 bytes."""
    return hmac.digest(secret, tenant_id.encode(), "sha256")


def pseudonym(salt: bytes, name: str) -> str:
    """Returns the pseudonym of a name; ``eu_`` and 24 hexadecimal digits."""
    return f"eu_{hmac.digest(salt, name.encode(errors='surrogatepass'), 'sha256').hex()[:_DIGITS]}"


def is_pseudonym(text: str) -> bool:
    return _PSEUDONYM.fullmatch(text) is not None


def read_sources(texts: tuple[str, ...]) -> tuple[bytes, ...]:
    """Returns where requests name end users: names of headers in lower case, or ``BODY``.

    Raises ``InvalidRequest`` for what is neither ``user`` nor ``header:NAME``.
    """
    return tuple(map(_source, texts))


def _source(text: str) -> bytes:
    if text == "user":
        return BODY
    header = _HEADER.fullmatch(text)
    if header is None or header[1].lower() in _NOT_A_NAME:
        raise InvalidRequest(
            f"{text[:80]!r} is not where a request can name its end user.",
            hint="Give user (of the body), header:NAME, such as header:X-OpenWebUI-User-Id, or none.",
            param="end_users",
        )
    return header[1].lower().encode()


def name_in_header(value: bytes) -> str:
    """Returns the end user that a header names; "" where it names none.

    A value in UTF-8 is the name as people write it and as a body names it. Other values are ISO 8859-1, as HTTP once
    had it (RFC 9110 section 5.5).
    """
    try:
        return value.decode().strip()
    except UnicodeDecodeError:
        return value.decode("latin-1").strip()


def name_in_body(body: bytes) -> str:
    """Returns the end user that a JSON body names; "" where it names none, or is no JSON object."""
    try:
        named = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    of_metadata = named.metadata.get("user_id") if isinstance(named.metadata, dict) else None
    for value in (named.safety_identifier, named.user, of_metadata):
        if isinstance(value, str) and (name := value.strip()):
            return name
    return ""
