"""What operators change, of all kinds; and who is sent notices."""

from __future__ import annotations

import msgspec

from trustgate.types.callers import ApiKey, Budget, EndUser, Plan, Tenant
from trustgate.types.catalog import Alias, Passport, Profile
from trustgate.types.payments import PaymentTerms


class Subscriber(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="subscriber"):
    """Who is sent notices: a webhook (``url``) or a program (``command``), one of the two."""

    id: str
    name: str
    #: Which notices, by ``observe.notices.Kind``; ``all`` for every one, those of later versions included.
    kinds: tuple[str, ...] = ("all",)
    url: str = ""
    #: The program, by its whole path, and its arguments.
    command: tuple[str, ...] = ()
    #: The webhook may be at a private address, and without TLS.
    is_private: bool = False
    #: What a webhook's messages are signed with, ``whsec_`` and base64; shown once, when it is made.
    secret: str = ""
    created_us: int = 0
    removed_us: int | None = None


#: What an operator can change. Plans are known by name, aliases by name, terms by their tenant, the rest by id (of a
#: profile, whose it is).
Record = Tenant | ApiKey | Plan | Passport | Alias | PaymentTerms | Budget | EndUser | Subscriber | Profile
