"""How long a signed payment can be settled, and by when it therefore is, whether its answer has come or not.

    Solana  until its blockhash is 150 blocks old, some 60 to 90 s after the client took it. How old it is already is
            not known, so the time is counted from its arrival and is short.
    EVM     until the last second that was signed (``validBefore``), where it has one; but it is not kept waiting for
            longer than the offer's ``maxTimeoutSeconds``.

Sources: Solana, "Transaction confirmation and expiration"; EIP-3009; x402 specification, ``maxTimeoutSeconds``.
"""

from __future__ import annotations

from typing import Final

from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.payment.networks import is_solana
from trustgate.payment.payment_key import authorization_of, inner_of
from trustgate.payment.x402_wire import MAX_TIMEOUT_S
from trustgate.types import Payment

#: What settling takes, transaction and all, before an authorization's last second.
_SETTLING_S: Final = 30


def settle_by_us(payment: Payment, solana_s: float) -> int:
    """Returns when a payment is to be settled at the latest, microseconds UTC; it may lie in the past.

    ``solana_s``: how long one on Solana may wait, from its arrival.
    """
    if is_solana(payment.offer.network):
        return payment.created_us + int(solana_s * MICROSECONDS_PER_SECOND)
    offered_us = payment.created_us + (MAX_TIMEOUT_S - _SETTLING_S) * MICROSECONDS_PER_SECOND
    signed = authorization_of(inner_of(payment.payload))
    if signed is None or not signed.valid_before_s:
        return offered_us
    return min(offered_us, (signed.valid_before_s - _SETTLING_S) * MICROSECONDS_PER_SECOND)
