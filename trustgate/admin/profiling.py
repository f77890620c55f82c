"""The verbs on profiles, as data. A profile is a plan's, a tenant's or a key's: one of the three is named."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from trustgate.admin.commands import Command
from trustgate.types import Prices, ProfileRules


class ProfileState(msgspec.Struct, frozen=True, kw_only=True):
    """A profile as it was set, and whose it is, for people."""

    #: ``plan:NAME``, ``tenant:ID`` or ``key:ID``.
    id: str
    kind: Literal["plan", "tenant", "key"]
    #: The plan's or the tenant's name, the key in its redacted form.
    owner: str
    rules: ProfileRules
    changed_us: int


class ProfilePut(Command[ProfileState], frozen=True, kw_only=True, tag="profile.put"):
    """Add to a profile. What is not given stays; of a table, other entries."""

    plan: str | None = None
    tenant: str | None = None
    key: str | None = None
    rules: ProfileRules = ProfileRules()
    #: By the member's name: the entries of a table to take away; of another member an empty tuple takes it away.
    removed: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - msgspec copies it
    #: The fees of keys of the tenant's own, by passport, nano-USD a request.
    fees: dict[str, int] = {}  # noqa: RUF012
    result = ProfileState


class ProfileShow(Command[ProfileState], frozen=True, kw_only=True, tag="profile.show"):
    """``is_merged``: with what a key has by its tenant and its plan, or a tenant by its plan."""

    plan: str | None = None
    tenant: str | None = None
    key: str | None = None
    is_merged: bool = False
    result = ProfileState


class ProfileClear(Command[ProfileState], frozen=True, kw_only=True, tag="profile.clear"):
    """Take away all rules; gives those that there were."""

    plan: str | None = None
    tenant: str | None = None
    key: str | None = None
    result = ProfileState


class ProfileList(Command[tuple[ProfileState, ...]], frozen=True, kw_only=True, tag="profile.list"):
    result = tuple[ProfileState, ...]


class ResolvedTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A passport that may answer, as the request would be sent there."""

    passport: str
    passport_id: str
    provider: str
    #: The upstream's name for the model.
    model: str
    #: "" for the default upstream.
    base_url: str
    #: Where the upstream's key is found, for people; and whether that is one of the tenant's own.
    credential: str
    has_own_key: bool
    prices: Prices
    price_source: str
    is_priced: bool
    #: Of a fallback: its rank; None: it is the model's own passport.
    rank: int | None = None
    #: Of a fallback: it is for prompts that are too long for the others.
    only_too_long: bool = False
    default_parameters: dict[str, Any] = {}


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for a model would get, and why."""

    model: str
    tenant: str
    plan: str
    #: In its redacted form; "" where no key was named.
    key: str
    #: The profiles that have rules here, the widest first, and their rules merged.
    profiles: tuple[str, ...]
    rules: ProfileRules
    #: The passport's own name for what was asked for; "" where the name means nothing.
    passport: str
    #: Those that the rules let serve, in the order of preference; within a rank the weights decide.
    targets: tuple[ResolvedTarget, ...]
    is_allowed: bool
    #: What a request would be refused with; "" where it is allowed.
    refusal: str
    code: str
    #: Each step as a sentence.
    steps: tuple[str, ...]


class PassportResolve(Command[Resolution], frozen=True, kw_only=True, tag="passport.resolve"):
    """Explain what a name means to a tenant, or to a key of its. ``model`` "": of a request that names none."""

    model: str
    tenant: str
    key: str | None = None
    result = Resolution
