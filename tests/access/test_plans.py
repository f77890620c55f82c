from __future__ import annotations

from typing import Any

import pytest

from trustgate.access.directory import Caller
from trustgate.access.plans import allows_model, check_plan, completion_cap
from trustgate.errors import PermissionDenied
from trustgate.types import ApiKey, Limits, Plan, Scope, Tenant


def caller(plan: Scope | Limits | None = None, key: Scope | Limits | None = None) -> Caller:
    def parts(given: Scope | Limits | None) -> dict[str, Any]:
        return {} if given is None else {"scope" if isinstance(given, Scope) else "limits": given}

    return Caller(
        ApiKey(id="key_1", tenant_id="ten_1", name="k", secret_sha256="", redacted="", **parts(key)),
        Tenant(id="ten_1", name="acme", plan="p"),
        Plan(name="p", **parts(plan)),
        "",
    )


def check(
    who: Caller,
    *,
    endpoint: str = "chat.completions",
    model: str = "gpt-4o",
    names: tuple[str, ...] | None = None,
    features: tuple[str, ...] = (),
    max_tokens: int | None = None,
    prompt_tokens: int = 1,
) -> None:
    check_plan(
        who,
        endpoint=endpoint,
        model=model,
        model_names=names or (model,),
        features=features,
        max_tokens=max_tokens,
        prompt_tokens=prompt_tokens,
    )


def test_an_open_plan_allows_everything() -> None:
    check(caller(), features=("streaming", "tools"), max_tokens=10**6, prompt_tokens=10**6)


@pytest.mark.parametrize(
    ("scope", "request_", "code", "param"),
    [
        (Scope(endpoints=("embeddings",)), {}, "endpoint_not_allowed", None),
        (Scope(models=("openai/*",)), {}, "model_not_allowed", "model"),
        (Scope(features=("tools",)), {"features": ("streaming",)}, "feature_not_allowed", "stream"),
    ],
)
@pytest.mark.parametrize("owner", ["plan", "key"])
def test_plan_and_key_each_refuse_what_their_scope_lacks(
    scope: Scope, request_: dict[str, Any], code: str, param: str | None, owner: str
) -> None:
    with pytest.raises(PermissionDenied) as caught:
        check(caller(**{owner: scope}), **request_)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert ("The plan 'p'" if owner == "plan" else "This API key") in caught.value.message


def test_globs_take_models_by_the_passports_own_names() -> None:
    who = caller(plan=Scope(models=("openai/*", "local-?")))
    check(who, model="openai/gpt-4o")
    check(who, model="local-1")
    check(who, model="cheap", names=("openai/gpt-4o-mini", "passport_1"))
    with pytest.raises(PermissionDenied):
        check(who, model="openai/cheap-alias", names=("expensive", "passport_2"))


@pytest.mark.parametrize(
    ("limits", "request_", "code"),
    [
        (Limits(max_tokens=100), {"max_tokens": 101}, "max_tokens_exceeded"),
        (Limits(max_prompt_tokens=50), {"prompt_tokens": 51}, "context_length_exceeded"),
    ],
)
def test_sizes_are_bounded(limits: Limits, request_: dict[str, int], code: str) -> None:
    check(caller(plan=limits), **{name: value - 1 for name, value in request_.items()})  # type: ignore[arg-type]
    with pytest.raises(PermissionDenied) as caught:
        check(caller(plan=limits), **request_)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_the_smaller_cap_holds() -> None:
    assert completion_cap(caller()) is None
    assert completion_cap(caller(plan=Limits(max_tokens=5), key=Limits(max_tokens=9))) == 5
    assert completion_cap(caller(key=Limits(max_tokens=9))) == 9


def test_a_caller_sees_what_it_may_use() -> None:
    who = caller(plan=Scope(models=("a*",)), key=Scope(models=("*b",)))
    assert [name for name in ("ab", "a", "b") if allows_model(who, (name,))] == ["ab"]
