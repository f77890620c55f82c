"""Every exception of TrustGate, in one tree.

One exception serves three audiences: a client on ``/v1`` (an OpenAI-shaped JSON error with a status), the
command line (a message, what to do next, an exit code) and the admin socket, which carries it from
the server to the command line without loss.

    TrustGateError                        500  exit 1
    ├── InvalidRequest                    400  exit 2   the request is wrong
    │   ├── RequestTooLarge               413
    │   ├── RequestTimeout                408
    │   ├── NotFound                      404  exit 4
    │   ├── MethodNotAllowed              405
    │   └── Conflict                      409  exit 5   it exists already, or is in use
    │       └── AnchorsChanged                          another process anchors the log, too
    ├── VerificationFailed                400  exit 7   a receipt, proof, checkpoint or anchor does not hold
    ├── AuthenticationFailed              401  exit 3
    ├── PaymentRequired                   402           nothing paid, or nothing that pays for this
    ├── PermissionDenied                  403  exit 3
    ├── RateLimited                       429
    ├── UpstreamFailed                    502           the LLM server failed or spoke nonsense
    │   ├── UpstreamTimeout               504
    │   └── UpstreamRefused               its own   the LLM server's own 4xx, passed on
    ├── Unavailable                       503           this gateway cannot serve now
    │   └── FacilitatorUnavailable                      the facilitator gives no usable answer
    └── OperatorError                          exit 1   for the person who runs the gateway
        ├── SettingsError                      exit 2   a flag, a variable or trustgate.toml
        ├── ExtraMissing                       exit 2   this needs packages that are installed on request alone
        ├── HomeUnusable                                the home folder cannot be used
        │   └── HomeTaken                               a copy of it serves in its place
        ├── StoreLocked                        exit 6   another process holds the database
        ├── StoreUnusable                               a database server refuses, or lacks what is needed
        ├── StoreTooNew                                 written by a newer TrustGate
        ├── StoreDamaged                                the database or the journal lost data
        │   └── StoreIncomplete                         … and knows what; the operator may accept it
        └── ChainError                                  Solana, or its RPC node
            ├── RpcUnavailable                          no usable answer now; asking again may help
            ├── RpcRejected                             the node understood, and refused
            ├── FundsMissing                            the anchor key cannot pay the fee
            ├── AnchorPending                           sent, not final yet: flush again to go on
            └── AnchorRefused                           posting it would contradict the chain, or cost real money

Owns: the tree, the statuses and the JSON form. Source of the JSON form: OpenAI API reference, "Error codes".
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from typing import Any, ClassVar


class TrustGateError(Exception):
    """The root of the tree; also what is raised for a fault of our own.

    ``message`` describes what happened; ``hint`` the next thing to do, for a person at a terminal. Neither may
    hold a secret, an upstream address or another tenant's data: both are shown to the caller.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: str | None = None,
        param: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
        retryable: bool | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.headers = dict(headers or {})
        #: Further members of the JSON body, beside ``error``.
        self.beside = dict(beside or {})
        if code is not None:
            self.code = code
        if type is not None:
            self.type = type
        if retryable is not None:
            # Read by the OpenAI SDKs, which would otherwise retry every 408, 409, 429 and 5xx twice.
            self.headers["x-should-retry"] = "true" if retryable else "false"

    def to_openai(self) -> dict[str, dict[str, Any]]:
        """The body every refusal on ``/v1`` has: ``{"error": {message, type, param, code}}``."""
        return {
            **self.beside,
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            },
        }


