"""``/v1/keys``: the keys of a tenant, and those that it makes itself where its plan allows it.

Owns the routes, their JSON and its form of what a key is narrowed by. What may be done is the commands' to say (the
admin room, which this one does not import): they are the same as the operator's, with the asking key's id in them. The
routes authenticate like the path, cost no quota and write no receipt; each change is in the operators' journal with the
key that made it. A secret is in the answer that makes its key and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, UnsetType
from starlette.types import Receive, Scope, Send

from trustgate.access.directory import Caller, Directory
from trustgate.errors import InvalidRequest, NotFound, TrustGateError
from trustgate.gateway.api.body_faults import explain
from trustgate.gateway.api.dialects import OPENAI
from trustgate.gateway.api.uploads import ClientDisconnected
from trustgate.gateway.path.arrival import Arrival, bearer_token, check_head, read_body
from trustgate.gateway.path.reply import Reply
from trustgate.http.sending import send_json
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.settings import ServeSettings
from trustgate.types import NANO_USD_PER_USD, WINDOWS, ApiKey, Limits

_logger = logging.getLogger("trustgate.gateway")

_MAX_BODY_BYTES = 16_384
_MOST_USD = 1_000_000


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a key. None or empty: stays as it is; in ``limits`` None lifts a limit."""

    name: str | None = None
    limits: dict[str, int | None] = {}
    scope: dict[str, tuple[str, ...]] = {}
    expires_us: int | None = None
    never_expires: bool = False


