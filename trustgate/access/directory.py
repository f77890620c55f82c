"""Who may call: tenants, keys and plans in memory, looked up by the SHA-256 of a bearer token.

Owns the index that authentication reads. It is filled from the store at start and changed by the admin room
after each durable change, on the one event loop: a change holds from the next request on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType

from trustgate.access.budget_reach import applies
from trustgate.access.end_users import read_sources, salt_of
from trustgate.access.keys import HASH_PREFIX, explain_unknown, hash_secret
from trustgate.access.profiles import effective, key_profile_id, plan_profile_id, tenant_profile_id
from trustgate.errors import AuthenticationFailed, NotFound
from trustgate.formats.likeness import did_you_mean
from trustgate.store import State
from trustgate.types import (
    FACTOR_ONE_PPM,
    WINDOWS,
    ApiKey,
    Budget,
    EndUser,
    Limits,
    PaymentTerms,
    Plan,
    Profile,
    PseudonymKey,
    Scope,
    Tenant,
    matches,
)


class Caller(msgspec.Struct, frozen=True):
    """An authenticated caller: the key, its tenant and the tenant's plan, as of this request."""

    key: ApiKey
    tenant: Tenant
    plan: Plan
    #: SHA-256 (hex) of the plan's and the key's limits and scope, and of the profile: a receipt's ``policy_hash``.
    policy_hash: str
    #: How the tenant pays; None: it owes nothing.
    terms: PaymentTerms | None = None
    #: It pays, or its tokens or money are limited: what is held for a request must bound what the request may use.
    is_metered: bool = False
    #: Its money is limited, and its plan serves no model that has no price: such a limit would not bind.
    wants_prices: bool = False
    #: The same of some models alone: globs over their names.
    priced_models: tuple[str, ...] = ()
    #: Whether it draws on any budget.
    has_budgets: bool = False
    #: It has sent no key: each of its requests is paid for by itself, and it has no balance.
    is_keyless: bool = False
    #: Where its requests name their end users (access.end_users), what pseudonyms are salted with, and what was decided
    #: of end users, by pseudonym: a table that changes.
    end_user_sources: tuple[bytes, ...] = ()
    end_user_salt: bytes = b""
    end_users: dict[str, EndUser] = {}
    #: The rules of its plan, tenant and key for models and their configuration, merged; None: there are none.
    profile: Profile | None = None
    #: Plan and key allow every endpoint, model and feature, in any size.
    is_unrestricted: bool = False
    #: What is billed of what a model costs, in millionths: as the tenant has it, else as its plan does (worked out).
    price_factor_ppm: int = 0

    def __post_init__(self) -> None:
        own = self.tenant.price_factor_ppm
        factor_ppm = self.plan.price_factor_ppm if own is None else own
        msgspec.structs.force_setattr(self, "price_factor_ppm", factor_ppm)

    def wants_price(self, models: tuple[str, ...]) -> bool:
        """Returns whether a model of these names has to have a price."""
        return self.wants_prices or (
            bool(self.priced_models) and any(matches(self.priced_models, name) for name in models)
        )


