"""The notices of disputed payments: the buyer's bank takes back what was credited, and the credit can still be used."""

from __future__ import annotations

import shlex

from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.observe.notices import Notice
from trustgate.payment.shop_events import ShopDispute

#: Of what a shop reports no end, nothing is kept for longer: disputes are decided within some months.
_UNTIL_US = 180 * 86_400 * MICROSECONDS_PER_SECOND


def dispute_notice(dispute: ShopDispute, at_us: int) -> Notice:
    """Returns the notice of a dispute's beginning or end: one condition for each dispute."""
    amount = f"{dispute.cents // 100}.{dispute.cents % 100:02}"
    whose = f"that of {dispute.tenant}" if dispute.tenant else "that of the tenant in its checkout"
    back = amount if dispute.currency.lower() == "usd" else "USD"
    command = f"trustgate payment refund-credit {shlex.quote(dispute.tenant or 'TENANT')} --amount {back}"
    return Notice(
        kind="credit",
        subject=dispute.id,
        condition=f"dispute:{dispute.id}",
        state="resolved" if dispute.is_over else "firing",
        message=f"A payment of {amount} {dispute.currency.upper()} is disputed ({dispute.id}), and its credit, "
        f"{whose}, can still be used. Take it back: {command}",
        data={
            "dispute": dispute.id,
            "payment": dispute.payment,
            "tenant": dispute.tenant,
            "amount_cents": dispute.cents,
            "currency": dispute.currency,
        },
        at_us=at_us,
        until_us=at_us + _UNTIL_US,
    )
