"""The commands on profiles, and the explanation of what a name means to a tenant."""

from __future__ import annotations

import shlex
from typing import Any

from msgspec.structs import replace

from trustgate.access.directory import Caller
from trustgate.access.plans import check_plan, check_priced
from trustgate.access.profiles import key_profile_id, merged, plan_profile_id, tenant_profile_id
from trustgate.admin.context import AdminContext
from trustgate.admin.own_keys import check_binds
from trustgate.admin.profiling import (
    PassportResolve,
    ProfileClear,
    ProfileList,
    ProfilePut,
    ProfileShow,
    ProfileState,
    Resolution,
    ResolvedTarget,
)
from trustgate.errors import InvalidRequest, NotFound, TrustGateError
from trustgate.ids import new_id, now_us
from trustgate.models.catalog import Resolved
from trustgate.models.prices import price_hash
from trustgate.models.profiles import check_rules, fee_prices, preference, summed_up
from trustgate.types import Fallback, OwnCredential, Plan, PriceChange, Profile, ProfileRules

_NOTHING = ProfileRules()
_Whose = ProfilePut | ProfileShow | ProfileClear


async def profile_put(context: AdminContext, command: ProfilePut) -> ProfileState:
    state = _state(context, command)
    rules = _without(state.rules, command.removed)
    given = replace(command.rules, credentials=_with_slugs(context, rules, command.rules.credentials))
    rules = merged((rules, given))
    rules = replace(rules, credentials=_with_fees(context, rules.credentials, command.fees))
    check_rules(rules)
    _check_models(context, rules)
    if command.key is not None and rules != _NOTHING:
        check_binds(context, context.directory.key(command.key), "A profile of a key")
    at_us = now_us()
    await context.keep(Profile(id=state.id, rules=rules, changed_us=at_us), *_fee_changes(state, rules, at_us))
    return replace(state, rules=rules, changed_us=at_us)


async def profile_show(context: AdminContext, command: ProfileShow) -> ProfileState:
    state = _state(context, command)
    return replace(state, rules=merged(_rules_of(context, command))) if command.is_merged else state


async def profile_clear(context: AdminContext, command: ProfileClear) -> ProfileState:
    state = _state(context, command)
    if state.rules == _NOTHING:
        raise NotFound(
            f"The {state.kind} {state.owner} has no profile.", hint="trustgate profile list", code="profile_not_found"
        )
    await context.keep(Profile(id=state.id, changed_us=now_us()))
    return state


async def profile_list(context: AdminContext, command: ProfileList) -> tuple[ProfileState, ...]:
    return tuple(_described(context, each) for each in context.directory.profiles() if each.rules != _NOTHING)


async def forget_profile_of(context: AdminContext, plan: Plan) -> None:
    """Take away the rules of a plan that is removed: another plan of its name begins without them."""
    profile = context.directory.profile(plan_profile_id(plan.name))
    if profile is not None and profile.rules != _NOTHING:
        await context.keep(Profile(id=profile.id, changed_us=now_us()))


# whose it is


def _state(context: AdminContext, command: _Whose) -> ProfileState:
    """Returns the profile that a command names, without rules where none was set."""
    if sum(each is not None for each in (command.plan, command.tenant, command.key)) != 1:
        raise InvalidRequest(
            "A profile is a plan's, a tenant's or a key's.", hint="Give one of --plan, --tenant and --key."
        )
    directory = context.directory
    if command.plan is not None:
        profile_id = plan_profile_id(directory.plan(command.plan).name)
    elif command.tenant is not None:
        profile_id = tenant_profile_id(context.tenant(command.tenant).id)
    else:
        profile_id = key_profile_id(directory.key(command.key or "").account_id)
    return _described(context, directory.profile(profile_id) or Profile(id=profile_id))


def _described(context: AdminContext, profile: Profile) -> ProfileState:
    kind, _, ref = profile.id.partition(":")
    owner = ref
    try:
        if kind == "tenant":
            owner = context.directory.tenant(ref).name
        elif kind == "key":
            owner = context.directory.key(ref).redacted
    except NotFound:
        pass  # restored without it: its id has to do
    return ProfileState(
        id=profile.id,
        kind="plan" if kind == "plan" else "tenant" if kind == "tenant" else "key",
        owner=owner,
        rules=profile.rules,
        changed_us=profile.changed_us,
    )


def _rules_of(context: AdminContext, command: ProfileShow) -> list[ProfileRules]:
    directory = context.directory
    ids = []
    tenant = None if command.tenant is None else context.tenant(command.tenant)
    if command.key is not None:
        key = directory.key(command.key)
        ids, tenant = [key_profile_id(key.account_id)], directory.tenant(key.tenant_id)
    if tenant is not None:
        ids = [plan_profile_id(tenant.plan), tenant_profile_id(tenant.id), *ids]
    elif command.plan is not None:
        ids = [plan_profile_id(command.plan)]
    return [profile.rules for each in ids if (profile := directory.profile(each)) is not None]


# changing the rules