class Directory:
    def __init__(self, state: State) -> None:
        self._plans = {plan.name: plan for plan in state.plans}
        self._tenants = {tenant.id: tenant for tenant in state.tenants}
        self._keys = {key.id: key for key in state.keys}
        self._terms = {terms.tenant_id: terms for terms in state.payment_terms}
        self._profiles = {profile.id: profile for profile in state.profiles}
        self._pseudonym_key = state.pseudonym_key
        self._budgets = {budget.id: budget for budget in state.budgets}
        #: By tenant and pseudonym. The tables themselves are handed to callers, which look in them at every request.
        self._end_users: dict[str, dict[str, EndUser]] = {}
        for end_user in state.end_users:
            self._end_users.setdefault(end_user.tenant_id, {})[end_user.id] = end_user
        self._tenant_ids = {tenant.name: tenant.id for tenant in state.tenants if tenant.status != "removed"}
        self._key_ids_of: dict[str, dict[str, None]] = {}
        self._key_by_hash: dict[bytes, ApiKey] = {}
        #: Callers already assembled, by key hash; dropped whenever something they are made of changes.
        self._callers: dict[bytes, Caller] = {}
        #: Whom callers without a key are taken for; UNSET until it is wanted.
        self._keyless: Caller | UnsetType | None = UNSET
        for key in state.keys:
            self._index_key(key)

    # what the request path asks

    def authenticate(self, token: bytes, at_us: int, digest: bytes = b"") -> Caller:
        """Returns the caller whose secret this is. ``digest``: of the token (``hash_secret``), where it is known.

        Raises ``AuthenticationFailed`` for a token that is unknown, revoked or expired, or whose tenant is
        suspended or removed.
        """
        digest = digest or hash_secret(token)
        caller = self._callers.get(digest)
        if caller is None:
            caller = self._assemble(digest, token)
        expires_us = caller.key.expires_us
        if expires_us is not None and expires_us <= at_us:
            raise AuthenticationFailed("The API key has expired.", code="api_key_expired")
        return caller

    def known(self, digest: bytes, at_us: int) -> Caller | None:
        """Returns the caller whose secret has this hash, where it may call now and has called before; else None.

        Where this returns None, ``authenticate`` raises the reason.
        """
        caller = self._callers.get(digest)
        if caller is None:
            return None
        expires_us = caller.key.expires_us
        return caller if expires_us is None or expires_us > at_us else None

    def _assemble(self, digest: bytes, token: bytes) -> Caller:
        key = self._key_by_hash.get(digest)
        if key is None:
            raise explain_unknown(token.decode("ascii", "replace"))
        if key.revoked_us is not None:  # at any time: a clock that is set back brings no key back
            raise AuthenticationFailed("The API key has been revoked.", code="api_key_revoked")
        tenant = self._tenants[key.tenant_id]
        if tenant.status != "active":
            raise AuthenticationFailed(f"The account of this API key is {tenant.status}.", code="account_inactive")
        plan = self._plans[tenant.plan]
        terms = self._owing(tenant.id)
        is_metered = terms is not None or _limits_use(plan.limits) or _limits_use(key.limits)
        wants_prices = plan.unpriced_models == "refuse" and (limits_money(plan.limits) or limits_money(key.limits))
        profile = self.effective_profile(tenant, plan, key)
        caller = Caller(
            *(key, tenant, plan, _policy_hash(tenant, plan, key, profile)),
            terms,
            is_metered,
            wants_prices,
            profile=profile,
            is_unrestricted=all(_bounds_nothing(each.scope, each.limits) for each in (plan, key)),
        )
        budgets = [each for each in self.budgets() if applies(each, tenant.id, key.account_id, plan.name)]
        if budgets:
            caller = _with_budgets(caller, budgets)
        sources = plan.scope.end_users if key.scope.end_users is None else key.scope.end_users
        if sources and self._pseudonym_key is not None:
            caller = msgspec.structs.replace(
                caller,
                end_user_sources=read_sources(sources),
                end_user_salt=salt_of(self._pseudonym_key.secret, tenant.id),
                end_users=self.end_users(tenant.id),
            )
        self._callers[digest] = caller
        return caller

    def is_revoked(self, key_id: str) -> bool:
        key = self._keys.get(key_id)
        return key is None or key.revoked_us is not None

    def is_current(self, caller: Caller) -> bool:
        """Returns whether a caller is as it was when it was authenticated: no record of it has changed since."""
        return caller is self._keyless or self._callers.get(bytes.fromhex(caller.key.secret_sha256)) is caller

    def keyless(self, at_us: int) -> Caller | None:
        """Returns the caller that a request without a key is taken for: one of the tenant that sells without a key.

        None while nothing is sold without a key.
        """
        if self._keyless is UNSET:
            self._keyless = self._find_keyless()
        caller = self._keyless
        if not isinstance(caller, Caller):
            return None
        expires_us = caller.key.expires_us
        return None if expires_us is not None and expires_us <= at_us else caller

    def _find_keyless(self) -> Caller | None:
        for terms in self._terms.values():
            key = self._keys.get(terms.keyless_key_id)
            if key is None or not terms.offers or self._owing(terms.tenant_id) is None:
                continue
            if key.revoked_us is None and self._tenants[key.tenant_id].status == "active":
                caller = self._assemble(bytes.fromhex(key.secret_sha256), b"")
                # What strangers say of themselves is not to be counted on.
                return msgspec.structs.replace(caller, is_keyless=True, end_user_sources=())
        return None

    def caller_of(self, tenant: Tenant, key: ApiKey | None) -> Caller:
        """Returns the caller that a key is of its tenant; without one, what is alike for all of the tenant's keys.

        Raises ``AuthenticationFailed`` where the key is dead, or its tenant suspended or removed.
        """
        if key is not None:
            return self._assemble(bytes.fromhex(key.secret_sha256), b"")
        plan = self._plans[tenant.plan]
        profile = self.effective_profile(tenant, plan, None)
        any_key = ApiKey(id="", tenant_id=tenant.id, name="", secret_sha256="", redacted="")
        wants_prices = plan.unpriced_models == "refuse" and limits_money(plan.limits)
        policy_hash = _policy_hash(tenant, plan, any_key, profile)
        terms = self._owing(tenant.id)
        return Caller(any_key, tenant, plan, policy_hash, terms, wants_prices=wants_prices, profile=profile)

    def limited(self) -> set[str]:
        """Returns the ids of tenants and the account ids of keys that any limit is set for."""
        plans = {plan.name for plan in self._plans.values() if plan.limits != Limits()}
        found = {tenant.id for tenant in self._tenants.values() if tenant.plan in plans}
        return found | {key.account_id for key in self._keys.values() if key.limits != Limits()}

    def subjects(self) -> set[str]:
        """Returns the ids of all tenants and the account ids of all keys."""
        return self._tenants.keys() | {key.account_id for key in self._keys.values()}

    def owner(self, tenant_id: str, key_id: str) -> Caller | None:
        """Whose account work of before is on, whatever has become of the key; None where nothing is known of them."""
        key = self._keys.get(key_id)
        tenant = self._tenants.get(tenant_id)
        if key is None or key.tenant_id != tenant_id:
            key = next(iter(self.keys_of(tenant_id)), None)
        if key is None or tenant is None:
            return None
        # The plan of a tenant that was removed may be, too: what it still owes is billed as it costs.
        plan = self._plans.get(tenant.plan) or Plan(name=tenant.plan)
        has_budgets = any(applies(each, tenant_id, key.account_id, plan.name) for each in self.budgets())
        profile = self.effective_profile(tenant, plan, key)
        return Caller(
            *(key, tenant, plan, _policy_hash(tenant, plan, key, profile)),
            self._owing(tenant_id),
            has_budgets=has_budgets,
            profile=profile,
        )

    # what the admin room changes

    def put(self, record: Tenant | ApiKey | Plan | PaymentTerms | Budget | EndUser | PseudonymKey | Profile) -> None:
        """Take a new or changed record; it holds from the next request on."""
        self._keyless = UNSET
        if isinstance(record, ApiKey):
            self._keys[record.id] = record
            self._index_key(record)
            self._callers.pop(bytes.fromhex(record.secret_sha256), None)
            return
        if isinstance(record, Tenant):
            old = self._tenants.get(record.id)
            if old is not None and self._tenant_ids.get(old.name) == old.id:
                del self._tenant_ids[old.name]
            if record.status != "removed":
                self._tenant_ids[record.name] = record.id
            self._tenants[record.id] = record
            self._forget_callers(record.id)
            return
        if isinstance(record, PaymentTerms):
            self._terms[record.tenant_id] = record
            self._forget_callers(record.tenant_id)
            return
        if isinstance(record, EndUser):
            self._end_users.setdefault(record.tenant_id, {})[record.id] = record
            return
        if isinstance(record, Budget):
            self._budgets[record.id] = record
        elif isinstance(record, PseudonymKey):
            self._pseudonym_key = record
        elif isinstance(record, Profile):
            self._profiles[record.id] = record
        else:
            self._plans[record.name] = record
        self._callers.clear()

    def remove(self, plan: Plan) -> None:
        self._plans.pop(plan.name, None)

    def _owing(self, tenant_id: str) -> PaymentTerms | None:
        terms = self._terms.get(tenant_id)
        return None if terms is None or terms.mode == "off" else terms

    def _forget_callers(self, tenant_id: str) -> None:
        for key in self.keys_of(tenant_id):
            self._callers.pop(bytes.fromhex(key.secret_sha256), None)

    def _index_key(self, key: ApiKey) -> None:
        self._key_by_hash[bytes.fromhex(key.secret_sha256)] = key
        self._key_ids_of.setdefault(key.tenant_id, {})[key.id] = None

    # what people look up

    def tenant(self, ref: str) -> Tenant:
        """Returns the tenant of this id or name. Raises ``NotFound``."""
        tenant = self._tenants.get(ref) or self._tenants.get(self._tenant_ids.get(ref, ""))
        if tenant is None:
            hint = did_you_mean(ref, self._tenant_ids, "trustgate tenant list")
            raise NotFound(f"There is no tenant {ref!r}.", hint=hint, code="tenant_not_found")
        return tenant

    def key(self, ref: str) -> ApiKey:
        """Returns the key of this id, of this secret's hash (``access.keys.reference``), or with this redacted form
        or this name where only one has it; of names, keys that are not revoked count. Raises ``NotFound``.
        """
        if ref.startswith(HASH_PREFIX):
            return self._key_of_hash(ref.removeprefix(HASH_PREFIX))
        key = self._keys.get(ref)
        if key is None:
            alike = [key for key in self._keys.values() if key.redacted == ref]
            if not alike:
                alike = [key for key in self._keys.values() if key.name == ref and key.revoked_us is None]
            if len(alike) > 1:
                raise NotFound(
                    f"{len(alike)} keys are called {ref!r}: name one by its id.",
                    hint="trustgate key list",
                    code="key_not_found",
                )
            if not alike:
                raise NotFound(f"There is no key {ref!r}.", hint="trustgate key list", code="key_not_found")
            key = alike[0]
        return key

    def _key_of_hash(self, digest: str) -> ApiKey:
        found = [key for key in self._keys.values() if key.secret_sha256 == digest]
        if not found:
            raise NotFound("No key here has this secret.", hint="trustgate key list", code="key_not_found")
        return found[0]

    def key_account_id(self, key_id: str) -> str:
        """Returns what a key's use is counted under; the id itself for a key that is not known."""
        key = self._keys.get(key_id)
        return key_id if key is None else key.account_id

    def plan(self, name: str) -> Plan:
        plan = self._plans.get(name)
        if plan is None:
            known = ", ".join(sorted(self._plans))
            raise NotFound(f"There is no plan {name!r}.", hint=f"The plans are: {known}.", code="plan_not_found")
        return plan

    def terms(self, tenant_id: str) -> PaymentTerms | None:
        """Returns how a tenant pays, switched off or not; None where that was never said."""
        return self._terms.get(tenant_id)

    def all_terms(self) -> Iterable[PaymentTerms]:
        return self._terms.values()

    def budgets(self) -> list[Budget]:
        """Returns the budgets that hold, in the order in which they were added."""
        return [budget for budget in self._budgets.values() if budget.removed_us is None]

    def removed_budgets(self) -> list[Budget]:
        """Returns the budgets that were removed."""
        return [budget for budget in self._budgets.values() if budget.removed_us is not None]

    def budget(self, ref: str) -> Budget:
        """Returns the budget of this id or name. Raises ``NotFound``, for a removed one too."""
        found = next((budget for budget in self.budgets() if ref in (budget.id, budget.name)), None)
        if found is None:
            hint = did_you_mean(ref, [budget.name for budget in self.budgets()], "trustgate budget list")
            raise NotFound(f"There is no budget {ref!r}.", hint=hint, code="budget_not_found")
        return found

    def profile(self, profile_id: str) -> Profile | None:
        """Returns a profile as it was set (``types.Profile``); None where none was."""
        return self._profiles.get(profile_id)

    def profiles(self) -> Iterable[Profile]:
        """Returns all as they were set, those without rules included."""
        return self._profiles.values()

    def effective_profile(self, tenant: Tenant, plan: Plan, key: ApiKey | None) -> Profile | None:
        """Returns what holds for a key of a tenant, or for all of its keys alike; None where nothing was set."""
        if not self._profiles:
            return None
        ids = [plan_profile_id(plan.name), tenant_profile_id(tenant.id)]
        ids += [] if key is None else [key_profile_id(key.account_id)]
        return effective(self._profiles.get(each) for each in ids)

    @property
    def pseudonym_key(self) -> PseudonymKey | None:
        """What end users' pseudonyms are made with; None until it is first wanted."""
        return self._pseudonym_key

    def end_users(self, tenant_id: str) -> dict[str, EndUser]:
        """Returns what was decided of end users of a tenant, by pseudonym."""
        return self._end_users.setdefault(tenant_id, {})

    def all_end_users(self) -> Iterable[EndUser]:
        return (end_user for of_tenant in self._end_users.values() for end_user in of_tenant.values())

    def plan_name_of(self, tenant_id: str) -> str:
        """Returns the name of a tenant's plan; "" for a tenant that is not known."""
        tenant = self._tenants.get(tenant_id)
        return "" if tenant is None else tenant.plan

    def tenants(self) -> Iterable[Tenant]:
        return self._tenants.values()

    def keys(self) -> Iterable[ApiKey]:
        return self._keys.values()

    def plans(self) -> Iterable[Plan]:
        return self._plans.values()

    def keys_of(self, tenant_id: str) -> list[ApiKey]:
        return [self._keys[key_id] for key_id in self._key_ids_of.get(tenant_id, ())]

    def keys_of_account(self, account_id: str) -> list[ApiKey]:
        """Returns the key of this id and those that go back to it by rotations; none where it is no key's."""
        first = self._keys.get(account_id)
        return [] if first is None else [key for key in self.keys_of(first.tenant_id) if key.account_id == account_id]


