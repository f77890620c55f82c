"""A line of a batch's file is judged as a request of its own, whose body is not changed on its way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.cluster.bookkeeping import make_caller
from trustgate.access.directory import Caller
from trustgate.access.end_users import BODY, pseudonym
from trustgate.errors import InvalidRequest, TrustGateError
from trustgate.gateway.path.batch_lines import LineJudge
from trustgate.models.catalog import Catalog
from trustgate.types import EndUser, Limits, Profile, ProfileRules

URL = "/v1/chat/completions"


def line(**members: Any) -> bytes:
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "Hello!"}], **members})


def caller(rules: ProfileRules | None = None, plan: Limits = Limits()) -> Caller:  # noqa: B008 - it is frozen
    profile = None if rules is None else Profile(id="p" * 64, rules=rules)
    return msgspec.structs.replace(make_caller(plan=plan), profile=profile, is_metered=plan != Limits())


def judge(caller: Caller, body: bytes, **options: Any) -> Any:
    return LineJudge(caller, Catalog([], []), **options)("POST", URL, body)


@pytest.mark.parametrize(
    ("plan", "cap", "most"),
    [(30, None, 30), (None, 40, 40), (30, 40, 30), (40, 30, 30)],
    ids=["plan", "profile", "plan below", "profile below"],
)
def test_the_bound_of_a_line_is_the_lower_one_of_plan_and_profile(plan: int | None, cap: int | None, most: int) -> None:
    limits = Limits() if plan is None else Limits(max_tokens=plan)
    asking = caller(None if cap is None else ProfileRules(caps={"max_tokens": cap}), limits)
    assert judge(asking, line(max_tokens=most)).completion_tokens == most
    with pytest.raises(TrustGateError):
        judge(asking, line(max_tokens=most + 1))
    with pytest.raises(InvalidRequest, match=f"to {most} at most|as this account's profile has it"):
        judge(asking, line())


def test_a_line_must_be_as_the_profile_has_it() -> None:
    asking = caller(ProfileRules(parameters={"temperature": 0.5}))
    assert judge(asking, line(temperature=0.5)).profile == "p" * 64
    for other in (line(), line(temperature=0.6)):
        with pytest.raises(InvalidRequest, match=r"as this account's profile has it.*temperature \(parameters\)"):
            judge(asking, other)
    assert judge(caller(), line()).profile == ""


@pytest.mark.parametrize(("method", "url"), [("GET", URL), ("POST", "/v1/nothing"), ("GET", "/v1/nothing")])
def test_a_line_is_for_an_endpoint_with_a_model(method: str, url: str) -> None:
    with pytest.raises(InvalidRequest, match=f"There is no {method} {url} for batches"):
        LineJudge(caller(), Catalog([], []))(method, url, line())


def test_a_line_of_a_blocked_end_user_is_refused_where_requests_name_theirs_in_the_body() -> None:
    salt = b"salt"
    blocked = EndUser(id=pseudonym(salt, "mallory"), tenant_id="ten_1", blocked=True)
    named = msgspec.structs.replace(
        caller(), end_user_sources=(BODY,), end_user_salt=salt, end_users={blocked.id: blocked}
    )
    assert judge(named, line(user="alice")).model == "m"
    with pytest.raises(TrustGateError, match="blocked"):
        judge(named, line(user="mallory"))
    elsewhere = msgspec.structs.replace(named, end_user_sources=(b"x-user",))
    assert judge(elsewhere, line(user="mallory")).model == "m"
