"""The pages of models: passports, prices, aliases, profiles."""

from __future__ import annotations

import msgspec

from trustgate.admin.model_commands import AliasList, PassportList, PassportShow
from trustgate.admin.money import PriceFound, PriceHistory, PriceShow
from trustgate.admin.profiling import ProfileList, ProfileState
from trustgate.console.lists import Filter, ListColumn, listing
from trustgate.console.view import Shown, View, do, link, when, word
from trustgate.console.words import prices_text
from trustgate.errors import TrustGateError
from trustgate.formats.written import names, number
from trustgate.types import Passport
from trustgate.web.html import join, tag
from trustgate.web.parts import buttons, card, code, facts, heading, identifier, table


def _keeps(item: Passport, chosen: str) -> bool:
    """Returns whether a list shows it: those of a status, or (``now``) all that are not gone."""
    return item.status == chosen or (chosen == "now" and item.status != "revoked")


async def models(view: View) -> Shown:
    found = await view.admin.execute(PassportList(revoked=True))
    aliases = await view.admin.execute(AliasList())
    profiles = await view.admin.execute(ProfileList())
    columns: list[ListColumn[Passport]] = [
        ListColumn("Model", lambda p: link(p.slug, "models", p.id), lambda p: p.slug.casefold()),
        ListColumn("Sent as", lambda p: p.api_model_id, lambda p: p.api_model_id),
        ListColumn("Where", lambda p: p.base_url or "the default upstream", lambda p: p.base_url or ""),
        ListColumn("Price", lambda p: prices_text(p.prices)),
        ListColumn("Status", lambda p: word(p.status), lambda p: p.status),
    ]
    statuses = [("now", "all but revoked"), ("active", "active"), ("deprecated", "deprecated"), ("revoked", "revoked")]
    status: Filter[Passport] = Filter(
        "status",
        "Status",
        statuses,
        lambda p, chosen: p.status == chosen or (chosen == "now" and p.status != "revoked"),
    )
    body = join(
        heading("Models", beside=do("Add a model", "passport.add")),
        listing(
            view,
            ("models",),
            found,
            columns,
            caption="Passports",
            empty="There is no passport.",
            text=lambda p: f"{p.slug} {p.api_model_id} {p.id} {p.base_url or ''}",
            filters=[status],
        ),
        heading("Aliases", level=2, beside=do("Set an alias", "alias.set")),
        table(
            "Aliases",
            ["Name", "Stands for", "Change"],
            [(each.name, each.target, do("Remove", "alias.remove", name=each.name)) for each in aliases],
            empty="There is no alias: another name for a model, for all tenants.",
            hide_caption=True,
        ),
        heading("Profiles", level=2, beside=do("Set a profile", "profile.set")),
        table(
            "Profiles",
            ["Of", "Has rules on", "Changed"],
            [_profile_row(each) for each in profiles],
            empty="There is no profile: model names and settings of their own for a plan, a tenant or a key.",
            hide_caption=True,
        ),
    )
    return Shown("Models", body)


def _profile_row(found: ProfileState) -> tuple[object, ...]:
    said = [
        name.replace("_", " ") for name, value in msgspec.structs.asdict(found.rules).items() if value not in (None, {})
    ]
    return link(f"{found.kind} {found.owner}", "profiles", *found.id.split(":", 1)), names(said), when(found.changed_us)


async def model(view: View, ref: str) -> Shown:
    found = await view.admin.execute(PassportShow(passport=ref))
    history = await view.admin.execute(PriceHistory(passport=found.id))
    try:
        now = await view.admin.execute(PriceShow(name=found.slug))
    except TrustGateError:
        now = ()
    given = {"passport": found.slug}
    body = join(
        heading(found.slug, beside=word(found.status)),
        buttons(
            do("Change", "passport.set", **given),
            do("Activate", "passport.activate", **given) if found.status != "active" else None,
            do("Deprecate", "passport.deprecate", **given) if found.status == "active" else None,
            do("Revoke", "passport.revoke", **given) if found.status != "revoked" else None,
        ),
        card(
            "Passport",
            facts(
                [
                    ("Id", identifier(found.id, "copy-id")),
                    ("Sent as", found.api_model_id),
                    ("Where", found.base_url or "the default upstream"),
                    ("Provider", found.provider),
                    ("Its key", found.credential_env or found.credential_file or "the default upstream's, or none"),
                    (
                        "Context",
                        "not known" if found.context_length is None else f"{number(found.context_length)} tokens",
                    ),
                    ("Can", names(found.capabilities)),
                    ("Falls back on", names([each.passport for each in found.fallbacks], nothing="nothing")),
                ]
            ),
        ),
        tag("h2", None, "Price now"),
        table(
            "Price now",
            ["Price", "From", "Source", "Hash"],
            [
                (prices_text(each.prices), when(each.from_us), each.source or "not known", code(each.price_hash))
                for each in now
            ],
            empty="It has no price.",
            hide_caption=True,
        ),
        tag("h2", None, "Prices of its own before"),
        table(
            "Earlier prices",
            ["Price", "From", "Source", "Hash"],
            [_price_row(each) for each in history],
            empty="It has never had one.",
            hide_caption=True,
        ),
    )
    return Shown(found.slug, body)


def _price_row(found: PriceFound) -> tuple[object, ...]:
    return prices_text(found.prices), when(found.from_us), found.source or "not known", code(found.price_hash)
