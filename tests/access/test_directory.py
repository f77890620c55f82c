from __future__ import annotations

import time

import msgspec
import pytest

from trustgate.access.directory import Directory
from trustgate.access.keys import MintedKey, hash_secret, mint
from trustgate.errors import AuthenticationFailed, NotFound
from trustgate.store import State
from trustgate.types import ApiKey, Limits, Plan, Tenant

NOW = 1_000_000


class World:
    def __init__(self) -> None:
        self.minted: MintedKey = mint()
        self.plan = Plan(name="pro")
        self.tenant = Tenant(id="ten_1", name="acme", plan="pro")
        self.key = ApiKey(
            id="key_1",
            tenant_id="ten_1",
            name="default",
            secret_sha256=self.minted.sha256,
            redacted=self.minted.redacted,
        )
        self.directory = Directory(
            State(tenants=(self.tenant,), keys=(self.key,), plans=(self.plan,), passports=(), aliases=())
        )

    def authenticate(self, secret: str | None = None, at_us: int = NOW) -> str:
        return self.directory.authenticate((secret or self.minted.secret).encode(), at_us).tenant.name


@pytest.fixture
def world() -> World:
    return World()


def test_the_right_secret_finds_its_tenant(world: World) -> None:
    assert world.authenticate() == "acme"


def test_any_other_secret_does_not(world: World) -> None:
    with pytest.raises(AuthenticationFailed, match="unknown"):
        world.authenticate(mint().secret)
    with pytest.raises(AuthenticationFailed):
        world.directory.authenticate(b"\xff\xfe", NOW)


def test_a_revoked_key_is_dead_at_once_although_it_was_just_used(world: World) -> None:
    world.authenticate()
    world.directory.put(msgspec.structs.replace(world.key, revoked_us=1))
    with pytest.raises(AuthenticationFailed, match="revoked"):
        world.authenticate()


def test_a_key_whose_hash_is_known_is_asked_for_each_time(world: World) -> None:
    digest = hash_secret(world.minted.secret.encode())
    assert world.directory.known(digest, NOW) is None, "it has not called yet"
    world.directory.put(msgspec.structs.replace(world.key, expires_us=NOW + 1))
    world.authenticate()
    assert world.directory.known(digest, NOW) is not None
    assert world.directory.known(digest, NOW + 1) is None
    world.directory.put(msgspec.structs.replace(world.key, revoked_us=1))
    assert world.directory.known(digest, NOW) is None


def test_a_clock_that_is_set_back_brings_no_revoked_key_back(world: World) -> None:
    in_an_hour_us = time.time_ns() // 1_000 + 3_600_000_000
    world.directory.put(msgspec.structs.replace(world.key, revoked_us=in_an_hour_us))
    with pytest.raises(AuthenticationFailed, match="revoked"):
        world.authenticate()


def test_a_key_expires_at_its_time_although_it_was_just_used(world: World) -> None:
    world.directory.put(msgspec.structs.replace(world.key, expires_us=NOW + 10))
    assert world.authenticate(at_us=NOW + 9) == "acme"
    with pytest.raises(AuthenticationFailed, match="expired"):
        world.authenticate(at_us=NOW + 10)


@pytest.mark.parametrize("status", ["suspended", "removed"])
def test_a_tenant_that_is_not_active_is_refused_until_it_is_again(world: World, status: str) -> None:
    world.authenticate()
    world.directory.put(msgspec.structs.replace(world.tenant, status=status))
    with pytest.raises(AuthenticationFailed, match=status):
        world.authenticate()
    world.directory.put(world.tenant)
    assert world.authenticate() == "acme"


def test_a_changed_plan_holds_from_the_next_request(world: World) -> None:
    before = world.directory.authenticate(world.minted.secret.encode(), NOW)
    world.directory.put(Plan(name="pro", limits=Limits(requests_per_day=7)))
    after = world.directory.authenticate(world.minted.secret.encode(), NOW)
    assert after.plan.limits.requests_per_day == 7
    assert before.policy_hash != after.policy_hash


def test_a_new_key_works_and_is_found_by_its_redacted_form(world: World) -> None:
    minted = mint()
    world.directory.put(
        ApiKey(id="key_2", tenant_id="ten_1", name="b", secret_sha256=minted.sha256, redacted=minted.redacted)
    )
    assert world.authenticate(minted.secret) == "acme"
    assert world.directory.key(minted.redacted).id == "key_2"
    assert {key.id for key in world.directory.keys_of("ten_1")} == {"key_1", "key_2"}


def test_the_keys_of_an_account_are_those_that_go_back_to_one(world: World) -> None:
    for name, origin in (("key_2", "key_1"), ("key_3", "key_1"), ("key_4", "")):
        minted = mint()
        world.directory.put(
            ApiKey(
                id=name,
                tenant_id="ten_1",
                name=name,
                secret_sha256=minted.sha256,
                redacted=minted.redacted,
                origin_id=origin,
            )
        )

    def accounts(account_id: str) -> set[str]:
        return {key.id for key in world.directory.keys_of_account(account_id)}

    assert accounts("key_1") == {"key_1", "key_2", "key_3"}
    assert accounts("key_4") == {"key_4"}
    assert accounts("key_2") == set(), "it counts under the first one's"
    assert accounts("ten_1") == set(), "a tenant is no key"


def test_a_renamed_tenant_is_found_by_its_new_name_alone(world: World) -> None:
    world.directory.put(msgspec.structs.replace(world.tenant, name="apex"))
    assert world.directory.tenant("apex").id == "ten_1"
    assert world.directory.tenant("ten_1").name == "apex"
    with pytest.raises(NotFound):
        world.directory.tenant("acme")


def test_a_removed_tenant_frees_its_name(world: World) -> None:
    world.directory.put(msgspec.structs.replace(world.tenant, status="removed"))
    world.directory.put(Tenant(id="ten_2", name="acme", plan="pro"))
    assert world.directory.tenant("acme").id == "ten_2"
    # A late change of the removed one must not take the name along.
    world.directory.put(msgspec.structs.replace(world.tenant, status="removed", plan="free"))
    assert world.directory.tenant("acme").id == "ten_2"


@pytest.mark.parametrize("lookup", ["tenant", "key", "plan"])
def test_what_does_not_exist_is_not_found(world: World, lookup: str) -> None:
    with pytest.raises(NotFound, match="'nobody'"):
        getattr(world.directory, lookup)("nobody")
