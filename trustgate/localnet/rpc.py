"""JSON-RPC 2.0: from the bytes of a request to the bytes of its answer.

Owns the envelope: one call or a batch, its errors, notifications that get no answer. Whatever comes in, something
sensible goes out. Source: JSON-RPC 2.0.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from trustgate.errors import TrustGateError
from trustgate.localnet.chain import LocalChain
from trustgate.localnet.faults import INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, RpcError
from trustgate.localnet.methods import call

_logger = logging.getLogger("trustgate.localnet")


async def answer(chain: LocalChain, body: bytes) -> bytes:
    """Returns the answer to a request; empty where none is due."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return msgspec.json.encode(_failed(None, RpcError(PARSE_ERROR, "Parse error")))
    if not isinstance(request, list):
        told = _answer_one(chain, request)
        return b"" if told is None else msgspec.json.encode(told)
    if not request:
        return msgspec.json.encode(_failed(None, RpcError(INVALID_REQUEST, "Invalid request")))
    answers = []
    for each in request:
        answers.append(_answer_one(chain, each))
        await asyncio.sleep(0)  # a long batch lets others through
    due = [told for told in answers if told is not None]
    return msgspec.json.encode(due) if due else b""


def _answer_one(chain: LocalChain, request: Any) -> dict[str, Any] | None:
    identity = request.get("id") if isinstance(request, dict) else None
    if not isinstance(identity, str | int | float | None) or isinstance(identity, bool):
        identity = None
    try:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            raise RpcError(INVALID_REQUEST, "Invalid request")
        if request.get("jsonrpc") != "2.0":
            raise RpcError(INVALID_REQUEST, 'unsupported JSON-RPC protocol version: write "jsonrpc": "2.0"')
        result = call(chain, request["method"], request.get("params"))
    except RpcError as error:
        return _failed(identity, error)
    except TrustGateError as error:
        return _failed(identity, RpcError(INTERNAL_ERROR, f"Internal error: {error.message}"))
    except Exception:
        # A fault of ours; the next call may work all the same.
        _logger.exception("%s failed", request["method"])
        return _failed(identity, RpcError(INTERNAL_ERROR, "Internal error"))
    return {"jsonrpc": "2.0", "result": result, "id": identity} if "id" in request else None


def _failed(identity: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": error.to_json(), "id": identity}
