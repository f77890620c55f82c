"""One contract, every way to reach the control plane: in this process, over the socket, over the network."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from tests.admin.conftest import STATUS, Plane
from tests.support.entries import FIRST_US, make_entry
from trustgate.access.keys import hash_secret
from trustgate.admin.commands import (
    Admin,
    Command,
    KeyCreate,
    KeyList,
    KeyRevoke,
    KeyRotate,
    KeyShow,
    PlanList,
    PlanPut,
    PlanRemove,
    PlanShow,
    Status,
    TenantAdd,
    TenantList,
    TenantRemove,
    TenantResume,
    TenantSet,
    TenantShow,
    TenantSuspend,
    TenantWithKey,
)
from trustgate.admin.local import COMMANDS
from trustgate.admin.log_commands import ReceiptList, ReceiptShow, UsageShow
from trustgate.admin.model_commands import (
    AliasList,
    AliasRemove,
    AliasSet,
    PassportAdd,
    PassportImport,
    PassportList,
    PassportSet,
    PassportShow,
    PassportStatus,
)
from trustgate.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound, TrustGateError
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.models.passports import ImportedPassport, PassportFields
from trustgate.receipts.receipt import leaf_hash
from trustgate.types import Alias, Fallback, Limits, Prices, Scope

_HOUR_S = 3600


@pytest.fixture
async def acme(admin: Admin) -> TenantWithKey:
    return await admin.execute(TenantAdd(name="acme"))


async def _refusal(
    admin: Admin, command: Command[Any], kind: type[TrustGateError], says: str | None = None
) -> TrustGateError:
    with pytest.raises(kind, match=says) as refused:
        await admin.execute(command)
    assert type(refused.value) is kind
    return refused.value


def _is_alive(plane: Plane, secret: str) -> bool:
    try:
        plane.directory.authenticate(secret.encode(), now_us())
    except AuthenticationFailed:
        return False
    return True


def test_every_command_has_a_handler() -> None:
    assert set(COMMANDS) == set(Command.__subclasses__())


# tenants


async def test_a_tenant_comes_with_a_key_that_works(admin: Admin, plane: Plane) -> None:
    made = await admin.execute(TenantAdd(name="acme"))
    assert (made.tenant.name, made.tenant.plan, made.tenant.status) == ("acme", "pro", "active")
    assert made.key.tenant_id == made.tenant.id
    assert made.key.secret_sha256 == hash_secret(made.secret.encode()).hex()
    assert made.secret not in repr(made.key)
    caller = plane.directory.authenticate(made.secret.encode(), now_us())
    assert (caller.tenant, caller.key) == (made.tenant, made.key)


async def test_what_is_changed_is_durable_and_in_memory_alike(admin: Admin, plane: Plane, acme: TenantWithKey) -> None:
    await admin.execute(TenantSet(tenant="acme", name="Ünïcode ✓", plan="free"))
    await admin.execute(KeyCreate(tenant=acme.tenant.id, name="second", limits=Limits(requests_per_day=5)))
    await admin.execute(PlanPut(name="team", create=True, limits={"parallel_requests": 3}))
    await admin.execute(PassportAdd(slug="m", fields=PassportFields(prices=Prices(input_pico_usd=5))))
    await admin.execute(AliasSet(name="n", target="m"))
    state = await plane.store.load_state()
    assert sorted(state.tenants, key=repr) == sorted(plane.directory.tenants(), key=repr)
    assert sorted(state.keys, key=repr) == sorted(plane.directory.keys(), key=repr)
    assert sorted(state.plans, key=repr) == sorted(plane.directory.plans(), key=repr)
    assert sorted(state.passports, key=repr) == sorted(plane.catalog.passports(), key=repr)
    assert list(state.aliases) == list(plane.catalog.aliases())
    assert len(state.keys) == 2


async def test_tenants_are_found_by_name_and_id(admin: Admin, acme: TenantWithKey) -> None:
    for ref in ("acme", acme.tenant.id):
        shown = await admin.execute(TenantShow(tenant=ref))
        assert shown.tenant == acme.tenant
        assert shown.keys == (acme.key,)
        assert shown.plan.name == "pro"


async def test_a_name_means_the_same_however_it_is_composed(admin: Admin) -> None:
    composed, decomposed = "Café", unicodedata.normalize("NFD", "Café")
    made = await admin.execute(TenantAdd(name=decomposed))
    assert made.tenant.name == composed
    assert (await admin.execute(TenantShow(tenant=decomposed))).tenant == made.tenant
    await _refusal(admin, TenantAdd(name=composed), Conflict, "already")


async def test_tenant_names_must_be_sane(admin: Admin) -> None:
    for name in ("", " ", "acme ", "\tacme", "a\nb", "a\x00", "x" * 65, "ten_1", "-x", "\u202eacme"):
        await _refusal(admin, TenantAdd(name=name), InvalidRequest, "name")
    assert await admin.execute(TenantList()) == ()


async def test_a_taken_name_is_a_conflict(admin: Admin, acme: TenantWithKey) -> None:
    refused = await _refusal(admin, TenantAdd(name="acme"), Conflict, "already")
    assert refused.hint == "trustgate tenant show acme"
    assert refused.code == "tenant_exists"
    await admin.execute(TenantAdd(name="other"))
    await _refusal(admin, TenantSet(tenant="other", name="acme"), Conflict, "already")
    assert (await admin.execute(TenantSet(tenant="acme", name="acme"))).name == "acme"


async def test_unknown_names_are_not_found_with_a_hint(admin: Admin) -> None:
    commands: list[Command[Any]] = [
        TenantShow(tenant="nobody"),
        TenantAdd(name="acme", plan="none"),
        KeyShow(key="key_1"),
        KeyCreate(tenant="nobody"),
        PlanShow(name="none"),
        PassportShow(passport="none"),
        AliasRemove(name="none"),
        ReceiptShow(receipt="rcpt_1"),
        UsageShow(tenant="nobody"),
    ]
    for command in commands:
        refused = await _refusal(admin, command, NotFound, "There is no")
        assert refused.hint
        assert refused.exit_code == 4


async def test_a_suspended_tenant_is_shut_out_at_once_and_may_come_back(
    admin: Admin, plane: Plane, acme: TenantWithKey
) -> None:
    assert (await admin.execute(TenantSuspend(tenant="acme"))).status == "suspended"
    assert not _is_alive(plane, acme.secret)
    assert plane.cut == [acme.key.id]
    assert (await admin.execute(TenantResume(tenant="acme"))).status == "active"
    assert _is_alive(plane, acme.secret)


async def test_a_removed_tenant_is_gone_for_good_and_its_name_free(
    admin: Admin, plane: Plane, acme: TenantWithKey
) -> None:
    assert (await admin.execute(TenantRemove(tenant="acme"))).status == "removed"
    assert not _is_alive(plane, acme.secret)
    assert plane.cut == [acme.key.id]
    assert await admin.execute(TenantList()) == ()
    (removed,) = await admin.execute(TenantList(removed=True))
    assert removed.id == acme.tenant.id
    assert (await admin.execute(KeyShow(key=acme.key.id))).revoked_us is not None
    for command in (TenantResume(tenant=acme.tenant.id), KeyCreate(tenant=acme.tenant.id)):
        await _refusal(admin, command, Conflict, "was removed")
    again = await admin.execute(TenantAdd(name="acme"))
    assert again.tenant.id != acme.tenant.id


# keys


async def test_a_key_narrows_and_expires(admin: Admin, acme: TenantWithKey) -> None:
    before_us = now_us()
    made = await admin.execute(
        KeyCreate(
            tenant="acme",
            name="ci",
            expires_in_s=_HOUR_S,
            limits=Limits(requests_per_day=5, cost_nano_usd_per_day=0),
            scope=Scope(models=("openai/*",), features=("streaming",), endpoints=("chat.*",)),
        )
    )
    assert made.key.expires_us is not None
    assert 0 <= made.key.expires_us - before_us - _HOUR_S * MICROSECONDS_PER_SECOND < 60 * MICROSECONDS_PER_SECOND
    assert made.key.limits.requests_per_day == 5
    assert made.key.scope.models == ("openai/*",)
    assert await admin.execute(KeyShow(key=made.key.redacted)) == made.key
    keys = await admin.execute(KeyList(tenant="acme"))
    assert set(keys) == {acme.key, made.key}


_NO_KEYS: tuple[dict[str, Any], ...] = (
    {"expires_in_s": 0},
    {"expires_in_s": -1},
    {"expires_in_s": 10**12},
    {"name": ""},
    {"name": "x" * 65},
    {"limits": Limits(requests_per_day=-1)},
    {"limits": Limits(cost_nano_usd_per_day=2**53)},
    {"scope": Scope(models=("",))},
    {"scope": Scope(features=("telepathy",))},
    {"scope": Scope(endpoints=("chat",))},
)


async def test_a_key_cannot_have_what_makes_no_sense(admin: Admin, acme: TenantWithKey) -> None:
    for members in _NO_KEYS:
        await _refusal(admin, KeyCreate(tenant="acme", **members), InvalidRequest)
    assert await admin.execute(KeyList()) == (acme.key,)


async def test_a_revoked_key_dies_at_once(admin: Admin, plane: Plane, acme: TenantWithKey) -> None:
    revoked = await admin.execute(KeyRevoke(key=acme.key.id))
    assert revoked.revoked_us is not None
    assert not _is_alive(plane, acme.secret)
    assert plane.cut == [acme.key.id]
    assert await admin.execute(KeyRevoke(key=acme.key.id)) == revoked, "revoking twice changes nothing"
    assert await admin.execute(KeyList()) == ()
    assert await admin.execute(KeyList(revoked=True)) == (revoked,)


async def test_rotation_without_grace_ends_the_old_key_at_once(admin: Admin, plane: Plane, acme: TenantWithKey) -> None:
    new = await admin.execute(KeyRotate(key=acme.key.id))
    assert (_is_alive(plane, acme.secret), _is_alive(plane, new.secret)) == (False, True)
    assert plane.cut == [acme.key.id]


async def test_rotation_with_grace_lets_both_live_for_a_while(admin: Admin, plane: Plane, acme: TenantWithKey) -> None:
    old = await admin.execute(KeyCreate(tenant="acme", limits=Limits(requests_per_day=5), scope=Scope(models=("m",))))
    new = await admin.execute(KeyRotate(key=old.key.id, grace_s=_HOUR_S))
    assert (new.key.name, new.key.limits, new.key.scope) == (old.key.name, old.key.limits, old.key.scope)
    assert _is_alive(plane, old.secret)
    assert _is_alive(plane, new.secret)
    assert plane.cut == []
    ending = await admin.execute(KeyShow(key=old.key.id))
    assert ending.expires_us is not None
    with pytest.raises(AuthenticationFailed):
        plane.directory.authenticate(old.secret.encode(), ending.expires_us)


async def test_the_grace_does_not_lengthen_a_keys_life(admin: Admin, acme: TenantWithKey) -> None:
    old = await admin.execute(KeyCreate(tenant="acme", expires_in_s=60))
    new = await admin.execute(KeyRotate(key=old.key.id, grace_s=_HOUR_S))
    assert (await admin.execute(KeyShow(key=old.key.id))).expires_us == old.key.expires_us == new.key.expires_us


async def test_a_dead_key_cannot_be_rotated(admin: Admin, acme: TenantWithKey) -> None:
    await admin.execute(KeyRevoke(key=acme.key.id))
    await _refusal(admin, KeyRotate(key=acme.key.id), Conflict, "has been revoked")
    with pytest.raises(InvalidRequest):
        await admin.execute(KeyRotate(key=(await admin.execute(KeyCreate(tenant="acme"))).key.id, grace_s=-1))


# plans


async def test_a_plan_changes_only_in_what_is_given(admin: Admin, plane: Plane) -> None:
    await admin.execute(
        PlanPut(
            name="team", create=True, limits={"requests_per_day": 10, "max_tokens": 0}, scope={"models": ("gpt-*",)}
        )
    )
    made = await admin.execute(TenantAdd(name="acme", plan="team"))
    plan = await admin.execute(PlanPut(name="team", limits={"requests_per_day": None}, on_disconnect="drain"))
    assert plan.limits == Limits(max_tokens=0)
    assert (plan.scope.models, plan.scope.features, plan.on_disconnect) == (("gpt-*",), ("*",), "drain")
    assert plane.directory.authenticate(made.secret.encode(), now_us()).plan == plan
    assert plan in await admin.execute(PlanList())


async def test_the_seeded_plans_are_there_and_can_be_changed(admin: Admin) -> None:
    assert {plan.name for plan in await admin.execute(PlanList())} == {"free", "pro", "growth", "internal"}
    await admin.execute(PlanPut(name="free", limits={"requests_per_day": 7}))
    assert (await admin.execute(PlanShow(name="free"))).limits.requests_per_day == 7


async def test_a_plan_in_use_cannot_be_removed(admin: Admin, acme: TenantWithKey) -> None:
    refused = await _refusal(admin, PlanRemove(name="pro"), Conflict, "in use by acme")
    assert refused.code == "plan_in_use"
    await admin.execute(TenantSet(tenant="acme", plan="free"))
    await admin.execute(PlanRemove(name="pro"))
    await _refusal(admin, TenantSet(tenant="acme", plan="pro"), NotFound, "no plan")


async def test_bad_plans_are_refused(admin: Admin) -> None:
    await _refusal(admin, PlanPut(name="free", create=True), Conflict, "already")
    await _refusal(admin, PlanPut(name="none"), NotFound, "no plan")
    for changes in (
        {"limits": {"requests_per_week": 1}},
        {"limits": {"requests_per_day": -1}},
        {"scope": {"colours": ("*",)}},
    ):
        with pytest.raises(InvalidRequest):
            await admin.execute(PlanPut(name="free", **changes))
    refused = await _refusal(admin, PlanPut(name="free", scope={"features": ("tool",)}), InvalidRequest, "'tool'")
    assert "tools" in str(refused.hint)
    refused = await _refusal(admin, PlanPut(name="free", scope={"endpoints": ("chat",)}), InvalidRequest, "'chat'")
    assert "chat.completions" in str(refused.hint)


# passports


_MINI = PassportFields(
    api_model_id="gpt-4o-mini",
    base_url="https://api.openai.com/v1",
    credential_env="OPENAI_API_KEY",
    prices=Prices(input_pico_usd=150_000, output_pico_usd=600_000),
    context_length=128_000,
    capabilities=("chat", "tools"),
)


_SEEDED = {"*", "trustgate/echo"}


async def _slugs(admin: Admin) -> set[str]:
    passports = await admin.execute(PassportList())
    return {passport.slug for passport in passports}


async def test_a_passport_resolves_from_the_next_request_on(admin: Admin, plane: Plane) -> None:
    made = await admin.execute(PassportAdd(slug="openai/gpt-4o-mini", fields=_MINI))
    resolved = plane.catalog.resolve("openai/gpt-4o-mini")
    assert resolved is not None
    assert resolved.passport == made
    assert made in await admin.execute(PassportList())
    await admin.execute(PassportStatus(passport=made.slug, status="revoked"))
    assert plane.catalog.resolve("openai/gpt-4o-mini") is None
    assert made.id not in {passport.id for passport in await admin.execute(PassportList())}
    assert (await admin.execute(PassportStatus(passport=made.id, status="active"))) == made


async def test_a_passport_changes_only_in_what_is_given(admin: Admin) -> None:
    made = await admin.execute(PassportAdd(slug="mini", fields=_MINI))
    changed = await admin.execute(
        PassportSet(
            passport="mini",
            fields=PassportFields(credential_file="/etc/key"),
            unset=("context_length",),
            prices={"output_pico_usd": 1, "cached_input_pico_usd": 2},
        )
    )
    assert changed.prices == Prices(input_pico_usd=150_000, output_pico_usd=1, cached_input_pico_usd=2)
    assert (changed.credential_file, changed.credential_env) == ("/etc/key", None)
    assert changed.context_length is None
    assert (changed.id, changed.base_url, changed.capabilities) == (made.id, made.base_url, made.capabilities)
    again = await admin.execute(PassportSet(passport="mini", prices={"cached_input_pico_usd": None}))
    assert again.prices.cached_input_pico_usd is None


async def test_the_slug_is_sent_upstream_unless_a_model_id_is_given(admin: Admin) -> None:
    assert (await admin.execute(PassportAdd(slug="gpt-4o", fields=PassportFields()))).api_model_id == "gpt-4o"


_BAD_PASSPORTS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("", {}, "slug"),
    ("passport_x", {}, "slug"),
    (" m", {}, "slug"),
    ("m\n", {}, "slug"),
    ("m" * 201, {}, "slug"),
    ("*/*", {}, "slug"),
    ("m[1]*", {}, "slug"),
    ("m", {"api_model_id": ""}, "api_model_id"),
    ("m", {"api_model_id": "gpt-*"}, "api_model_id"),
    ("m", {"base_url": "api.openai.com/v1"}, "base_url"),
    ("m", {"base_url": "https://u:p@api.openai.com"}, "base_url"),
    ("m", {"base_url": "https://api.openai.com/v1?key=sk"}, "base_url"),
    ("m", {"base_url": "file:///etc/passwd"}, "base_url"),
    ("m", {"base_url": "builtin:nothing"}, "base_url"),
    ("m", {"credential_env": "sk-abc"}, "credential_env"),
    ("m", {"credential_env": "A", "credential_file": "b"}, "credential_file"),
    ("m", {"context_length": 0}, "context_length"),
    ("m", {"max_output_tokens": -5}, "max_output_tokens"),
    ("m", {"capabilities": ("Tool Use",)}, "capabilities"),
    ("m", {"provider": "open ai"}, "provider"),
    ("m", {"prices": Prices(input_pico_usd=-1)}, "prices"),
    ("m", {"default_parameters": {"stream": True}}, "default_parameters"),
    ("m", {"fallbacks": (Fallback(passport="m"),)}, "fallbacks"),
    ("m", {"fallbacks": (Fallback(passport="trustgate/echo", weight=0),)}, "fallbacks"),
)


async def test_bad_passports_are_refused_by_member(admin: Admin) -> None:
    for slug, members, param in _BAD_PASSPORTS:
        command = PassportAdd(slug=slug, fields=PassportFields(**members))
        refused = await _refusal(admin, command, InvalidRequest)
        assert isinstance(refused, InvalidRequest)
        assert refused.param == param, (slug, members)
        assert "sk-abc" not in refused.message
    assert await _slugs(admin) == _SEEDED


async def test_a_passport_cannot_lose_what_it_needs(admin: Admin) -> None:
    await admin.execute(PassportAdd(slug="mini", fields=_MINI))
    await _refusal(admin, PassportSet(passport="mini", unset=("slug",)), InvalidRequest, "slug")
    without = await admin.execute(PassportSet(passport="mini", prices={"input_pico_usd": None}))
    assert without.prices == Prices(output_pico_usd=600_000)
    await _refusal(admin, PassportSet(passport="mini", prices={"gold": 1}), InvalidRequest, "gold")


async def test_fallbacks_must_exist(admin: Admin) -> None:
    nowhere = PassportFields(fallbacks=(Fallback(passport="nowhere"),))
    await _refusal(admin, PassportAdd(slug="m", fields=nowhere), NotFound, "'nowhere'")
    there = PassportFields(fallbacks=(Fallback(passport="trustgate/echo"),))
    assert (await admin.execute(PassportAdd(slug="m", fields=there))).fallbacks[0].passport == "trustgate/echo"


async def test_aliases_lead_to_passports(admin: Admin, plane: Plane) -> None:
    made = await admin.execute(PassportAdd(slug="openai/gpt-4o", fields=PassportFields()))
    assert (await admin.execute(AliasSet(name="best", target=made.id))).target == made.slug
    resolved = plane.catalog.resolve("best")
    assert resolved is not None
    assert resolved.passport == made
    await admin.execute(AliasSet(name="best", target="trustgate/echo"))
    assert await admin.execute(AliasList()) == (Alias(name="best", target="trustgate/echo"),)
    await admin.execute(AliasRemove(name="best"))
    assert await admin.execute(AliasList()) == ()


async def test_an_alias_may_lead_under_a_wildcard_but_not_under_the_one_that_takes_all(admin: Admin) -> None:
    await _refusal(admin, AliasSet(name="best", target="openai/gpt-4o"), NotFound, "no passport 'openai/gpt-4o'")
    await admin.execute(PassportAdd(slug="openai/*", fields=PassportFields(api_model_id="*")))
    assert (await admin.execute(AliasSet(name="best", target="openai/gpt-4o"))).target == "openai/gpt-4o"


async def test_names_mean_one_thing(admin: Admin) -> None:
    await admin.execute(AliasSet(name="best", target="trustgate/echo"))
    await _refusal(admin, AliasSet(name="better", target="best"), InvalidRequest, "is an alias itself")
    await _refusal(admin, AliasSet(name="self", target="self"), InvalidRequest, "is an alias itself")
    await _refusal(admin, AliasSet(name="trustgate/echo", target="best"), Conflict, "is a passport")
    await _refusal(admin, PassportAdd(slug="best", fields=PassportFields()), Conflict, "is an alias")
    await _refusal(admin, PassportAdd(slug="trustgate/echo", fields=PassportFields()), Conflict, "already")
    for name in ("", "a*", "passport_1", " x"):
        with pytest.raises(InvalidRequest):
            await admin.execute(AliasSet(name=name, target="trustgate/echo"))


async def test_an_import_adds_changes_and_leaves_alone(admin: Admin) -> None:
    await admin.execute(PassportAdd(slug="old", fields=_MINI))
    await admin.execute(PassportAdd(slug="same", fields=_MINI))
    cheaper = PassportFields(prices=Prices(input_pico_usd=1))
    to_each_other = PassportFields(fallbacks=(Fallback(passport="new2"),))
    result = await admin.execute(
        PassportImport(
            passports=(
                ImportedPassport(slug="old", fields=cheaper),
                ImportedPassport(slug="same", fields=_MINI),
                ImportedPassport(slug="new1", fields=to_each_other),
                ImportedPassport(slug="new2", fields=_MINI),
            )
        )
    )
    assert (result.added, result.changed, result.unchanged) == (("new1", "new2"), ("old",), 1)
    old = await admin.execute(PassportShow(passport="old"))
    # What the file does not speak of stays.
    assert (old.prices, old.base_url) == (Prices(input_pico_usd=1, output_pico_usd=600_000), _MINI.base_url)
    assert old.price_source == "an import"


async def test_an_import_is_taken_whole_or_not_at_all(admin: Admin) -> None:
    good = ImportedPassport(slug="good", fields=_MINI)
    bad = ImportedPassport(slug="bad", fields=PassportFields(context_length=0))
    with pytest.raises(InvalidRequest):
        await admin.execute(PassportImport(passports=(good, bad)))
    assert await _slugs(admin) == _SEEDED


async def test_a_price_table_prices_what_exists_by_any_of_its_names(admin: Admin) -> None:
    await admin.execute(PassportAdd(slug="house-mini", fields=_MINI))
    await admin.execute(PassportAdd(slug="big", fields=PassportFields(api_model_id="claude", provider="anthropic")))
    prices = Prices(input_pico_usd=7)
    result = await admin.execute(
        PassportImport(
            passports=tuple(
                ImportedPassport(slug=name, fields=PassportFields(prices=prices, provider="other"))
                for name in ("gpt-4o-mini", "anthropic/claude", "gpt-5")
            ),
            only_existing=True,
        )
    )
    assert (result.added, set(result.changed)) == ((), {"house-mini", "big"})
    big = await admin.execute(PassportShow(passport="big"))
    assert (big.prices, big.provider, big.api_model_id) == (prices, "anthropic", "claude")


# the books


async def test_the_books_show_everything_acknowledged(admin: Admin, plane: Plane, acme: TenantWithKey) -> None:
    mine = make_entry(1, tenant=acme.tenant.id, key=acme.key.id, tseq=1)
    plane.acknowledged = [mine, make_entry(2, tenant="ten_other")]
    (row,) = await admin.execute(UsageShow(by="tenant", tenant="acme"))
    assert (row.group, row.requests, row.prompt_tokens) == (acme.tenant.id, 1, 100)
    (listed,) = await admin.execute(ReceiptList(tenant="acme"))
    assert (listed.seq, listed.receipt, listed.secret) == (1, mine.receipt, None)
    shown = await admin.execute(ReceiptShow(receipt=mine.receipt.id))
    assert shown.secret == mine.secret.hex()
    assert shown.leaf_hash == leaf_hash(mine.receipt).hex()


async def test_receipts_come_newest_first_in_pages(admin: Admin, plane: Plane) -> None:
    plane.acknowledged = [make_entry(seq) for seq in range(1, 6)]
    first = await admin.execute(ReceiptList(limit=2))
    assert [detail.seq for detail in first] == [5, 4]
    assert [detail.seq for detail in await admin.execute(ReceiptList(limit=9, before_seq=4))] == [3, 2, 1]
    since = await admin.execute(ReceiptList(since_us=FIRST_US + 4_000_000))
    assert [detail.seq for detail in since] == [5, 4]
    for limit in (0, -1, 10**9):
        await _refusal(admin, ReceiptList(limit=limit), InvalidRequest, "limit")


async def test_usage_is_bounded_in_time(admin: Admin, plane: Plane) -> None:
    plane.acknowledged = [make_entry(seq) for seq in range(1, 6)]
    rows = await admin.execute(UsageShow(since_us=FIRST_US + 2_000_000, until_us=FIRST_US + 4_000_000))
    assert [row.requests for row in rows] == [2]


async def test_the_status_is_the_servers(admin: Admin) -> None:
    assert await admin.execute(Status()) == STATUS