def _without(rules: ProfileRules, removed: dict[str, tuple[str, ...]]) -> ProfileRules:
    members: dict[str, Any] = {}
    for name, entries in removed.items():
        if name not in ProfileRules.__struct_fields__:
            raise InvalidRequest(f"There is no {name} in a profile.")
        value = getattr(rules, name)
        if not isinstance(value, dict):
            members[name] = None
            continue
        missing = [entry for entry in entries if entry not in value]
        if missing:
            raise InvalidRequest(f"The profile has no {missing[0]!r} among its {name}.", param=name)
        members[name] = {entry: each for entry, each in value.items() if entry not in entries}
    return replace(rules, **members)


def _with_slugs(
    context: AdminContext, rules: ProfileRules, given: dict[str, OwnCredential]
) -> dict[str, OwnCredential]:
    """Returns the credentials by the slugs of their passports; another place of a key keeps its fee."""
    found = {}
    for ref, own in given.items():
        slug = context.catalog.passport(ref).slug
        before = rules.credentials.get(slug)
        found[slug] = own if before is None or own.fee_nano_usd else replace(own, fee_nano_usd=before.fee_nano_usd)
    return found


def _with_fees(
    context: AdminContext, credentials: dict[str, OwnCredential], fees: dict[str, int]
) -> dict[str, OwnCredential]:
    changed = dict(credentials)
    for ref, fee_nano_usd in fees.items():
        slug = context.catalog.passport(ref).slug
        if slug not in changed:
            raise InvalidRequest(
                f"A fee is for requests with an upstream key of the tenant's own, and there is none for {slug}.",
                hint=f"Name it too: --credential-env {shlex.quote(slug)}=VARIABLE",
                param="fees",
            )
        changed[slug] = replace(changed[slug], fee_nano_usd=fee_nano_usd)
    return changed


def _check_models(context: AdminContext, rules: ProfileRules) -> None:
    """Raise ``NotFound`` for a name that leads to no passport."""
    default = rules.default_model
    targets = [*rules.names.values(), *([default] if default is not None and default not in rules.names else [])]
    for target in targets:
        if "*" in target or context.catalog.resolve(target) is None:
            raise NotFound(
                f"There is no model {target!r}.",
                hint=f"See trustgate passport list, or add it: trustgate passport add {shlex.quote(target)}",
                code="passport_not_found",
            )


def _fee_changes(state: ProfileState, rules: ProfileRules, at_us: int) -> list[PriceChange]:
    """What the history of prices gets, so that the ``price_hash`` of a receipt with a fee is found in it."""
    before = {own.fee_nano_usd for own in state.rules.credentials.values()}
    return [
        PriceChange(
            id=new_id("price", at_us),
            passport_id=state.id,
            slug=slug,
            price_hash=price_hash(fee_prices(own)),
            prices=fee_prices(own),
            source=f"the fee of the {state.kind} {state.owner} for requests with an upstream key of its own",
            from_us=at_us,
        )
        for slug, own in rules.credentials.items()
        if own.fee_nano_usd not in before
    ]


# explaining


async def passport_resolve(context: AdminContext, command: PassportResolve) -> Resolution:
    tenant = context.tenant(command.tenant)
    key = None if command.key is None else context.directory.key(command.key)
    if key is not None and key.tenant_id != tenant.id:
        raise NotFound(
            f"The tenant {tenant.name} has no key {command.key!r}.",
            hint=f"trustgate key list {shlex.quote(tenant.name)}",
            code="key_not_found",
        )
    caller = context.directory.caller_of(tenant, key)
    rules = _NOTHING if caller.profile is None else caller.profile.rules
    name = command.model or rules.default_model or ""
    resolved = context.catalog.resolve(name, caller.profile) if name else None
    targets = () if resolved is None else tuple(_targets(context, caller, resolved))
    refusal = _refusal(caller, name, resolved)
    profiles = _said(context, caller)
    return Resolution(
        model=command.model,
        tenant=tenant.name,
        plan=caller.plan.name,
        key="" if key is None else key.redacted,
        profiles=profiles,
        rules=rules,
        passport="" if resolved is None else resolved.passport.slug,
        targets=targets,
        is_allowed=refusal is None,
        refusal="" if refusal is None else refusal.message,
        code="" if refusal is None else refusal.code or "",
        steps=tuple(_steps(context, command, caller, profiles, resolved, targets, refusal)),
    )


def _said(context: AdminContext, caller: Caller) -> tuple[str, ...]:
    ids = [plan_profile_id(caller.plan.name), tenant_profile_id(caller.tenant.id)]
    ids += [key_profile_id(caller.key.account_id)] if caller.key.id else []
    found = (context.directory.profile(each) for each in ids)
    return tuple(profile.id for profile in found if profile is not None and profile.rules != _NOTHING)