class KeyCommands(Protocol):
    """The commands behind the routes. ``by_key``: the id of the key that asks. Raise as the commands do."""

    async def create(self, by_key: str, tenant_id: str, change: KeyChange) -> tuple[ApiKey, str]:
        """Returns the new key and its secret."""
        ...

    async def change(self, by_key: str, key_id: str, change: KeyChange) -> ApiKey: ...

    async def revoke(self, by_key: str, key_id: str) -> ApiKey: ...


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body. Times are Unix seconds; ``usd_per_…`` are decimal text or numbers."""

    name: str | UnsetType = UNSET
    models: list[str] | UnsetType = UNSET
    endpoints: list[str] | UnsetType = UNSET
    features: list[str] | UnsetType = UNSET
    expires_at: int | UnsetType | None = UNSET
    limits: dict[str, int | Decimal | None] | UnsetType = UNSET


class TenantKeys:
    """The handlers of the routes."""

    def __init__(self, directory: Directory, commands: KeyCommands, limits: Callable[[], ServeSettings]) -> None:
        self._directory = directory
        self._commands = commands
        self._limits = limits

    async def list(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/keys``: the living keys of the caller's tenant, the newest first; never a secret."""
        at_us = now_us()
        keys = [key for key in self._directory.keys_of(caller.tenant.id) if _is_living(key, at_us)]
        keys.sort(key=lambda key: (key.created_us, key.id), reverse=True)
        return {"object": "list", "data": [key_card(key, caller) for key in keys]}

    async def show(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/keys/{id}``. Raises ``NotFound`` (404) for a key of another tenant too."""
        wanted = scope["path_params"]["key"]
        for key in self._directory.keys_of(caller.tenant.id):
            if key.id == wanted:
                return key_card(key, caller)
        raise NotFound(f"There is no key {wanted[:100]!r}.", code="key_not_found", param="key")

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/keys``: 201 with the key and its secret, which is never shown again."""

        async def work(caller: Caller, body: bytes) -> tuple[int, Any]:
            change = _read(body)
            key, secret = await self._commands.create(caller.key.id, caller.tenant.id, change)
            return 201, {**key_card(key, caller), "secret": secret}

        await self._answer(scope, receive, send, work)

    async def change(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/keys/{id}``: what is given changes, in effect from the key's next request on."""

        async def work(caller: Caller, body: bytes) -> tuple[int, Any]:
            change = _read(body)
            key = await self._commands.change(caller.key.id, scope["path_params"]["key"], change)
            return 200, key_card(key, caller)

        await self._answer(scope, receive, send, work)

    async def revoke(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``DELETE /v1/keys/{id}``: the key's next request is refused, its streams are cut."""

        async def work(caller: Caller, body: bytes) -> tuple[int, Any]:
            key = await self._commands.revoke(caller.key.id, scope["path_params"]["key"])
            return 200, key_card(key, caller)

        await self._answer(scope, receive, send, work)

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        work: Callable[[Caller, bytes], Awaitable[tuple[int, Any]]],
    ) -> None:
        arrival = Arrival.of(scope)
        reply = Reply(send, arrival.request_id, OPENAI)
        has_body = scope["method"] == "POST"
        try:
            check_head(scope, arrival, "json" if has_body else "none", _MAX_BODY_BYTES)
            # Who asks is known before a body is read.
            caller = self._directory.authenticate(bearer_token(arrival), arrival.at_us)
            body = await read_body(receive, _MAX_BODY_BYTES, self._limits().body_timeout_s) if has_body else b""
            status, answer = await work(caller, body)
        except ClientDisconnected:
            return
        except TrustGateError as error:
            await reply.refuse(error)
        except Exception:
            _logger.exception("internal error in request %s", arrival.request_id.decode())
            await reply.refuse(TrustGateError("The gateway failed. The error is in its log."))
        else:
            await send_json(send, answer, [*reply.headers, (b"cache-control", b"no-store")], status)


def key_card(key: ApiKey, caller: Caller) -> dict[str, Any]:
    """Returns a key as its tenant sees it."""
    return {
        "id": key.id,
        "object": "api_key",
        "name": key.name,
        "redacted": key.redacted,
        "created_at": key.created_us // MICROSECONDS_PER_SECOND,
        "expires_at": None if key.expires_us is None else key.expires_us // MICROSECONDS_PER_SECOND,
        "revoked_at": None if key.revoked_us is None else key.revoked_us // MICROSECONDS_PER_SECOND,
        #: "operator", or the id of the tenant's key that made it.
        "made_by": key.made_by or "operator",
        "is_this": key.id == caller.key.id,
        "models": key.scope.models,
        "endpoints": key.scope.endpoints,
        "features": key.scope.features,
        "limits": {name: most for name in Limits.__struct_fields__ if (most := getattr(key.limits, name)) is not None},
    }


def _is_living(key: ApiKey, at_us: int) -> bool:
    return key.revoked_us is None and (key.expires_us is None or key.expires_us > at_us)


def _read(body: bytes) -> KeyChange:
    """Raises ``InvalidRequest`` (400)."""
    try:
        asked = msgspec.json.decode(body or b"{}", type=_Asked)
    except msgspec.ValidationError as error:
        raise explain(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("The body is not JSON.", code="invalid_json") from None
    scopes = {name: getattr(asked, name) for name in ("models", "endpoints", "features")}
    for name, globs in scopes.items():
        if globs == []:  # a program's empty default, most often: a key that may call nothing helps no tenant
            raise InvalidRequest(
                f"{name} is an empty list.", hint="Leave it out for all that your key has.", param=name
            )
    return KeyChange(
        name=None if asked.name is UNSET else asked.name,
        limits={} if asked.limits is UNSET else dict(_limit(name, value) for name, value in asked.limits.items()),
        scope={name: tuple(globs) for name, globs in scopes.items() if globs is not UNSET},
        expires_us=_expiry(asked.expires_at),
        never_expires=asked.expires_at is None,
    )


def _limit(name: str, value: int | Decimal | None) -> tuple[str, int | None]:
    """Returns a limit by the name it is kept by; ``usd_per_day`` becomes nano-USD."""
    unit, _, window = name.partition("_per_")
    if unit == "usd" and window in WINDOWS:
        if value is None:
            return f"cost_nano_usd_per_{window}", None
        amount = Decimal(value)
        if not amount.is_finite() or not 0 <= amount <= _MOST_USD or (nano := amount * NANO_USD_PER_USD) % 1:
            raise InvalidRequest(
                f"{name} must be from 0 to {_MOST_USD} and have at most 9 decimals.", param=f"limits.{name}"
            )
        return f"cost_nano_usd_per_{window}", int(nano)
    if name not in Limits.__struct_fields__ or isinstance(value, Decimal):
        raise InvalidRequest(
            f"{name[:60]!r} is no limit that is a whole number: requests_per_day, tokens_per_month, usd_per_day …",
            param="limits",
        )
    return name, value


def _expiry(expires_at: int | UnsetType | None) -> int | None:
    if expires_at is UNSET or expires_at is None:
        return None
    if not 0 <= expires_at < 2**40:
        raise InvalidRequest("expires_at must be a time in the future, in Unix seconds.", param="expires_at")
    return expires_at * MICROSECONDS_PER_SECOND
