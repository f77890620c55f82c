"""What a subscriber is sent: the JSON of a notice.

Owns the form: the members that Standard Webhooks advises (``type``, ``timestamp``, ``data``). It is made once for each
delivery and sent as it is in every attempt.
"""

from __future__ import annotations

import msgspec

from trustgate.ids import iso_us
from trustgate.observe.notices import Notice

_MESSAGE_MOST = 500


def message_body(notice: Notice, gateway: str) -> str:
    """Returns the JSON for a notice. ``gateway``: the public address of the gateway that it is of."""
    return _encoded(
        f"{notice.kind}.{notice.state}",
        notice.at_us,
        {
            "kind": notice.kind,
            "state": notice.state,
            "condition": notice.identity,
            "subject": notice.subject,
            "message": notice.message[:_MESSAGE_MOST],
            "details": notice.data,
            "gateway": gateway,
        },
    )


def trial_body(at_us: int, gateway: str) -> str:
    """Returns the JSON of ``trustgate notify test``."""
    return _encoded("test", at_us, {"kind": "test", "message": "This is a test of TrustGate's.", "gateway": gateway})


def _encoded(kind: str, at_us: int, data: dict[str, object]) -> str:
    return msgspec.json.encode({"type": kind, "timestamp": iso_us(at_us), "data": data}).decode()
