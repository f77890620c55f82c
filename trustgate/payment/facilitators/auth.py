"""How the gateway shows a hosted facilitator that it may be asked: static headers, or a token for each request.

Owns the forms of ``payment.facilitator_auth``, ``URL=HOW``, where HOW names a variable or a file and never holds a
secret:

    headers:VARIABLE            headers, ``name=value,name=value``, in the form that OpenTelemetry's variables have
    headers-file:PATH           the same in a file
    cdp:ID_VARIABLE:SECRET_VARIABLE  a key of the Coinbase Developer Platform
    cdp-file:PATH               the same as its portal exports it, JSON with ``id`` (or ``name``) and ``privateKey``

Coinbase's facilitator is also shown the key in ``CDP_API_KEY_ID`` and ``CDP_API_KEY_SECRET``, the variables of its own
SDKs. Secrets are read when a request is made, so that a key that was changed is used from the next request on.

A token is a JWT (RFC 7519), good for one method and path and for 120 s, signed with EdDSA or ES256, as the key is.
Source: CDP documentation, "API key authentication" v2, and the ``auth`` package of its SDK.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from trustgate.errors import SettingsError
from trustgate.settings import (
    read_headers_file,
    read_headers_variable,
    read_key_file,
    read_key_variable,
    secret_variable_set,
)

#: The host of Coinbase's facilitator, which takes no request without a key.
CDP_HOST: Final = "api.cdp.coinbase.com"
_CDP_ID, _CDP_SECRET = "CDP_API_KEY_ID", "CDP_API_KEY_SECRET"
_TOKEN_S: Final = 120
_ENTRY: Final = re.compile(r"(https?://\S+?)=(headers|headers-file|cdp|cdp-file):(\S.*)")
_FORMS: Final = "URL=headers:VARIABLE, =headers-file:PATH, =cdp:ID_VARIABLE:SECRET_VARIABLE or =cdp-file:PATH"
_SEED_BYTES: Final = 32
#: What stands before the seed of an Ed25519 key in PKCS #8 (RFC 8410 section 7).
_PKCS8: Final = bytes.fromhex("302e020100300506032b657004220420")

_encode = msgspec.json.Encoder().encode


class Auth(Protocol):
    def headers(self, method: str, url: str) -> dict[str, str]:
        """Returns the headers that one request needs. Raises ``SettingsError``, which shows no secret."""
        ...


class _Headers:
    def __init__(self, variable: str | None, file: Path | None) -> None:
        self._variable, self._file = variable, file

    def headers(self, method: str, url: str) -> dict[str, str]:
        del method, url
        if self._file is not None:
            return read_headers_file(self._file)
        return read_headers_variable(self._variable or "")


class CdpKey:
    """A key of the Coinbase Developer Platform, in two variables or a file."""

    def __init__(
        self, id_variable: str = _CDP_ID, secret_variable: str = _CDP_SECRET, file: Path | None = None
    ) -> None:
        self._id_variable, self._secret_variable, self._file = id_variable, secret_variable, file

    def headers(self, method: str, url: str) -> dict[str, str]:
        key_id, secret = self._read()
        return {"authorization": f"Bearer {cdp_token(key_id, secret, method, url, now_s=int(time.time()))}"}

    def _read(self) -> tuple[str, str]:
        if self._file is None:
            return read_key_variable(self._id_variable), read_key_variable(self._secret_variable)
        try:
            found = msgspec.json.decode(read_key_file(self._file), type=_CdpFile)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise SettingsError(
                f"The key file {self._file} is not one that Coinbase's portal exports.",
                hint='It is JSON: {"id": "…", "privateKey": "…"}.',
                code="credential_bad",
            ) from None
        return found.id or found.name, found.private_key


class _CdpFile(msgspec.Struct, rename="camel"):
    private_key: str
    id: str = ""
    name: str = ""


class FacilitatorAuth:
    """Which facilitator is shown what, by the settings."""

    def __init__(self, entries: Iterable[str], home: Path) -> None:
        """Raises ``SettingsError`` for an entry of another form."""
        self._by_url: dict[str, Auth] = {}
        for entry in entries:
            url, auth = _read_entry(entry, home)
            self._by_url[url.rstrip("/")] = auth

    def find(self, url: str) -> Auth | None:
        """Returns what is shown to the facilitator at a base URL; None: nothing.

        Nothing is shown to another host than the entry names, whatever the path.
        """
        found = self._by_url.get(url.rstrip("/"))
        if found is None and is_cdp(url) and secret_variable_set(_CDP_ID) and secret_variable_set(_CDP_SECRET):
            return CdpKey()
        return found


def is_cdp(url: str) -> bool:
    """Returns whether it is Coinbase's facilitator."""
    return urlsplit(url).hostname == CDP_HOST


