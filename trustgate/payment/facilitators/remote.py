"""A remote facilitator over HTTP, whose response counts only where it leaves no doubt.

Verifying moves nothing, so there every "no" is taken for one, and an answer that is none is "not now". Settling moves
money, so there is a third answer: one that times out, breaks off, or sends an error page or a contradictory answer may
have moved it. Only a whole success (status 200, with a transaction, on the network that was asked for) is a success,
and only a refusal for a reason that is final, without a transaction, is a failure.

Source: x402 specification v2, section 7 "Facilitator interface", and its error codes; v1 has the same wire.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import logging
import re
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from trustgate.errors import FacilitatorUnavailable, InvalidRequest, SettingsError
from trustgate.net.addresses import host_of
from trustgate.net.peer import Peer, PeerFailed, PeerResponse
from trustgate.payment.facilitators.auth import Auth
from trustgate.payment.interfaces import Kind, OnTransaction, Settlement, VerifyResult
from trustgate.payment.networks import caip2_of, is_solana
from trustgate.payment.payment_key import inner_of, payer_of
from trustgate.settings import why_not_base_url
from trustgate.types import Payment

_logger = logging.getLogger("trustgate.payment")

_MOST_BYTES: Final = 256 * 1024
_SUPPORTED_S: Final = 15.0
#: Statuses with which a facilitator rejects the request itself.
_REFUSALS: Final = frozenset({400, 402, 412, 422})

#: Reasons for which a payment is refused before anything is sent: the payment's own content is wrong, or its payer
#: has not the money. Every other reason may come after the money moved, or while it moves: ``duplicate_settlement``,
#: ``settlement_pending``, ``invalid_transaction_state``, ``unexpected_settle_error``, ``transaction_failed``,
#: ``transaction_simulation_failed`` and a used nonce (it may be this very payment that was used), and all new ones.
_FINAL: Final = re.compile(
    r"insufficient_funds|invalid_exact_evm_insufficient_balance"
    r"|invalid_network|network_mismatch|invalid_scheme|unsupported_scheme|invalid_x402_version"
    r"|invalid_payload|invalid_payment|invalid_payment_requirements|invalid_signature"
    r"|invalid_exact_(evm|svm)_payload_(?!\w*(simulation|nonce|used))\w+|fee_payer_not_managed_by_facilitator"
    r"|missing_eip712_domain|asset_not_deployed_contract|eip6492_factory_not_allowed"
    r"|invalid_exact_evm_(insufficient_funds|missing_eip712_domain|network_mismatch|recipient_mismatch|scheme"
    r"|unsupported_scheme|signature(_format)?|token_(name|version)_mismatch|eip3009_not_supported"
    r"|authorization_value(_mismatch)?|required_amount|extra_field)"
    r"|permit2_(allowance_required|amount_mismatch|deadline_expired|insufficient_balance|invalid_(amount|destination"
    r"|owner|signature|spender)|not_yet_valid|payment_too_early|recipient_mismatch|token_mismatch)"
    r"|unsupported_(asset_transfer_method|network|payload_type|payment_flow|version)"
)
#: It wants a key, or another one.
_KEY_WANTED: Final = frozenset({401, 403})
#: What facilitators say of an extension that they have taken.
_WELL: Final = ("success", "accepted", "processing")
_MOST_EXTENSIONS: Final = 16
_MOST_HEADER_BYTES: Final = 16 * 1024
_REASON: Final = re.compile(r"[\w.: -]{1,200}", re.ASCII)


class _Verify(Struct, rename="camel"):
    is_valid: bool
    invalid_reason: str | None = None
    payer: str | None = None


class _Settle(Struct, rename="camel"):
    success: bool
    network: str | None = None
    transaction: str | None = None
    error_reason: str | None = None
    payer: str | None = None
    amount: str | None = None


class _Kind(Struct, rename="camel"):
    scheme: str
    network: str
    x402_version: int = msgspec.field(name="x402Version", default=1)
    extra: dict[str, Any] | None = None


class _Supported(Struct):
    kinds: list[msgspec.Raw]


def check_facilitator_url(url: str) -> str:
    """Returns the base URL of a remote facilitator, without a slash at its end. Raises ``InvalidRequest``."""
    fault = why_not_base_url(url) if "://" in url else "must begin with https:// and name a host, or be embedded"
    if fault is None and urlsplit(url).scheme != "https" and not _is_loopback(urlsplit(url).hostname or ""):
        fault = "must begin with https://: payments are trusted on its word"
    if fault is not None:
        raise InvalidRequest(
            f"The facilitator {fault}.",
            param="facilitator",
            code="bad_facilitator",
            hint="Name embedded, or a URL such as https://x402.org/facilitator",
        )
    return url.rstrip("/")


class RemoteFacilitator:
    """A ``Facilitator``."""

    def __init__(self, url: str, *, verify_timeout_s: float, settle_timeout_s: float, auth: Auth | None = None) -> None:
        """``auth``: what it is shown with every request; None: nothing."""
        self._host = host_of(url)
        self._url = url
        self._auth = auth
        #: What it last said of each x402 extension (header ``EXTENSION-RESPONSES``), by the extension's name.
        self.extension_responses: dict[str, str] = {}
        self._verify_timeout_s = verify_timeout_s
        self._settle_timeout_s = settle_timeout_s
        self._peer = Peer(url, timeout_s=_SUPPORTED_S, most_bytes=_MOST_BYTES)

    async def supported(self) -> tuple[Kind, ...]:
        try:
            reply = await self._exchange("GET", "/supported", None, _SUPPORTED_S)
        except PeerFailed as failure:
            raise self._silent(str(failure)) from None
        answer = _decoded(reply.body, _Supported) if reply.status == 200 else None
        if reply.status in _KEY_WANTED:
            raise self._keyless(reply.status)
        # Kinds of another shape are passed over: they may be those of a version to come.
        kinds = [] if answer is None else [_decoded(bytes(kind), _Kind) for kind in answer.kinds]
        known = [kind for kind in kinds if kind is not None]
        if answer is None or (kinds and not known):
            raise self._silent(f"did not list what it supports (HTTP {reply.status})")
        return tuple(
            Kind(x402_version=kind.x402_version, scheme=kind.scheme, network=kind.network, extra=kind.extra or {})
            for kind in known
        )

    async def verify(self, payment: Payment) -> VerifyResult:
        try:
            reply = await self._exchange("POST", "/verify", _request(payment), self._verify_timeout_s)
        except PeerFailed as failure:
            raise self._unavailable(str(failure)) from None
        except SettingsError as error:
            raise self._unavailable(f"cannot be asked: {error.message}") from None
        answer = _decoded(reply.body, _Verify)
        if reply.status == 200 and answer is not None:
            reason = "" if answer.is_valid else _reason(answer.invalid_reason)
            payer = _identifier(answer.payer) or payer_of(inner_of(payment.payload))
            return VerifyResult(answer.is_valid, reason, payer)
        if reply.status in _REFUSALS and (answer is None or not answer.is_valid):
            return VerifyResult(valid=False, reason=_reason(answer and answer.invalid_reason))
        raise self._unavailable(f"sent an invalid response to /verify (HTTP {reply.status})")

    async def settle(self, payment: Payment, on_transaction: OnTransaction) -> Settlement:
        del on_transaction  # known to the facilitator alone until it answers
        try:
            reply = await self._exchange("POST", "/settle", _request(payment), self._settle_timeout_s)
        except SettingsError as error:
            _logger.warning("payment %s is not settled: %s", payment.id, error.message)
            return Settlement("failed", payer=payment.payer, reason="facilitator_unavailable")  # nothing was sent
        except PeerFailed as failure:
            return self._unknown(payment, f"the facilitator {failure}")
        except Exception as error:
            _logger.exception("payment %s cannot be handed to its facilitator", payment.id)
            return self._unknown(payment, f"a fault of the gateway ({type(error).__name__})")
        answer = _decoded(reply.body, _Settle)
        if answer is None:
            return self._unknown(payment, f"the facilitator sent no valid response (HTTP {reply.status})")
        return self._read(payment, reply.status, answer)

    async def close(self) -> None:
        await self._peer.close()

    async def _exchange(self, method: str, path: str, body: bytes | None, timeout_s: float) -> PeerResponse:
        """Raises ``PeerFailed``, and ``SettingsError`` where what it is to be shown cannot be read."""
        headers = {} if self._auth is None else self._auth.headers(method, f"{self._url.rstrip('/')}{path}")
        what = path if method == "POST" else f"{method} {path}"
        reply = await self._peer.exchange(what, body, path=path, timeout_s=timeout_s, headers=headers)
        self._note_extensions(reply.headers.get("extension-responses", ""))
        return reply

    def _note_extensions(self, header: str) -> None:
        """Keep what it reports of extensions; what is new and no success is logged. Bears on no payment."""
        for name, text in _extension_responses(header).items():
            said = self._peer.tamed(text)
            if self.extension_responses.get(name) != said and not said.startswith(_WELL):
                _logger.warning("the facilitator %s says of the extension %s: %s", self._host, name, said)
            if name in self.extension_responses or len(self.extension_responses) < _MOST_EXTENSIONS:
                self.extension_responses[name] = said

    def _keyless(self, status: int) -> FacilitatorUnavailable:
        shown = "wants a key" if self._auth is None else "does not take the key that it is shown"
        return FacilitatorUnavailable(
            f"The facilitator {self._host} {shown} (HTTP {status}).",
            hint="Name where its key is: the setting payment.facilitator_auth.",
            retryable=False,
        )

    def _read(self, payment: Payment, status: int, answer: _Settle) -> Settlement:
        transaction = _transaction(answer.transaction, payment.offer.network)
        # Who pays was known when the payment was verified, and is signed.
        payer = payment.payer or _identifier(answer.payer)
        if status != 200:
            return self._unknown(payment, f"the facilitator answered with HTTP {status}", transaction)
        if not answer.success:
            reason = _reason(answer.error_reason)
            if not transaction and _FINAL.fullmatch(reason):
                return Settlement("failed", payer=payer, reason=reason)
            return self._unknown(payment, reason, transaction)
        if answer.error_reason:
            return self._unknown(payment, "the facilitator reports a settlement and an error at once", transaction)
        if not transaction:
            return self._unknown(payment, "the facilitator reports a settlement without its transaction")
        if not _is_network(answer.network, payment.offer.network):
            return self._unknown(payment, "the facilitator reports a settlement on another network", transaction)
        if answer.amount not in (None, "", payment.amount):
            return self._unknown(payment, "the facilitator reports a settlement of another amount", transaction)
        return Settlement("settled", transaction=transaction, payer=payer)

    def _unknown(self, payment: Payment, reason: str, transaction: str = "") -> Settlement:
        return Settlement("unknown", transaction=transaction, payer=payment.payer, reason=self._peer.tamed(reason))

    def _silent(self, what: str) -> FacilitatorUnavailable:
        """For the operator, who named it."""
        return FacilitatorUnavailable(
            f"The facilitator {self._host} {what}.", hint="Check its URL, or try again later.", retryable=True
        )

    def _unavailable(self, what: str) -> FacilitatorUnavailable:
        """For a client, whom it does not concern who settles here."""
        _logger.warning("the facilitator %s %s", self._host, what)
        return FacilitatorUnavailable(
            "The payment cannot be checked now: its facilitator sends no valid response.",
            hint="Nothing was charged. Try again later.",
            retryable=True,
        )


def _request(payment: Payment) -> bytes:
    return msgspec.json.encode(
        {
            "x402Version": payment.x402_version,
            "paymentPayload": msgspec.Raw(payment.payload),
            "paymentRequirements": msgspec.Raw(payment.requirements),
        }
    )


def _decoded(body: bytes, kind: type[Any]) -> Any:
    """None where the body is no such thing, or has a member twice: which of the two counts, readers differ over."""
    try:
        answer = msgspec.json.decode(body, type=kind)
        json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return answer


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("a member comes twice")
    return found


def _extension_responses(header: str) -> dict[str, str]:
    """Returns what is in the header (base64 of JSON), "status" or "status: reason" by extension; empty for no such."""
    if not header or len(header) > _MOST_HEADER_BYTES:
        return {}
    try:
        found = msgspec.json.decode(base64.b64decode(header + "=" * (-len(header) % 4), validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    said: dict[str, str] = {}
    for name, answer in found.items() if isinstance(found, dict) else ():
        if isinstance(answer, dict) and re.fullmatch(r"[\w.:/-]{1,64}", name, re.ASCII):
            parts = (answer.get("status"), answer.get("rejectedReason") or answer.get("reason"))
            said[name] = ": ".join(part for part in parts if isinstance(part, str) and part) or "no status"
    return said


def _reason(text: str | None) -> str:
    """As it may be shown to a client: a code or a short sentence, not a page."""
    text = (text or "").strip()
    return text if _REASON.fullmatch(text) else "unspecified"


def _identifier(text: str | None) -> str:
    """Returns a transaction or an address; "" for what can be neither."""
    return text if text is not None and re.fullmatch("[0-9A-Za-z]{1,128}", text) else ""


def _transaction(text: str | None, network: str) -> str:
    """Returns a transaction's id; "" for what is none on its network, such as a word that stands in for it."""
    found = _identifier(text)
    if network.startswith("eip155:"):
        digits = found.removeprefix("0x")
        return found if re.fullmatch("[0-9A-Fa-f]{64}", digits) and digits.strip("0") else ""
    if is_solana(network):  # 64 bytes in base58
        return found if re.fullmatch("[1-9A-HJ-NP-Za-km-z]{64,88}", found) and found.strip("1") else ""
    return found


def _is_network(answered: str | None, asked: str) -> bool:
    """In version 1 networks go by their names."""
    if answered is None:
        return False
    try:
        return caip2_of(answered) == asked
    except InvalidRequest:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
