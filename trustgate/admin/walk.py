"""The eleven steps of the request path, described for one request.

Owns what each step is said to have done: only the content of the request's answer, its receipt or its refusal. The
order is fixed, so a step that a later one rests on was passed; a refusal names the step that it comes from by its
status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec
from msgspec import UnsetType

from trustgate.admin.log_commands import ReceiptDetail
from trustgate.formats.written import usd
from trustgate.types import ApiKey, Passport, Receipt, Tenant

STEPS = (
    *("request", "bearer auth", "payment", "plan", "quota", "validation"),
    *("passport", "fetch", "metering", "receipt", "response"),
)

_EVENT = b"data: "
_END = b"data: [DONE]"

State = Literal["passed", "stopped", "not reached"]


class ClientAnswer(NamedTuple):
    """A request, byte for byte, and what its client got."""

    request: bytes
    url: str
    status: int
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes
    #: Events of a stream before its end; None where the answer was no stream.
    events: int | None
    #: Until the first byte of the body, and until its last, milliseconds.
    first_ms: float
    total_ms: float

    @property
    def receipt_id(self) -> str | None:
        return self.headers.get("x-trustgate-receipt")

    @property
    def text(self) -> str:
        """What was said: of a chat completion, streamed or not; else the message of the error."""
        if self.events is not None:
            chunks = [msgspec.json.decode(line[len(_EVENT) :]) for line in self._lines() if line != _END]
            return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
        document = msgspec.json.decode(self.body)
        said = document["error"]["message"] if "error" in document else document["choices"][0]["message"]["content"]
        return str(said)

    @property
    def code(self) -> str:
        """The code of an error; "" where it is none."""
        return "" if self.status == 200 else str(msgspec.json.decode(self.body)["error"]["code"])

    def _lines(self) -> list[bytes]:
        return [line for line in self.body.split(b"\n\n") if line.startswith(_EVENT)]


class Refusal(NamedTuple):
    status: int
    code: str
    message: str
    #: Not the gateway's own.
    by_upstream: bool = False


class Seen(NamedTuple):
    """All that is known of one request. None: it is not known, or there is none."""

    endpoint: str
    #: None of a request that was not the tour's own.
    answer: ClientAnswer | None = None
    refusal: Refusal | None = None
    receipt: ReceiptDetail | None = None
    key: ApiKey | None = None
    tenant: Tenant | None = None
    passport: Passport | None = None


class Step(NamedTuple):
    number: int
    name: str
    state: State
    detail: str


def walk(seen: Seen) -> tuple[Step, ...]:
    """Returns all eleven. Of a refused request: up to where it was refused, and what came after that all the same."""
    stop = 0 if seen.refusal is None else _stop(seen.refusal)
    return tuple(_step(number, seen, stop) for number in range(1, len(STEPS) + 1))


#: By status; 400 comes from more than one step.
_STOPS = {401: 2, 402: 3, 403: 4, 404: 7, 408: 1, 409: 3, 413: 1, 429: 5, 502: 8, 503: 8, 504: 8}
_VALIDATION, _FETCH = 6, 8
#: Codes of a 400 that the head alone is refused with.
_HEAD_CODES = frozenset(
    ("duplicate_header", "invalid_header", "unsupported_content_type", "unsupported_content_encoding")
)


def _stop(refusal: Refusal) -> int:
    if refusal.by_upstream:
        return _FETCH
    return 1 if refusal.code in _HEAD_CODES else _STOPS.get(refusal.status, _VALIDATION)


def _step(number: int, seen: Seen, stop: int) -> Step:
    name = STEPS[number - 1]
    if number == stop and seen.refusal is not None:
        return Step(number, name, "stopped", f"{seen.refusal.status} {seen.refusal.code}: {seen.refusal.message}")
    # A refusal is answered, too, and may be on record.
    comes_anyway = name == "response" or (name == "receipt" and seen.receipt is not None)
    if stop and number > stop and not comes_anyway:
        return Step(number, name, "not reached", "")
    return Step(number, name, "passed", _DETAILS[name](seen))


def _request(seen: Seen) -> str:
    asked = seen.endpoint + (", streamed" if _is_stream(seen) else "")
    return asked if seen.answer is None else f"{asked}: {len(seen.answer.request)} bytes"


def _auth(seen: Seen) -> str:
    if seen.key is None or seen.tenant is None:
        return "the key is valid"
    return f"the key {seen.key.redacted} is one of the tenant {seen.tenant.name}"


def _payment(seen: Seen) -> str:
    receipt = _receipt(seen)
    if receipt is None:
        return "nothing is due, or it was paid"
    if isinstance(receipt.charged_nano_usd, UnsetType):
        return "payment is off for this tenant"
    if receipt.payment:
        units = f"{int(str(receipt.payment_amount)):,} units of the token"
        payer, transaction = _short(str(receipt.payment_payer)), _short(str(receipt.payment_transaction))
        return f"{units}, signed by {payer}; settled in transaction {transaction}"
    return f"{usd(receipt.charged_nano_usd)} of the tenant's balance"


def _plan(seen: Seen) -> str:
    allowed = "the model, and streaming" if _is_stream(seen) else "this model"
    return f"{'its plan' if seen.tenant is None else f'the plan {seen.tenant.plan}'} allows {allowed}"


def _quota(seen: Seen) -> str:
    headers = {} if seen.answer is None else seen.answer.headers
    limit, left = headers.get("x-ratelimit-limit-requests"), headers.get("x-ratelimit-remaining-requests")
    if limit is None or left is None:
        return "the request is within the quota"
    return f"{int(left):,} of {int(limit):,} requests left, reset in {headers['x-ratelimit-reset-requests']}"


def _validation(_: Seen) -> str:
    return "every checked member has the right type"


def _passport(seen: Seen) -> str:
    if seen.passport is None:
        return "the model's name resolves to a passport"
    return f"{seen.passport.slug} has the passport …{seen.passport.id[-12:]}"


def _fetch(seen: Seen) -> str:
    receipt, passport = _receipt(seen), seen.passport
    model = "the upstream" if receipt is None else receipt.upstream_model or "the upstream"
    return f"{model} answered{f', at {passport.base_url}' if passport is not None and passport.base_url else ''}"


def _metering(seen: Seen) -> str:
    receipt = _receipt(seen)
    if receipt is None:
        return "metered"
    source = "as the upstream reported" if receipt.usage_source == "provider" else "estimated"
    used = f"{receipt.prompt_tokens} + {receipt.completion_tokens} tokens, {source}"
    return f"{used}: {usd(receipt.cost_nano_usd)}"


def _on_record(seen: Seen) -> str:
    assert seen.receipt is not None, "only for requests with a receipt"
    return f"number {seen.receipt.seq} of the log: {seen.receipt.receipt.id}"


def _response(seen: Seen) -> str:
    answer, receipt = seen.answer, _receipt(seen)
    if answer is None:
        status = seen.refusal.status if seen.refusal is not None else 0 if receipt is None else receipt.status
        return f"{status}, {receipt.finish}" if receipt is not None else str(status)
    pieces = f" in {answer.events} events" if answer.events is not None else ""
    told = f"{answer.status}, {len(answer.body):,} bytes{pieces}"
    if seen.receipt is not None and seen.receipt.secret is not None:
        return f"{told}: {_committed(seen.receipt.secret, answer.body, seen.receipt.receipt)}"
    return f"{told}, and the offers in PAYMENT-REQUIRED" if "payment-required" in answer.headers else told


def _committed(secret: str, body: bytes, receipt: Receipt) -> str:
    """Returns whether the receipt was issued for these very bytes."""
    import hashlib

    from trustgate.receipts.receipt import commitment

    opened = commitment(bytes.fromhex(secret), "response", hashlib.sha256(body).digest())
    return f"{'those' if opened == receipt.response_commitment else 'NOT those'} that the receipt commits to"


_DETAILS = {
    "request": _request,
    "bearer auth": _auth,
    "payment": _payment,
    "plan": _plan,
    "quota": _quota,
    "validation": _validation,
    "passport": _passport,
    "fetch": _fetch,
    "metering": _metering,
    "receipt": _on_record,
    "response": _response,
}


def _receipt(seen: Seen) -> Receipt | None:
    return None if seen.receipt is None else seen.receipt.receipt


def _is_stream(seen: Seen) -> bool:
    receipt = _receipt(seen)
    return receipt is not None and receipt.stream


def _short(text: str) -> str:
    """The ends of an id or an address, to tell it from others."""
    return f"{text[:8]}…{text[-6:]}" if len(text) > 24 else text