def _with_budgets(caller: Caller, budgets: list[Budget]) -> Caller:
    hard = [budget for budget in budgets if budget.hard]
    money = (
        [budget for budget in hard if budget.unit == "cost_nano_usd"] if caller.plan.unpriced_models == "refuse" else []
    )
    return msgspec.structs.replace(
        caller,
        has_budgets=True,
        is_metered=caller.is_metered or any(budget.unit != "requests" for budget in hard),
        wants_prices=caller.wants_prices or any(budget.covers_all_models for budget in money),
        priced_models=tuple(dict.fromkeys(glob for budget in money for glob in budget.models)),
    )


def _bounds_nothing(scope: Scope, limits: Limits) -> bool:
    """Returns whether every endpoint, model and feature is allowed, in any size."""
    return (
        all("*" in globs for globs in (scope.models, scope.endpoints, scope.features))
        and limits.max_tokens is None
        and limits.max_prompt_tokens is None
    )


def _limits_use(limits: Limits) -> bool:
    """Returns whether they limit tokens or money, in a request or in a window."""
    return limits.max_tokens is not None or any(
        getattr(limits, f"{unit}_per_{window}") is not None
        for unit in ("tokens", "cost_nano_usd")
        for window in WINDOWS
    )


def limits_money(limits: Limits) -> bool:
    """Returns whether they limit what may be spent in any window."""
    return any(getattr(limits, f"cost_nano_usd_per_{window}") is not None for window in WINDOWS)


def _policy_hash(tenant: Tenant, plan: Plan, key: ApiKey, profile: Profile | None) -> str:
    policy: tuple[object, ...] = (plan.name, plan.limits, plan.scope, plan.on_disconnect, key.limits, key.scope)
    if plan.price_factor_ppm != FACTOR_ONE_PPM or plan.unpriced_models != "refuse":
        policy += (plan.price_factor_ppm, plan.unpriced_models)
    if tenant.price_factor_ppm is not None:
        policy += ({"price_factor_ppm": tenant.price_factor_ppm},)
    if profile is not None:
        policy += ({"profile": profile.id},)
    return hashlib.sha256(msgspec.json.encode(policy, order="sorted")).hexdigest()
