"""The verbs of the control plane, as data.

Each command is a frozen record whose tag is its name on the wire; ``Admin.execute`` takes one and gives
its result. ``local`` does the work on a store; ``remote`` encodes the command for the server's socket and
``routes`` decodes it there, so the command line works the same whether the server is running or not. A ``Feed`` is a
verb whose answer is too long for one record: a backup, an export.

Here are the form, and the verbs on tenants, keys, plans and the server. The others: ``model_commands``,
``log_commands``, ``budgeting``, ``profiling``, ``money``, ``subscriptions``, ``clustering``, ``consoling``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import msgspec

from trustgate.observe.live_stats import LiveStats, WorkerLoad
from trustgate.types import (
    ApiKey,
    Limits,
    PaymentTerms,
    Plan,
    Scope,
    Tenant,
)

R = TypeVar("R")


class Command(msgspec.Struct, Generic[R], frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One verb. ``result`` is the type ``execute`` gives back, for decoding it on the far side."""

    result: ClassVar[Any]
    #: How long a client waits for the server's answer, seconds. Adding up millions of receipts takes a while.
    timeout_s: ClassVar[float] = 120.0


class Feed(msgspec.Struct, Generic[R], frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A verb that is answered with bytes, as many as there are, and at their end with a ``result``."""

    result: ClassVar[Any]


#: Takes the bytes of a feed, piece by piece, at the pace of the receiver.
Write = Callable[[bytes], Awaitable[None]]


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key and its secret: the only moment the secret is shown."""

    key: ApiKey
    secret: str


class TenantWithKey(msgspec.Struct, frozen=True, kw_only=True):
    tenant: Tenant
    key: ApiKey
    secret: str


class TenantDetail(msgspec.Struct, frozen=True, kw_only=True):
    tenant: Tenant
    plan: Plan
    keys: tuple[ApiKey, ...]
    #: None: it has never had to pay.
    terms: PaymentTerms | None = None


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    pid: int
    #: The public address, "" when the work is done without a server.
    address: str
    started_us: int
    store_id: str
    last_seq: int
    #: Entries in the journal that the database does not have yet.
    pending: int
    active_requests: int
    #: How late the event loop was in the last minute: 99 of 100 times at most, and at worst.
    loop_lag_p99_ms: int = 0
    loop_lag_worst_ms: int = 0
    #: Receipts that the database cannot hold as they are, and that the operator has not accepted yet.
    set_aside: int = 0
    #: What was missing or damaged at the start and could be mended.
    notes: tuple[str, ...] = ()
    targets: tuple[TargetStatus, ...] = ()
    #: Each worker, where there are several; ``pid`` is that of the one that answers, all figures are of all together.
    workers: tuple[WorkerLoad, ...] = ()
    #: How many workers the settings want; 0: one process serves by itself.
    workers_wanted: int = 0


class TargetStatus(msgspec.Struct, frozen=True, kw_only=True):
    base_url: str
    healthy: bool | None
    detail: str
    models: int


# tenants; TENANT is an id or a name everywhere


class TenantAdd(Command[TenantWithKey], frozen=True, kw_only=True, tag="tenant.add"):
    name: str
    plan: str = "pro"
    #: What it is billed of what models cost, millionths; None: its plan's factor.
    price_factor_ppm: int | None = None
    result = TenantWithKey


class TenantList(Command[tuple[Tenant, ...]], frozen=True, kw_only=True, tag="tenant.list"):
    removed: bool = False
    result = tuple[Tenant, ...]


class TenantShow(Command[TenantDetail], frozen=True, kw_only=True, tag="tenant.show"):
    tenant: str
    result = TenantDetail


class TenantSet(Command[Tenant], frozen=True, kw_only=True, tag="tenant.set"):
    tenant: str
    name: str | None = None
    plan: str | None = None
    price_factor_ppm: int | None = None
    #: It is billed by its plan's factor again.
    factor_by_plan: bool = False
    result = Tenant


class TenantSuspend(Command[Tenant], frozen=True, kw_only=True, tag="tenant.suspend"):
    tenant: str
    result = Tenant


class TenantResume(Command[Tenant], frozen=True, kw_only=True, tag="tenant.resume"):
    tenant: str
    result = Tenant


class TenantRemove(Command[Tenant], frozen=True, kw_only=True, tag="tenant.remove"):
    tenant: str
    result = Tenant


class TenantRestore(Command[TenantDetail], frozen=True, kw_only=True, tag="tenant.restore"):
    """Undo a removal: the keys that it revoked work again. ``name`` and ``plan``: where its own are taken or gone."""

    tenant: str
    name: str | None = None
    plan: str | None = None
    result = TenantDetail


# keys; KEY is an id, ``sha256:`` and the hash of its secret, or what only one key has: the redacted secret, or a name


class KeyCreate(Command[NewKey], frozen=True, kw_only=True, tag="key.create"):
    """``expires_in_s`` seconds from now, or at ``expires_us``; neither: it does not expire."""

    tenant: str
    name: str = "default"
    expires_in_s: int | None = None
    expires_us: int | None = None
    limits: Limits = Limits()
    scope: Scope = Scope()
    #: The id of the tenant's key that asks for it, where the tenant does and not the operator (admin.own_keys).
    by_key: str = ""
    result = NewKey


class KeyList(Command[tuple[ApiKey, ...]], frozen=True, kw_only=True, tag="key.list"):
    tenant: str | None = None
    revoked: bool = False
    result = tuple[ApiKey, ...]


class KeyShow(Command[ApiKey], frozen=True, kw_only=True, tag="key.show"):
    key: str
    result = ApiKey


class KeySet(Command[ApiKey], frozen=True, kw_only=True, tag="key.set"):
    """Change a key and keep its secret. What is not given stays."""

    key: str
    name: str | None = None
    #: Limits by field name; None lifts a limit.
    limits: dict[str, int | None] = {}
    #: Scope by field name: models, endpoints, features, parameters; ``*`` is what the plan allows.
    scope: dict[str, tuple[str, ...]] = {}
    expires_in_s: int | None = None
    expires_us: int | None = None
    #: It does not expire any more.
    never_expires: bool = False
    #: As of ``KeyCreate``.
    by_key: str = ""
    result = ApiKey


class KeyRevoke(Command[ApiKey], frozen=True, kw_only=True, tag="key.revoke"):
    """Revoke a key, and with it the keys that it has made."""

    key: str
    #: As of ``KeyCreate``.
    by_key: str = ""
    result = ApiKey


class KeyRotate(Command[NewKey], frozen=True, kw_only=True, tag="key.rotate"):
    """A new secret with the old key's rights; the old one ends after the grace, or at a time."""

    key: str
    grace_s: int = 0
    until_us: int | None = None
    result = NewKey


# plans


class PlanPut(Command[Plan], frozen=True, kw_only=True, tag="plan.put"):
    """Add a plan (``create``) or change one. What is not given stays, of a new one as it is in the plan ``like``."""

    name: str
    create: bool = False
    like: str | None = None
    #: Limits by field name; None lifts a limit.
    limits: dict[str, int | None] = {}
    #: Scope by field name: models, endpoints, features, parameters.
    scope: dict[str, tuple[str, ...]] = {}
    on_disconnect: Literal["abort", "drain"] | None = None
    #: Millionths; 1,000,000 bills what models cost.
    price_factor_ppm: int | None = None
    unpriced_models: Literal["refuse", "allow"] | None = None
    #: How many keys at once each tenant may make for itself; 0: none.
    own_keys: int | None = None
    result = Plan


class PlanList(Command[tuple[Plan, ...]], frozen=True, kw_only=True, tag="plan.list"):
    result = tuple[Plan, ...]


class PlanShow(Command[Plan], frozen=True, kw_only=True, tag="plan.show"):
    name: str
    result = Plan


class PlanRemove(Command[Plan], frozen=True, kw_only=True, tag="plan.remove"):
    name: str
    result = Plan


# the server


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the settings that have changed: those in effect from now on, and those that need a restart."""

    changed: tuple[str, ...]
    restart: tuple[str, ...]
    #: Those in effect once every worker is replaced, one after the other; that begins now.
    replacing: tuple[str, ...] = ()


class Reload(Command[Reloaded], frozen=True, kw_only=True, tag="reload"):
    """Reload the settings of the running server. ``SettingsError`` for bad ones: the old ones stay."""

    result = Reloaded


class Look(Command[LiveStats], frozen=True, kw_only=True, tag="look"):
    """How a running server is doing just now."""

    result = LiveStats


class Status(Command[ServerStatus], frozen=True, kw_only=True, tag="status"):
    result = ServerStatus


class Admin(Protocol):
    """Carries out commands: locally or through a server."""

    async def execute(self, command: Command[R]) -> R:
        """Do it. Raises the ``TrustGateError`` of the failure: NotFound, Conflict, InvalidRequest …"""
        ...

    async def feed(self, command: Feed[R], write: Write) -> R:
        """Give ``write`` the bytes that the command is answered with. Raises as ``execute``, in the middle too."""
        ...

    async def close(self) -> None: ...