def cdp_token(key_id: str, secret: str, method: str, url: str, *, now_s: int) -> str:
    """Returns a token for one request: a JWT, signed. Raises ``SettingsError`` for a secret that is no key."""
    parts = urlsplit(url)
    what = f"{method} {parts.netloc.rpartition('@')[2]}{parts.path}"
    algorithm, sign = _signer(secret)
    head = {"alg": algorithm, "typ": "JWT", "kid": key_id, "nonce": os.urandom(16).hex()}
    claims = {
        "sub": key_id,
        "iss": "cdp",
        "nbf": now_s,
        "iat": now_s,
        "exp": now_s + _TOKEN_S,
        "uri": what,
        "uris": [what],
    }
    signed = f"{_base64url(_encode(head))}.{_base64url(_encode(claims))}"
    return f"{signed}.{_base64url(sign(signed.encode()))}"


def _signer(secret: str) -> tuple[str, Any]:
    """Returns the algorithm, and what signs with it."""
    from trustgate.formats.ed25519 import signer

    text = secret.replace("\\n", "\n").strip()
    if "-----BEGIN" in text and (seed := _pem_seed(text)) is None:
        from trustgate.formats.es256 import Es256Signer

        try:
            return "ES256", Es256Signer(text.encode() + b"\n").sign
        except ValueError:
            raise _bad_key() from None
        except RuntimeError as error:
            raise SettingsError(f"The facilitator's key cannot be used: {error}.", hint="Use an Ed25519 key.") from None
    if "-----BEGIN" not in text:
        seed = _seed(text)
    if seed is None:
        raise _bad_key()
    return "EdDSA", signer(seed).sign


def _pem_seed(text: str) -> bytes | None:
    """Returns the seed of an Ed25519 key in PEM; None where it is another kind."""
    return _seed("".join(line for line in text.splitlines() if "-----" not in line))


def _seed(text: str) -> bytes | None:
    """Returns the seed of an Ed25519 key in base64: seed and public key, or PKCS #8; None where it is none."""
    try:
        raw = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) == 2 * _SEED_BYTES:
        return raw[:_SEED_BYTES]
    return raw[len(_PKCS8) :] if raw.startswith(_PKCS8) and len(raw) == len(_PKCS8) + _SEED_BYTES else None


def _read_entry(entry: str, home: Path) -> tuple[str, Auth]:
    match = _ENTRY.fullmatch(entry.strip())
    if match is None:
        raise SettingsError(
            f"payment.facilitator_auth: {entry.partition('=')[0][:100]!r} is followed by nothing that is known.",
            hint=f"It has the form {_FORMS}.",
        )
    url, how, what = match.groups()
    if how == "cdp":
        id_variable, _, secret_variable = what.partition(":")
        return url, CdpKey(id_variable, secret_variable or _CDP_SECRET)
    file = home / Path(what).expanduser() if how.endswith("-file") else None
    if how == "cdp-file":
        return url, CdpKey(file=file)
    return url, _Headers(what, file)


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bad_key() -> SettingsError:
    return SettingsError(
        "The facilitator's key is neither an Ed25519 key in base64 nor a P-256 key in PEM.",
        hint="Copy it again from Coinbase's portal, all of it.",
        code="credential_bad",
    )
