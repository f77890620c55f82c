"""The admin routes: one command in, its result or its error out. Served on the admin socket to whoever may open it,
and, where an admin key is set, on the public port to whoever has that key.
"""

from __future__ import annotations

import hmac
import logging
from functools import reduce
from operator import or_
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from trustgate.admin.commands import Admin, Command
from trustgate.admin.local import COMMANDS
from trustgate.errors import AuthenticationFailed, InvalidRequest, RequestTooLarge, TrustGateError

PATH = "/admin/v1/execute"

_MAX_COMMAND_BYTES = 64 * 1024 * 1024

_logger = logging.getLogger("trustgate.admin")
_decode = msgspec.json.Decoder(reduce(or_, COMMANDS)).decode


def admin_routes(admin: Admin, *, key: str | None) -> list[Route]:
    """``key`` None: whoever reaches the routes may use them."""

    async def execute(request: Request) -> Response:
        try:
            if key is not None:
                _authenticate(request, key)
            result = await admin.execute(await _command(request))
        except TrustGateError as error:
            return _refusal(error)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            _logger.exception("internal error in an admin command")
            return _refusal(TrustGateError("The server failed to do this. The error is in its log."))
        return _json(200, {"result": result})

    return [Route(PATH, execute, methods=["POST"])]


def _authenticate(request: Request, key: str) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), key.encode()):
        raise AuthenticationFailed("The admin key is missing or wrong.", hint="Set TRUSTGATE_ADMIN_KEY.")


async def _command(request: Request) -> Command[Any]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_COMMAND_BYTES:
            raise RequestTooLarge(f"A command is at most {_MAX_COMMAND_BYTES} bytes.")
    try:
        command: Command[Any] = _decode(bytes(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"That is no command: {error}.", hint="Command line and server should be of one version."
        ) from None
    return command


def _refusal(error: TrustGateError) -> Response:
    return _json(error.status, {**error.to_openai(), "hint": error.hint, "kind": type(error).__name__})


def _json(status: int, value: object) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
