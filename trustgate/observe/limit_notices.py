"""The notices of limits: that a plan's or a key's limit for a day or a month refuses requests."""

from __future__ import annotations

from trustgate.access.quota import LimitReached
from trustgate.ids import iso_us
from trustgate.observe.notices import Notice


def limit_notice(reached: LimitReached, tenant_name: str) -> Notice:
    """Returns the notice of a limit that has no room: one condition for each limit and window."""
    whose = f"key {reached.key_id} of {tenant_name}" if reached.key_id else f"{tenant_name} (its plan)"
    unit = "spending" if reached.unit == "cost_nano_usd" else reached.unit
    return Notice(
        kind="limit",
        subject=reached.key_id or reached.tenant_id,
        condition=f"{reached.key_id or reached.tenant_id}:{reached.unit}:{reached.window}:{reached.until_us}",
        message=f"Requests of {whose} are refused: the limit on {unit} a {reached.window} has no room for them. "
        f"It resets at {iso_us(reached.until_us)}.",
        data={
            "tenant": reached.tenant_id,
            "key": reached.key_id or None,
            "window": reached.window,
            "unit": reached.unit,
            "limit": reached.most,
            "resets_us": reached.until_us,
        },
        at_us=reached.at_us,
        until_us=reached.until_us,
    )
