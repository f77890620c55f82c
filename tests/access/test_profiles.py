"""Profiles are merged member by member, the narrower over the wider."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from trustgate.access.profiles import effective, merged
from trustgate.types import HeaderValue, OwnCredential, Profile, ProfileRules

_names = st.sampled_from(["a", "b", "c"])
_values = st.integers(0, 9)
_tables: dict[str, st.SearchStrategy[Any]] = {
    "names": st.dictionaries(_names, st.sampled_from(["x", "y"])),
    "parameters": st.dictionaries(_names, _values),
    "defaults": st.dictionaries(_names, _values),
    "caps": st.dictionaries(_names, _values),
    "headers": st.dictionaries(_names, st.builds(HeaderValue, text=_names)),
    "credentials": st.dictionaries(_names, st.builds(OwnCredential, env=_names, fee_nano_usd=_values)),
}
_singles: dict[str, st.SearchStrategy[Any]] = {
    "own_names_only": st.none() | st.booleans(),
    "default_model": st.none() | _names,
    "default_for_unknown": st.none() | st.booleans(),
    "system": st.none() | _names,
    "providers": st.none() | st.lists(_names, min_size=1).map(tuple),
    "targets": st.none() | st.lists(_names, min_size=1).map(tuple),
}
rules = st.builds(ProfileRules, **_tables, **_singles)


def test_every_member_is_merged_here() -> None:
    assert {*_tables, *_singles} == set(ProfileRules.__struct_fields__)


@given(st.lists(rules, max_size=4))
def test_the_narrowest_that_says_anything_wins_entry_by_entry(given_rules: list[ProfileRules]) -> None:
    found = merged(given_rules)
    for member in _singles:
        said = [getattr(each, member) for each in given_rules if getattr(each, member) is not None]
        assert getattr(found, member) == (said[-1] if said else None)
    for member in _tables:
        entries = {name for each in given_rules for name in getattr(each, member)}
        assert getattr(found, member).keys() == entries
        for entry in entries:
            said = [getattr(each, member)[entry] for each in given_rules if entry in getattr(each, member)]
            assert getattr(found, member)[entry] == said[-1]


@given(rules, rules, rules)
def test_merging_is_associative_and_keeps_what_it_is_given(a: ProfileRules, b: ProfileRules, c: ProfileRules) -> None:
    before = msgspec.json.encode((a, b, c))
    assert merged((merged((a, b)), c)) == merged((a, merged((b, c)))) == merged((a, b, c))
    assert msgspec.json.encode((a, b, c)) == before


@given(rules, rules)
def test_the_id_of_what_holds_is_that_of_its_rules(a: ProfileRules, b: ProfileRules) -> None:
    one = effective([Profile(id="plan:p", rules=a), None, Profile(id="key:k", rules=b)])
    if merged((a, b)) == ProfileRules():
        assert one is None
        return
    again = effective([Profile(id="tenant:t", rules=merged((a, b)), changed_us=7)])
    assert one is not None and again is not None and one.id == again.id
    other = effective([Profile(id="tenant:t", rules=msgspec.structs.replace(one.rules, system="another"))])
    assert other is not None and other.id != one.id


def test_nothing_set_is_no_profile() -> None:
    assert effective([None, Profile(id="plan:p")]) is None