class InvalidRequest(TrustGateError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    exit_code = 2


class RequestTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"


class RequestTimeout(InvalidRequest):
    status = 408
    code = "request_timeout"


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"
    exit_code = 4


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


class Conflict(InvalidRequest):
    status = 409
    code = "conflict"
    exit_code = 5


class AnchorsChanged(Conflict):
    """Another process has changed the record of anchors meanwhile."""


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class UpgradeRequired(InvalidRequest):
    status = 426
    code = "upgrade_required"


class VerificationFailed(TrustGateError):
    """What was to be proven is not: the message names the check and what was found instead."""

    status = 400
    type = "invalid_request_error"
    code = "verification_failed"
    exit_code = 7


class AuthenticationFailed(TrustGateError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    exit_code = 3


class PaymentRequired(TrustGateError):
    """A payment is missing or does not do. ``beside`` has the x402 members that stand beside the error."""

    status = 402
    type = "payment_required"
    code = "payment_required"


class PermissionDenied(TrustGateError):
    status = 403
    type = "invalid_request_error"
    code = "permission_denied"
    exit_code = 3


class RateLimited(TrustGateError):
    """A quota is used up. ``type`` names it, as OpenAI does: requests, tokens or insufficient_quota."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class UpstreamFailed(TrustGateError):
    status = 502
    type = "upstream_error"
    code: str | None = "upstream_error"


class UpstreamTimeout(UpstreamFailed):
    status = 504
    code = "upstream_timeout"


class UpstreamRefused(UpstreamFailed):
    """The upstream refused this request, with a status of its own (400–499)."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str,
        code: str | None,
        param: str | None,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(message, type=type, param=param, headers=headers)
        self.status = status
        self.code = code


class Unavailable(TrustGateError):
    status = 503
    type = "service_unavailable"
    code = "service_unavailable"


class FacilitatorUnavailable(Unavailable):
    code = "facilitator_unavailable"


class OperatorError(TrustGateError):
    """Something only the operator can correct."""

    code = "operator_error"


class SettingsError(OperatorError):
    exit_code = 2
    code = "bad_settings"


class ExtraMissing(OperatorError):
    exit_code = 2
    code = "extra_missing"

    @classmethod
    def of(cls, message: str, extra: str, requirement: str) -> ExtraMissing:
        """``extra``: of pyproject.toml; ``requirement``: what is in it."""
        if getattr(sys, "frozen", False):
            hint = (
                f"Nothing can be added to the single file: run TrustGate from a checkout, with pip install '.[{extra}]'"
            )
        else:
            hint = f"Install it: {sys.executable} -m pip install '{requirement}'"
        return cls(f"{message} It is the extra {extra}.", hint=hint)


class HomeUnusable(OperatorError):
    code = "home_unusable"


class StoreLocked(OperatorError):
    """``pid``: of the process on this machine that has the database, where that is known."""

    exit_code = 6
    code = "store_locked"

    def __init__(self, message: str, *, pid: int | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.pid = pid


class StoreUnusable(OperatorError):
    code = "store_unusable"


class StoreTooNew(OperatorError):
    code = "store_too_new"


class StoreDamaged(OperatorError):
    code = "store_damaged"


class StoreIncomplete(StoreDamaged):
    """What was acknowledged is missing. ``trustgate accept-loss`` goes on without it."""

    code = "data_missing"

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="Put back the files that were there: the newer database with its .wal, or the folder journal; or "
            "restore a backup (trustgate restore FILE). To go on without what is missing: trustgate accept-loss",
        )


class ChainError(OperatorError):
    code = "chain_error"


class RpcUnavailable(ChainError):
    """The network, HTTP 429 or 5xx, an answer that makes no sense, a node that lags behind."""

    code = "rpc_unavailable"
    #: What the node asked for in Retry-After, seconds.
    retry_after_s: float | None = None


class RpcRejected(ChainError):
    """The node refused the call: ``rpc_code`` is the JSON-RPC error's code, ``data`` what came with it."""

    code = "rpc_rejected"
    rpc_code: int | None = None
    data: Any = None


class FundsMissing(ChainError):
    code = "funds_missing"


class AnchorPending(ChainError):
    code = "anchor_pending"


class AnchorRefused(ChainError):
    code = "anchor_refused"


def disk_hint(error: OSError, otherwise: str) -> str:
    """Returns the hint for a file that could not be written; ``otherwise``: unless space or the mount is the cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space on its disk."
    return "Its disk is mounted read-only: mount it for writing." if error.errno == errno.EROFS else otherwise
