"""The admin routes: one command in, its result or its error out. Served on the admin socket to its owner,
and, where an admin key is set, on the public port to holders of that key.

A credit, a refund or a correction that is sent again, since its answer was lost, counts once by its reference; the
header ``Idempotency-Key`` gives it one.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from trustgate import errors
from trustgate.admin.commands import Admin, Feed
from trustgate.admin.local import COMMANDS, FEEDS
from trustgate.admin.log_commands import ArchiveReceipts, Backup
from trustgate.admin.subscriptions import NotifyAdd
from trustgate.errors import (
    AuthenticationFailed,
    InvalidRequest,
    PermissionDenied,
    RequestTooLarge,
    TrustGateError,
)

T = TypeVar("T", bound=msgspec.Struct)

PATH = "/admin/v1/execute"
FEED_PATH = "/admin/v1/feed"

_MAX_COMMAND_BYTES = 64 * 1024 * 1024
#: What a column of the database holds at most.
_MOST_NUMBER = 2**63 - 1

_logger = logging.getLogger("trustgate.admin")
_decode = msgspec.json.Decoder(reduce(or_, COMMANDS)).decode
_decode_feed = msgspec.json.Decoder(reduce(or_, FEEDS)).decode


def admin_routes(admin: Admin, *, key: str | None) -> list[Route]:
    """``key`` None: every client that reaches the routes may use them."""

    async def execute(request: Request) -> Response:
        try:
            if key is not None:
                _authenticate(request, key)
            command = _named(await _command(request, _decode), request.headers.get("idempotency-key", ""))
            if isinstance(command, ArchiveReceipts) and command.to is not None and key is not None:
                raise PermissionDenied(
                    "A folder for archive files can only be chosen on the server's own machine.",
                    hint="Leave --to out, or run the command there, without TRUSTGATE_URL.",
                )
            if isinstance(command, NotifyAdd) and command.command and key is not None:
                raise PermissionDenied(
                    "A program that is run with notices can only be named on the server's own machine.",
                    hint="Run the command there, without TRUSTGATE_URL, or add a webhook.",
                )
            result = await admin.execute(command)
        except TrustGateError as error:
            return _refusal(error)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            _logger.exception("internal error in an admin command")
            return _refusal(_fault())
        return _json(200, {"result": result})

    async def feed(request: Request) -> Response:
        try:
            if key is not None:
                _authenticate(request, key)
            command = await _command(request, _decode_feed)
            if isinstance(command, Backup) and key is not None:
                raise PermissionDenied(
                    "A backup holds the key of the log, so it can only be made on the server's own machine.",
                    hint="Run the command there, without TRUSTGATE_URL.",
                )
        except TrustGateError as error:
            return _refusal(error)
        except ClientDisconnect:
            return Response(status_code=400)
        return _FeedResponse(admin, command)

    return [Route(PATH, execute, methods=["POST"]), Route(FEED_PATH, feed, methods=["POST"])]


def _authenticate(request: Request, key: str) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), key.encode()):
        raise AuthenticationFailed("The admin key is missing or wrong.", hint="Set TRUSTGATE_ADMIN_KEY.")


async def _command(request: Request, decode: Callable[[bytes], T]) -> T:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_COMMAND_BYTES:
            raise RequestTooLarge(f"A command is at most {_MAX_COMMAND_BYTES} bytes.")
    try:
        command = decode(bytes(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"Unknown command: {error}.", hint="Use the same version of TrustGate for the command line and the server."
        ) from None
    for name, value in msgspec.structs.asdict(command).items():
        # A database would refuse it as a fault of its own, or find nothing.
        if isinstance(value, int) and not -_MOST_NUMBER <= value <= _MOST_NUMBER:
            raise InvalidRequest(f"{name} is out of range: at most 2^63 - 1 either way.", param=name)
    return command


def _named(command: T, key: str) -> T:
    """Returns the command with the reference that an ``Idempotency-Key`` gives it; "": without one.

    The header is that of draft-ietf-httpapi-idempotency-key-header: a string, with or without its quotes.

    Raises ``InvalidRequest`` where the command has no reference, or another one: sent twice it would count twice.
    """
    key = key.removeprefix('"').removesuffix('"')
    if not key:
        return command
    reference = getattr(command, "reference", None)
    if reference is None:
        raise InvalidRequest(
            "This command takes no Idempotency-Key: it has no reference by which it would count once.",
            hint="Leave the header out.",
            param="Idempotency-Key",
        )
    if reference not in ("", key):
        raise InvalidRequest(
            f"The command has the reference {reference!r}, and another Idempotency-Key.",
            hint="Give one of the two.",
            param="Idempotency-Key",
        )
    return msgspec.structs.replace(command, reference=key)


class _FeedResponse(Response):
    """A feed on its way: frames of bytes, each after its length (4 bytes, big-endian); one of length 0; its outcome.

    The outcome is what the answer to a command is, so what goes wrong in the middle has a reason too. Nothing is sent
    before the first bytes: a refusal that comes at once has the status of its own.
    """

    def __init__(self, admin: Admin, command: Feed[Any]) -> None:
        super().__init__(media_type="application/octet-stream")
        self._admin = admin
        self._command = command

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._feed(send))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _feed(self, send: Send) -> None:
        started = False

        async def start() -> None:
            nonlocal started
            started = True
            head = [(b"content-type", b"application/octet-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": head})

        async def write(data: bytes) -> None:
            if not data:
                return
            if not started:
                await start()
            await send({"type": "http.response.body", "body": len(data).to_bytes(4) + data, "more_body": True})

        status, outcome = 200, {}
        try:
            outcome = {"result": await self._admin.feed(self._command, write)}
        except TrustGateError as error:
            status, outcome = error.status, _told(error)
        except Exception:
            _logger.exception("internal error in an admin command")
            status, outcome = 500, _told(_fault())
        words = msgspec.json.encode(outcome)
        if started or status == 200:
            if not started:
                await start()
            await send({"type": "http.response.body", "body": bytes(4) + words})
            return
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(words))]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": words})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _fault() -> TrustGateError:
    return TrustGateError("The server failed. The error is in its log.")


def _told(error: TrustGateError) -> dict[str, Any]:
    # The command line knows the tree of trustgate.errors: of a class that a room has beside it, its base there.
    kind = next(each.__name__ for each in type(error).__mro__ if each.__module__ == errors.__name__)
    return {**error.to_openai(), "hint": error.hint, "kind": kind}


def _refusal(error: TrustGateError) -> Response:
    return _json(error.status, _told(error))


def _json(status: int, value: object) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