def _targets(context: AdminContext, caller: Caller, resolved: Resolved) -> list[ResolvedTarget]:
    profile = caller.profile
    found: list[tuple[Resolved, Fallback | None]] = []
    if profile is None or context.catalog.may_serve(profile, resolved):
        found.append((resolved, None))
    for fallback in sorted(resolved.passport.fallbacks, key=lambda each: (each.only_too_long, each.rank)):
        other = context.catalog.resolve(fallback.passport)
        if other is not None and (profile is None or context.catalog.may_serve(profile, other)):
            found.append((other if profile is None else context.catalog.under(profile, other), fallback))
    if profile is not None:
        rules = profile.rules
        found.sort(key=lambda each: (_is_for_long(each[1]), preference(rules, each[0].passport)))
    return [_target(each, fallback) for each, fallback in found]


def _is_for_long(fallback: Fallback | None) -> bool:
    return fallback is not None and fallback.only_too_long


def _target(resolved: Resolved, fallback: Fallback | None) -> ResolvedTarget:
    passport = resolved.passport
    where = (
        f"the environment variable {passport.credential_env}"
        if passport.credential_env is not None
        else f"the file {passport.credential_file}"
        if passport.credential_file is not None
        else "the default upstream's"
        if passport.base_url is None
        else "none"
    )
    return ResolvedTarget(
        passport=passport.slug,
        passport_id=passport.id,
        provider=passport.provider,
        model=resolved.upstream_model,
        base_url=passport.base_url or "",
        credential=where,
        has_own_key=resolved.has_own_key,
        prices=resolved.price.prices,
        price_source=resolved.price.source,
        is_priced=resolved.price.known,
        rank=None if fallback is None else fallback.rank,
        only_too_long=_is_for_long(fallback),
        default_parameters=passport.default_parameters,
    )


def _refusal(caller: Caller, name: str, resolved: Resolved | None) -> TrustGateError | None:
    """Returns what a chat completion without further members would be refused with by plan, key and prices."""
    if not name:
        return InvalidRequest("A request must name a model: there is no default model.", param="model")
    if resolved is None:
        return NotFound(f"The model {name!r} does not exist for this tenant.", code="model_not_found", param="model")
    try:
        check_plan(
            caller,
            endpoint="chat.completions",
            model=name,
            model_names=resolved.names,
            features=(),
            max_tokens=None,
            prompt_tokens=0,
        )
        check_priced(caller, name, resolved.passport.slug, resolved.all_names(name), is_priced=resolved.price.known)
    except TrustGateError as error:
        return error
    return None


def _steps(
    context: AdminContext,
    command: PassportResolve,
    caller: Caller,
    profiles: tuple[str, ...],
    resolved: Resolved | None,
    targets: tuple[ResolvedTarget, ...],
    refusal: TrustGateError | None,
) -> list[str]:
    rules = _NOTHING if caller.profile is None else caller.profile.rules
    owners = [_owner_of(context, each) for each in reversed(profiles)]
    steps = [f"Profile: {', before that of '.join(owners)}." if owners else "Profile: none."]
    name = command.model
    if not name and rules.default_model is not None:
        name = rules.default_model
        steps.append(f"Name: none is asked for, so {name!r}, the default model.")
    if not name:
        steps.append("Name: none is asked for, and there is no default model.")
    elif name in rules.names:
        steps.append(f"Name: {name!r} leads to {rules.names[name]!r} by the profile.")
    elif resolved is not None and rules.default_for_unknown and _is_unknown(context, rules, name):
        steps.append(f"Name: {name!r} does not exist, so {rules.default_model!r}, the default model.")
    elif resolved is not None:
        steps.append(f"Name: {name!r} is answered by the passport {resolved.passport.slug!r}.")
    elif rules.own_names_only:
        steps.append("Name: it is none of the profile's own, and there are no others here.")
    else:
        steps.append("Name: no passport answers to it, or none that the profile lets serve.")
    steps += [_target_step(target) for target in targets]
    said = [each for each, _ in summed_up(rules) if each in ("parameters", "defaults", "caps", "system", "headers")]
    steps.append(f"Parameters: the profile has {', '.join(said)}." if said else "Parameters: as the request has them.")
    steps.append("Plan: allowed." if refusal is None else f"Refused ({refusal.code}): {refusal.message}")
    return steps


def _owner_of(context: AdminContext, profile_id: str) -> str:
    described = _described(context, Profile(id=profile_id))
    return f"the {described.kind} {described.owner}"


def _is_unknown(context: AdminContext, rules: ProfileRules, name: str) -> bool:
    return rules.own_names_only is True or context.catalog.resolve(name) is None


def _target_step(target: ResolvedTarget) -> str:
    which = "Target" if target.rank is None else "Beside it" if target.rank == 0 else f"Fallback {target.rank}"
    if target.only_too_long:
        which += ", for prompts that are too long"
    price = target.price_source or "its passport" if target.is_priced else "none"
    key = "an upstream key of the tenant's own, in " if target.has_own_key else ""
    return (
        f"{which}: {target.model!r} by passport {target.passport!r} at {target.base_url or 'the default upstream'}; "
        f"key: {key}{target.credential}; price: {price}."
    )
