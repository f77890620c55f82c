from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from trustgate.errors import NotFound
from trustgate.models.catalog import Catalog
from trustgate.types import Alias, Passport, Prices


def passport(slug: str, model: str | None = None, **more: Any) -> Passport:
    return Passport(id=f"passport_{slug}", slug=slug, api_model_id=model or slug, **more)


def resolve(catalog: Catalog, name: str) -> tuple[str, str] | None:
    resolved = catalog.resolve(name)
    return None if resolved is None else (resolved.passport.slug, resolved.upstream_model)


def test_a_passport_is_found_by_id_slug_and_upstream_name() -> None:
    catalog = Catalog([passport("fast", "llama-3-8b")], [])
    assert {resolve(catalog, name) for name in ("passport_fast", "fast", "llama-3-8b")} == {("fast", "llama-3-8b")}
    assert resolve(catalog, "slow") is None


def test_a_slug_beats_another_passports_upstream_name() -> None:
    catalog = Catalog([passport("a", "b"), passport("b", "c")], [])
    assert resolve(catalog, "b") == ("b", "c")


def test_wildcards_take_what_nobody_else_does_the_most_specific_first() -> None:
    catalog = Catalog([passport("*"), passport("openai/*", "*"), passport("openai/o1")], [])
    assert resolve(catalog, "openai/o1") == ("openai/o1", "openai/o1")
    assert resolve(catalog, "openai/gpt-4o") == ("openai/*", "gpt-4o")
    assert resolve(catalog, "anything") == ("*", "anything")


def test_a_wildcard_can_lead_to_another_namespace_or_to_one_model() -> None:
    catalog = Catalog([passport("x/*", "vendor/*:latest"), passport("y/*", "only-this")], [])
    assert resolve(catalog, "x/llama") == ("x/*", "vendor/llama:latest")
    assert resolve(catalog, "y/whatever") == ("y/*", "only-this")


def test_an_alias_leads_to_its_target_and_shows_the_plan_the_targets_names() -> None:
    catalog = Catalog(
        [passport("openai/*", "*"), passport("big")],
        [Alias(name="gpt-4o", target="openai/gpt-4o"), Alias(name="best", target="big")],
    )
    assert resolve(catalog, "gpt-4o") == ("openai/*", "gpt-4o")
    aliased = catalog.resolve("gpt-4o")
    assert aliased is not None and aliased.names == ("openai/gpt-4o",)
    best = catalog.resolve("best")
    assert best is not None and best.names == ("big", "passport_big")


def test_a_revoked_passport_does_not_come_back_through_a_wildcard() -> None:
    secret = passport("secret", "secret-model")
    catalog = Catalog([passport("*"), secret], [])
    assert resolve(catalog, "secret") == ("secret", "secret-model")
    catalog.put(replace(secret, status="revoked"))
    assert [resolve(catalog, name) for name in ("secret", "secret-model", "passport_secret")] == [None, None, None]
    catalog.put(replace(secret, status="deprecated"))
    assert resolve(catalog, "secret") == ("secret", "secret-model")


def test_many_are_put_at_once() -> None:
    catalog = Catalog([passport("a")], [])
    catalog.put(passport("b", "own"), Alias(name="c", target="b"), replace(passport("a"), status="revoked"))
    assert (resolve(catalog, "b"), resolve(catalog, "c"), resolve(catalog, "a")) == (("b", "own"), ("b", "own"), None)


def test_changes_hold_for_names_that_were_resolved_before() -> None:
    catalog = Catalog([passport("a")], [])
    assert resolve(catalog, "b") is None
    catalog.put(Alias(name="b", target="a"))
    assert resolve(catalog, "b") == ("a", "a")
    catalog.put(passport("b", "own"))
    assert resolve(catalog, "b") == ("b", "own")
    catalog.remove(Alias(name="b", target="a"))
    assert resolve(catalog, "b") == ("b", "own")


def test_the_price_hash_changes_with_the_price() -> None:
    catalog = Catalog(
        [passport("a", prices=Prices(input_pico_usd=1)), passport("b", prices=Prices(input_pico_usd=2))], []
    )
    a, b = catalog.resolve("a"), catalog.resolve("b")
    assert a is not None and b is not None and a.price.hash != b.price.hash


def test_looking_up_by_hand_finds_revoked_ones_too() -> None:
    catalog = Catalog([passport("a", status="revoked")], [])
    assert catalog.passport("a").status == "revoked"
    with pytest.raises(NotFound, match="'b'"):
        catalog.passport("b")
