"""The actions on how tenants pay, on end users and on profiles."""

from __future__ import annotations

from typing import Any

from trustgate.admin import notation
from trustgate.admin.budgeting import EndUserSet
from trustgate.admin.commands import Command
from trustgate.admin.money import OfferWanted, PaymentClose, PaymentOff, PaymentOpen, PaymentSet
from trustgate.admin.profile_words import GivenRules
from trustgate.admin.profiling import ProfileClear, ProfilePut
from trustgate.console.fields import NONE, Action, Field, Given, or_absent, or_none, read_lines
from trustgate.types import ProfileRules

_TENANT = Field("tenant", "Tenant", required=True, choices="tenants")

# how tenants pay

_NETWORKS = "solana, solana-devnet, base, base-sepolia, or a CAIP-2 id"
_NETWORK = Field("network", "Network", "--network", help=_NETWORKS, example="base")


def _payment_set(given: Given) -> Command[Any]:
    network, pay_to = given.get("network"), given.get("pay_to")
    if (network is None) is not (pay_to is None):
        raise ValueError("A network needs the wallet that receives there, and the wallet its network.")
    offers: tuple[OfferWanted, ...] = ()
    token = ("asset", "facilitator", "decimals", "asset_name", "asset_version")
    if network is not None:
        more = {name: given[name] for name in token if name in given}
        offers = (OfferWanted(network=network, pay_to=given["pay_to"], **more),)
    elif any(name in given for name in token):
        raise ValueError("A token or a facilitator is that of a network: give the network and the wallet too.")
    price = given.get("price")
    return PaymentSet(
        tenant=given["tenant"],
        mode=given.get("mode"),
        price_nano_usd=or_absent(price),
        by_passport=price is NONE,
        top_up_nano_usd=given.get("top_up"),
        offers=offers,
        flow=given.get("flow"),
        contact=or_absent(given["contact"]) or "" if "contact" in given else None,
    )


def _terms_of(detail: Any) -> tuple[str, ...]:
    return "tenants", detail.tenant.id


PAYMENT_ACTIONS = {
    "payment.set": Action(
        ("payment", "set"),
        "Set how a tenant pays",
        (
            _TENANT,
            Field(
                "mode",
                "Mode",
                "--mode",
                options=("per-request", "prepaid"),
                help="For each request, or a balance that requests draw on",
            ),
            _NETWORK,
            Field(
                "pay_to", "Paid to", "--pay-to", help="Your wallet on that network", example="0x… or a Solana address"
            ),
            Field(
                "price", "Price of a request, USD", "--price", or_none(notation.usd), help="none: those of the models"
            ),
            Field("top_up", "Top-up, USD", "--top-up", notation.usd, help="Of a prepaid balance", example="1.00"),
            Field(
                "flow",
                "Settled",
                "--flow",
                options=("authorization", "upfront"),
                help="authorization: once there is an answer; upfront: before the LLM server is asked",
            ),
            Field("contact", "Contact", "--contact", or_none(str), help="A URL or mail address that refusals name"),
            Field("asset", "Token", "--asset", help="Worth one USD: usdc, or its address", group="Token, facilitator"),
            Field(
                "facilitator",
                "Facilitator",
                "--facilitator",
                help="Its URL, or embedded: this gateway settles, on Solana",
                group="Token, facilitator",
            ),
            Field("decimals", "Decimals", "--decimals", notation.whole, group="Token, facilitator"),
            Field("asset_name", "Name in its EIP-712 domain", "--asset-name", group="Token, facilitator"),
            Field("asset_version", "Version in that domain", "--asset-version", group="Token, facilitator"),
        ),
        _payment_set,
        _terms_of,
        note="Checked before it is saved. What is left empty stays, and so do offers on other networks: fill this in "
        "once for each network. Prepaid without any network draws on the credit that you add.",
    ),
    "payment.off": Action(
        ("payment", "off"),
        "Stop charging a tenant",
        (_TENANT, _NETWORK._replace(help="Only this one; the others stay")),
        lambda given: PaymentOff(tenant=given["tenant"], network=given.get("network")),
        _terms_of,
        ask="Its requests cost nothing from then on, unless networks are left. Its balance stays.",
    ),
    "payment.open": Action(
        ("payment", "open"),
        "Sell without a key",
        (_TENANT,),
        lambda given: PaymentOpen(tenant=given["tenant"]),
        _terms_of,
        ask="Callers without an API key are served, for money, at this tenant's terms and within its plan.",
    ),
    "payment.close": Action(
        ("payment", "close"),
        "Stop selling without a key",
        (_TENANT,),
        lambda given: PaymentClose(tenant=given["tenant"]),
        _terms_of,
    ),
}

# end users

_USER = Field("user", "End user", required=True, help="As the app names it, or its pseudonym (eu_…)")


def _end_user_limit(given: Given) -> Command[Any]:
    if sum(name in given for name in ("usd", "number", "reset")) != 1:
        raise ValueError("An end user has one amount of a budget: in USD, as a number, or the budget's own again.")
    return EndUserSet(
        tenant=given["tenant"],
        end_user=given["user"],
        budget=given["budget"],
        amount=given.get("usd", given.get("number")),
    )


def _end_users(usage: Any) -> tuple[str, ...]:
    return ("end-users",)


