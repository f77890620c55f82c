"""What a payment's receipt and the ledger have to agree on, for the audit of the books.

Owns which members of a receipt describe its payment, and the form in which the audit keeps them of every payment at
once: one integer each, the receipt's place in the log above a hash of what it records.
"""

from __future__ import annotations

from collections.abc import Iterator

from trustgate.types import COUNTED, Payment, Receipt

_HASH_BITS = 64


def payment_number(payment_id: str) -> int:
    """Returns the digits of an id as a number, which takes less memory; of anything else its hash."""
    try:
        return int(payment_id.removeprefix("pay_"), 16)
    except ValueError:
        return hash(payment_id)


def pack(seq: int, recorded: tuple[object, ...]) -> int:
    """Returns a receipt's place in the log and a hash of what it records, as one integer."""
    return seq << _HASH_BITS | hash(recorded) & (1 << _HASH_BITS) - 1


def seq_of(packed: int) -> int:
    """Returns the place in the log of a receipt that was packed."""
    return packed >> _HASH_BITS


def recorded_by(receipt: Receipt) -> tuple[object, ...]:
    """Returns the members of a receipt that describe its payment."""
    return (
        *(receipt.tenant, receipt.key, receipt.credited_nano_usd, receipt.payment_amount, receipt.payment_asset),
        *(receipt.payment_network, receipt.payment_transaction, receipt.payment_payer),
        "" if receipt.finish == "credited" else receipt.id,
    )


def expected_of(payment: Payment) -> tuple[object, ...]:
    """Returns what the receipt of a payment at its end records; of one that is open, what no receipt does."""
    offer = payment.offer
    return (
        *(payment.tenant_id, payment.key_id, payment.value_nano_usd, payment.amount, offer.asset),
        *(offer.network, payment.transaction, payment.payer),
        {"delivered": payment.receipt_id, "credited": ""}.get(payment.state),
    )


def figures_of(receipt: Receipt, payment: Payment) -> Iterator[tuple[str, object, object]]:
    """Yields what a receipt and the ledger both say of a payment: the figure's name, the receipt's, the ledger's."""
    offer = payment.offer
    yield "tenant", receipt.tenant, payment.tenant_id
    yield "key", receipt.key, payment.key_id
    yield "value", receipt.credited_nano_usd, payment.value_nano_usd
    yield "amount", receipt.payment_amount, payment.amount
    yield "asset", receipt.payment_asset, offer.asset
    yield "network", receipt.payment_network, offer.network
    yield "transaction", receipt.payment_transaction, payment.transaction
    yield "payer", receipt.payment_payer, payment.payer
    if payment.state == "delivered":
        yield "receipt", receipt.id, payment.receipt_id
    if payment.state in ("delivered", "credited"):
        # Of a request whose answer broke off, or failed after it was paid for, the payment is on the balance.
        is_delivered = receipt.finish in COUNTED and (receipt.finish != "upstream_cut" or payment.state == "delivered")
        yield "end", "delivered" if is_delivered else "credited", payment.state
