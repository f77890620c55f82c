"""What the payment room asks of others: a facilitator, and a chain.

Owns the two protocols and what they answer with. Words and meanings are x402's (specification v2, sections 5 to 7):
a *facilitator* checks a signed payment (verify) and moves the money (settle).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from trustgate.types import Payment


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One way of paying that a facilitator supports: of protocol version 1 (network by name) or 2 (CAIP-2)."""

    x402_version: int
    scheme: str
    network: str
    #: What offers have to tell clients, such as ``feePayer``.
    extra: dict[str, Any] = {}


class OfferFact(msgspec.Struct, frozen=True, kw_only=True):
    """What a facilitator reports now of offers that name it."""

    facilitator: str
    network: str
    #: Who pays the network's fee, in the offers and by the facilitator; "" where none is named.
    offered: str
    current: str
    #: Why the offers cannot go by that; "" where they can.
    problem: str = ""

    @property
    def is_news(self) -> bool:
        return not self.problem and self.current != self.offered


class VerifyResult(NamedTuple):
    """Whether a payment would do. ``reason`` is the facilitator's (``insufficient_funds``, …), "" when valid."""

    valid: bool
    reason: str = ""
    payer: str = ""


class Settlement(NamedTuple):
    """What became of settling. ``unknown``: the money may have moved or may yet; never to be taken for either."""

    outcome: Literal["settled", "failed", "unknown"]
    transaction: str = ""
    payer: str = ""
    reason: str = ""


#: Told the transaction's id before it is broadcast; when it returns, that is durable.
OnTransaction = Callable[[str], Awaitable[None]]


class Facilitator(Protocol):
    async def supported(self) -> tuple[Kind, ...]:
        """Raises ``FacilitatorUnavailable``."""
        ...

    async def verify(self, payment: Payment) -> VerifyResult:
        """Moves nothing. Raises ``FacilitatorUnavailable`` when there is no valid response."""
        ...

    async def settle(self, payment: Payment, on_transaction: OnTransaction) -> Settlement:
        """Move the money. Never raises; an error, a time-out, an answer that makes no sense are ``unknown``.

        ``failed`` only where it is certain that this payment has not moved and will not move any money.
        """
        ...

    async def close(self) -> None: ...


class PaymentChain(Protocol):
    """The outcome of a payment on its network, where the settling was interrupted."""

    async def outcome(self, payment: Payment) -> Settlement:
        """``settled`` and ``failed`` are final, ``unknown`` is "not yet". Raises ``ChainError`` when it cannot say."""
        ...

    async def close(self) -> None: ...