END_USER_ACTIONS = {
    "end-user.block": Action(
        ("end-user", "block"),
        "Block an end user",
        (_TENANT, _USER),
        lambda given: EndUserSet(tenant=given["tenant"], end_user=given["user"], blocked=True),
        _end_users,
        ask="Its requests are refused, from the next one on. Others of the same key are not.",
    ),
    "end-user.unblock": Action(
        ("end-user", "unblock"),
        "Serve an end user again",
        (_TENANT, _USER),
        lambda given: EndUserSet(tenant=given["tenant"], end_user=given["user"], blocked=False),
        _end_users,
    ),
    "end-user.limit": Action(
        ("end-user", "limit"),
        "Limit an end user",
        (
            _TENANT,
            _USER,
            Field("budget", "Budget", "--budget", required=True, choices="budgets", help="One with: each end-user"),
            Field("usd", "Amount, USD", "--usd", notation.usd),
            Field("number", "or tokens or requests", "--number", notation.whole),
            Field("reset", "Give back the budget's own amount", "--reset", kind="check"),
        ),
        _end_user_limit,
        _end_users,
        note="Another amount of a budget than the other end users have.",
    ),
}

# profiles

_OWNER = (
    Field("plan", "Of the plan", "--plan", choices="plans"),
    Field("tenant", "or of the tenant", "--tenant", choices="tenants"),
    Field("key", "or of the key", "--key", help="Its id, or its shortened form"),
)


def _owner(given: Given) -> dict[str, str]:
    """Returns the one owner that was given. Raises ``ValueError`` where there are none or several."""
    found = {name: given[name] for name in ("plan", "tenant", "key") if name in given}
    if len(found) != 1:
        raise ValueError("A profile is a plan's, a tenant's or a key's: give one of the three.")
    return found


def _system(text: str) -> str:
    if text.startswith("@"):
        raise ValueError("A file is read by the command line alone: write the message itself.")
    return text


_RULES = (
    Field("names", "Names of its own", "--name", read_lines, kind="lines", example="gpt-4=llama"),
    Field("only_own_names", "No models but those", "--only-own-names", options=("yes", "no", "none")),
    Field("default_model", "Default model", "--default-model", help="For requests that name none"),
    Field("unknown_models", "Names that do not exist", "--unknown-models", options=("refuse", "default", "none")),
    Field(
        *("set", "Set", "--set", read_lines),
        kind="lines",
        example="temperature=0",
        help="Whatever the request has",
        group="Parameters",
    ),
    Field(
        *("default", "Default", "--default", read_lines),
        kind="lines",
        example="top_p=0.9",
        help="Where the request has none",
        group="Parameters",
    ),
    Field(
        *("cap", "Most", "--cap", read_lines),
        kind="lines",
        example="max_tokens=800",
        help="The most that a request may ask for",
        group="Parameters",
    ),
    Field("system", "System message", "--system", _system, help="Before each request's own", group="Parameters"),
    Field("provider", "Providers", "--provider", help="Those that may serve, the preferred first", group="Servers"),
    Field("target", "Passports", "--target", help="Likewise, by glob", example="local/*, openai/*", group="Servers"),
    Field(*("header", "Headers", "--header", read_lines), kind="lines", example="x-team=red", group="Servers"),
    Field(*("header_env", "Headers, from variables", "--header-env", read_lines), kind="lines", group="Servers"),
    Field(*("header_file", "Headers, from files", "--header-file", read_lines), kind="lines", group="Servers"),
    Field(
        *("credential_env", "Upstream keys, from variables", "--credential-env", read_lines),
        kind="lines",
        example="PASSPORT=VARIABLE",
        group="Upstream keys of its own",
    ),
    Field(
        *("credential_file", "Upstream keys, from files", "--credential-file", read_lines),
        kind="lines",
        example="PASSPORT=FILE",
        group="Upstream keys of its own",
    ),
    Field(
        *("fee", "Fee of a request, USD", "--fee", read_lines),
        kind="lines",
        example="PASSPORT=0.001",
        group="Upstream keys of its own",
    ),
)


def _profile_set(given: Given) -> Command[Any]:
    owner = _owner(given)
    rules = GivenRules()
    rules.names(given.get("names"))
    rules.single("own_names_only", given.get("only_own_names"), lambda text: text == "yes")
    rules.single("default_model", given.get("default_model"))
    rules.single("default_for_unknown", given.get("unknown_models"), lambda text: text == "default")
    rules.parameters("parameters", "--set", given.get("set"))
    rules.parameters("defaults", "--default", given.get("default"))
    rules.parameters("caps", "--cap", given.get("cap"), words=True)
    rules.single("system", given.get("system"))
    for member, name in (("providers", "provider"), ("targets", "target")):
        rules.words(member, [given[name]] if name in given else None)
    for kind, name in (("text", "header"), ("env", "header_env"), ("file", "header_file")):
        rules.headers(kind, given.get(name))
    for kind in ("env", "file"):
        rules.credentials(kind, given.get(f"credential_{kind}"))
    rules.fee(given.get("fee"))
    if rules.is_empty:
        raise ValueError("No change was given.")
    return ProfilePut(**owner, rules=ProfileRules(**rules.members), removed=rules.removed, fees=rules.fees)


def _profile(state: Any) -> tuple[str, ...]:
    return ("profiles", *state.id.split(":", 1))


PROFILE_ACTIONS = {
    "profile.set": Action(
        ("profile", "set"),
        "Change a profile",
        (*_OWNER, *_RULES),
        _profile_set,
        _profile,
        note="What is left empty stays. One entry a line; none takes an entry or a value away: gpt-4=none. A key's "
        "profile goes before its tenant's, a tenant's before its plan's.",
    ),
    "profile.clear": Action(
        ("profile", "clear"),
        "Clear a profile",
        _OWNER,
        lambda given: ProfileClear(**_owner(given)),
        lambda state: ("models",),
        ask="All rules of this profile end, from the next request on.",
    ),
}
