"""What a profile may say, and what it makes of a model."""

from __future__ import annotations

import pytest

from trustgate.errors import InvalidRequest
from trustgate.models.catalog import Catalog, Resolved
from trustgate.models.profiles import check_rules, lower_effort
from trustgate.types import Fallback, HeaderValue, OwnCredential, Passport, Prices, Profile, ProfileRules


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (ProfileRules(names={"gpt-*": "a"}), "cannot have a *"),
        (ProfileRules(default_for_unknown=True), "no default model"),
        (ProfileRules(parameters={"model": "x"}), "cannot be set by a profile"),
        (ProfileRules(defaults={"max_completion_tokens": 3}), "calls this max_tokens"),
        (ProfileRules(caps={"max_tokens": 0}), "from 1 on"),
        (ProfileRules(caps={"max_tokens": True}), "from 1 on"),
        (ProfileRules(caps={"temperature": "low"}), "is a number"),
        (ProfileRules(caps={"temperature": float("nan")}), "is a number"),
        (ProfileRules(caps={"temperature": 10**400}), "is a number"),
        (ProfileRules(caps={"reasoning_effort": "most"}), "one of none"),
        (ProfileRules(system=""), "1 to"),
        (ProfileRules(providers=()), "one at least"),
        (ProfileRules(headers={"x-api-key": HeaderValue(env="KEY")}), "cannot be set by a profile"),
        (ProfileRules(headers={"X-Team": HeaderValue(text="a")}), "in lower case"),
        (ProfileRules(headers={"x-team": HeaderValue(text="a\r\nb: c")}), "printable"),
        (ProfileRules(headers={"x-session-token": HeaderValue(text="abc")}), "seems to hold a secret"),
        (ProfileRules(headers={"x-team": HeaderValue(text="a", env="B")}), "one value"),
        (ProfileRules(credentials={"a": OwnCredential()}), "in a variable or in a file"),
        (ProfileRules(credentials={"a": OwnCredential(env="sk-pasted")}), "not the key itself"),
        (ProfileRules(credentials={"a": OwnCredential(env="KEY", fee_nano_usd=-1)}), "between 0"),
    ],
)
def test_rules_that_cannot_be(rules: ProfileRules, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_rules(rules)
    assert message in refused.value.message
    assert "sk-pasted" not in refused.value.message + (refused.value.hint or "")


def test_an_effort_is_lowered_never_raised() -> None:
    assert [lower_effort(each, "low") for each in ("none", "low", "high", "unheard-of", 3)] == [
        *("none", "low", "low", "low", "low")
    ]


def test_a_name_under_a_profile() -> None:
    spare = Passport(id="passport_b", slug="b", api_model_id="b", provider="other", prices=Prices(input_pico_usd=5))
    first = Passport(id="passport_a", slug="a", api_model_id="a", provider="one", fallbacks=(Fallback(passport="b"),))
    catalog = Catalog([first, spare], [])

    def under(**rules: object) -> Profile:
        return Profile(id=repr(sorted(rules.items())), rules=ProfileRules(**rules))  # type: ignore[arg-type]

    named = under(names={"gpt": "a"}, own_names_only=True, default_model="b")
    assert [catalog.resolve(name, named) is not None for name in ("gpt", "a", "b", "c")] == [True, False, True, False]
    assert catalog.resolve("gpt") is None, "it is the profile's alone"
    anything = under(default_model="b", default_for_unknown=True)
    found = catalog.resolve("c", anything)
    assert found is not None and (found.passport, found.names) == (spare, ("b", "passport_b"))

    own = under(credentials={"b": OwnCredential(env="KEY", fee_nano_usd=3)})
    resolved = catalog.resolve("b", own)
    assert resolved is not None and resolved is catalog.resolve("b", own)
    assert (resolved.passport.credential_env, resolved.price.prices) == ("KEY", Prices(call_nano_usd=3))
    [other] = catalog.fallbacks(first, own)
    assert other.has_own_key and other.passport.credential_env == "KEY"
    free = catalog.resolve("b", under(credentials={"b": OwnCredential(file="key")}))
    assert free is not None and free.price.known and free.price.prices.free

    several = Passport(id="passport_w", slug="w-*", api_model_id="one")
    catalog.put(several)
    own_wide = under(credentials={"w-*": OwnCredential(env="KEY")})
    made_before = catalog.under(own_wide, Resolved(several, "one", (), catalog.price_of(several, "one")))
    found_names = [found.names for name in ("w-1", "w-2") if (found := catalog.resolve(name, own_wide)) is not None]
    assert (made_before.names, found_names) == ((), [("w-1",), ("w-2",)]), "plans are matched against these"

    only_other = under(providers=("other",))
    assert catalog.resolve("a", only_other) is not None, "its fallback may serve"
    assert catalog.resolve("a", under(targets=("x*",))) is None
    catalog.put(Passport(id="passport_b", slug="b", api_model_id="b2", provider="other"))
    changed = catalog.resolve("b", own)
    assert changed is not None and changed.upstream_model == "b2", "a change holds from the next request on"
