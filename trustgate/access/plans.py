"""What a plan and a key allow: endpoints, models, features and sizes. Pure checks that raise or pass."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from trustgate.access.directory import Caller, limits_money
from trustgate.errors import InvalidRequest, PermissionDenied
from trustgate.types import SERVICE_PREFIX, Limits, Scope, matches


def check_plan(
    caller: Caller,
    *,
    endpoint: str,
    model: str,
    model_names: tuple[str, ...],
    features: Iterable[str],
    max_tokens: int | None,
    prompt_tokens: int,
    steering: Iterable[str] = (),
    lines_for: Iterable[str] = (),
) -> None:
    """Raise ``PermissionDenied`` (403), naming who forbids what, unless plan and key both allow the request.

    ``model`` is the name asked for, ``model_names`` those of the passport behind it: one of these must match. A
    request that names no model (a file's upload) has none. ``steering``: its members that steer the upstream; one that
    is not allowed raises ``InvalidRequest`` (400 ``unsupported_parameter``). ``lines_for``: the endpoints that a
    batch's lines are for.
    """
    for name in steering:
        _check_parameter(caller, name)
    if caller.is_unrestricted:
        return
    owners = (
        (f"The plan {caller.plan.name!r}", caller.plan.scope, caller.plan.limits),
        ("This API key", caller.key.scope, caller.key.limits),
    )
    for owner, scope, limits in owners:
        if scope is not _EVERYTHING and scope != _EVERYTHING:
            for each in (endpoint, *lines_for):
                _check_scope(owner, scope, each, model, model_names, features)
        _check_sizes(owner, limits, max_tokens, prompt_tokens)


def check_priced(caller: Caller, model: str, slug: str, names: tuple[str, ...], *, is_priced: bool) -> None:
    """Raise ``PermissionDenied`` (403) for a model without a price where a limit on money would not bind it.

    ``slug``: of the passport that the model's name has led to; ``names``: all that the model goes by.
    """
    if not is_priced and caller.wants_price(names):
        limited = limits_money(caller.plan.limits), limits_money(caller.key.limits)
        owner = "the plan" if limited[0] else "this API key" if limited[1] else "a budget"
        what = f"The model {model!r}" if not slug.startswith(SERVICE_PREFIX) else f"A call of {slug!r}"
        raise PermissionDenied(
            f"{what} has no price, and {owner} limits what may be spent. Its operator sets a price: "
            f"{price_command(model, slug)}; or lets the plan {caller.plan.name!r} use it at no cost: "
            f"trustgate plan set {caller.plan.name} --unpriced-models allow",
            code="model_not_priced",
            param="model",
        )


def check_end_user(caller: Caller, end_user: str | None) -> None:
    """Raise ``PermissionDenied`` (403) for an end user that the operator has blocked. ``end_user``: a pseudonym."""
    if end_user:
        decided = caller.end_users.get(end_user)
        if decided is not None and decided.blocked:
            raise PermissionDenied(f"The end user {end_user} is blocked here.", code="end_user_blocked", param="user")


def price_command(model: str, slug: str) -> str:
    """Returns the command that gives a model its price: a name that a wildcard takes needs a passport of its own."""
    if slug.startswith(SERVICE_PREFIX):
        return f"trustgate passport add {slug} --call-price USD (or --free)"
    verb, name = ("add", model) if "*" in slug else ("set", slug)
    return f"trustgate passport {verb} {shlex.quote(name)} --input-price USD --output-price USD (or --free)"


_EVERYTHING = Scope()


def _check_parameter(caller: Caller, name: str) -> None:
    of_key = caller.key.scope.parameters
    if matches(caller.plan.scope.parameters or (), name) and (of_key is None or matches(of_key, name)):
        return
    shown = name[:80]
    raise InvalidRequest(
        f"The parameter {shown!r} is not taken here: it steers the server behind this gateway. Leave it out, or ask "
        "the operator to allow it.",
        param=shown,
        code="unsupported_parameter",
    )


def allows_model(caller: Caller, model_names: tuple[str, ...]) -> bool:
    """Returns whether the caller may use, and so may see, the model of these names."""
    return all(
        any(matches(scope.models, name) for name in model_names) for scope in (caller.plan.scope, caller.key.scope)
    )


def completion_cap(caller: Caller) -> int | None:
    """Returns the smallest ``max_tokens`` that plan and key set, or None."""
    caps = [limits.max_tokens for limits in (caller.plan.limits, caller.key.limits) if limits.max_tokens is not None]
    return min(caps, default=None)


def _check_scope(
    owner: str, scope: Scope, endpoint: str, model: str, model_names: tuple[str, ...], features: Iterable[str]
) -> None:
    if not matches(scope.endpoints, endpoint):
        raise PermissionDenied(f"{owner} does not include the endpoint {endpoint}.", code="endpoint_not_allowed")
    if model_names and not any(matches(scope.models, name) for name in model_names):
        raise PermissionDenied(
            f"{owner} does not include the model {model!r}.", code="model_not_allowed", param="model"
        )
    for feature in features:
        if not matches(scope.features, feature):
            raise PermissionDenied(
                f"{owner} does not include {feature.replace('_', ' ')}.",
                code="feature_not_allowed",
                param=_PARAM_OF.get(feature),
            )


_PARAM_OF = {
    "streaming": "stream",
    "tools": "tools",
    "structured_outputs": "response_format",
    "logprobs": "logprobs",
    "multiple_choices": "n",
}


def _check_sizes(owner: str, limits: Limits, max_tokens: int | None, prompt_tokens: int) -> None:
    if limits.max_tokens is not None and max_tokens is not None and max_tokens > limits.max_tokens:
        raise PermissionDenied(
            f"{owner} allows completions of at most {limits.max_tokens} tokens; {max_tokens} were asked for.",
            code="max_tokens_exceeded",
            param="max_tokens",
        )
    if limits.max_prompt_tokens is not None and prompt_tokens > limits.max_prompt_tokens:
        raise PermissionDenied(
            f"{owner} allows prompts of at most {limits.max_prompt_tokens} tokens; this one has about {prompt_tokens}.",
            code="context_length_exceeded",
            param="messages",
        )
