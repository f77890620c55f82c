"""What can be added and changed in the console: each action is one form, one command, one line of the command line.

The commands are those of ``admin.commands``, and what is written in a field is read as the command line reads it
(``admin.notation``). A test gives each action's line to the command line and compares the commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from trustgate.admin import notation
from trustgate.admin.commands import Command, Reload
from trustgate.admin.log_commands import ReceiptMend
from trustgate.admin.model_commands import AliasRemove, AliasSet, PassportAdd, PassportSet, PassportStatus
from trustgate.admin.money import PaymentResolve
from trustgate.console.callers import BUDGET_ACTIONS, KEY_ACTIONS, PLAN_ACTIONS, TENANT_ACTIONS
from trustgate.console.fields import (
    NONE,
    Action,
    Field,
    Given,
    or_absent,
    or_none,
)
from trustgate.console.selling import END_USER_ACTIONS, PAYMENT_ACTIONS, PROFILE_ACTIONS
from trustgate.console.upkeep import UPKEEP_ACTIONS
from trustgate.models.passports import PassportFields
from trustgate.models.prices import slips
from trustgate.types import Prices

# models

_PASSPORT = Field("passport", "Passport", required=True, choices="models")
_PRICES = (
    Field("input_pico_usd", "Prompt, USD per million tokens", "--input-price", or_none(notation.usd_per_million)),
    Field("output_pico_usd", "Completion, per million", "--output-price", or_none(notation.usd_per_million)),
    Field(
        "cached_input_pico_usd",
        "Cached prompt, per million",
        "--cached-input-price",
        or_none(notation.usd_per_million),
    ),
    Field("call_nano_usd", "A call, USD", "--call-price", or_none(notation.usd)),
)
_OPTIONAL = (
    Field("base_url", "LLM server", "--base-url", or_none(str), example="https://llm.example.com/v1"),
    Field("credential_env", "Variable with its key", "--credential-env", or_none(str), example="OPENAI_API_KEY"),
    Field("context_length", "Context, tokens", "--context-length", or_none(notation.whole)),
    Field("max_output_tokens", "Largest completion, tokens", "--max-output-tokens", or_none(notation.whole)),
)
_API_MODEL_ID = Field("api_model_id", "Sent as", "--api-model-id", help="The LLM server's name for the model")
_MEANT = Field("yes", "These prices are meant, though they look like a slip of the unit", "--yes", kind="check")
_PASSPORT_FIELDS = (_API_MODEL_ID, *_OPTIONAL, *(field._replace(group="Prices") for field in (*_PRICES, _MEANT)))


def _passport_fields(given: Given) -> dict[str, Any]:
    names = ("api_model_id", *(field.name for field in _OPTIONAL))
    return {name: given[name] for name in names if name in given and given[name] is not NONE}


def _prices(given: Given) -> dict[str, Any]:
    """Returns the prices that are no ``none``. Raises ``ValueError`` for what looks like a slip of the unit."""
    prices = {field.name: given[field.name] for field in _PRICES if or_absent(given.get(field.name)) is not None}
    found = slips(Prices(**prices))
    if found and "yes" not in given:
        raise ValueError(
            f"These prices look like a slip of the unit: {', '.join(found[:5])}. Prices are USD per million tokens. "
            "If they are meant, tick that under Prices."
        )
    return prices


def _passport_add(given: Given) -> Command[Any]:
    prices = _prices(given)
    fields = _passport_fields(given)
    if prices:
        fields["prices"] = Prices(**prices)
    return PassportAdd(slug=given["slug"], fields=PassportFields(**fields))


def _passport_set(given: Given) -> Command[Any]:
    _prices(given)
    return PassportSet(
        passport=given["passport"],
        fields=PassportFields(**_passport_fields(given)),
        unset=tuple(field.name for field in _OPTIONAL if given.get(field.name) is NONE),
        prices={field.name: or_absent(given[field.name]) for field in _PRICES if field.name in given},
    )


def _status(word: str, status: Literal["active", "deprecated", "revoked"], title: str, ask: str = "") -> Action:
    return Action(
        ("passport", word),
        title,
        (_PASSPORT,),
        lambda given: PassportStatus(passport=given["passport"], status=status),
        lambda passport: ("models", passport.id),
        ask=ask,
    )


_MODELS = {
    "passport.add": Action(
        ("passport", "add"),
        "Add a model",
        (Field("slug", "Slug", required=True, help="The name clients ask for; * is a wildcard"), *_PASSPORT_FIELDS),
        _passport_add,
        lambda passport: ("models", passport.id),
    ),
    "passport.set": Action(
        ("passport", "set"),
        "Change a model",
        (_PASSPORT, *_PASSPORT_FIELDS),
        _passport_set,
        lambda passport: ("models", passport.id),
        note="What is left empty stays; none clears an optional value.",
    ),
    "passport.activate": _status("activate", "active", "Activate a model"),
    "passport.deprecate": _status("deprecate", "deprecated", "Deprecate a model"),
    "passport.revoke": _status("revoke", "revoked", "Revoke a model", "Requests for it are refused."),
    "alias.set": Action(
        ("passport", "alias"),
        "Set an alias",
        (Field("name", "Name", required=True), Field("slug", "Slug", required=True, choices="models")),
        lambda given: AliasSet(name=given["name"], target=given["slug"]),
        lambda alias: ("models",),
    ),
    "alias.remove": Action(
        ("passport", "alias"),
        "Remove an alias",
        (Field("name", "Name", "--remove", required=True),),
        lambda given: AliasRemove(name=given["name"]),
        lambda alias: ("models",),
        ask="Requests for this name are refused, unless a passport has it.",
    ),
}

# the rest


def _payment_resolve(given: Given) -> Command[Any]:
    if ("settled" in given) is ("failed" in given):
        raise ValueError("Give the transaction, or tick that it never settled.")
    return PaymentResolve(payment=given["payment"], settled=given.get("settled"))


_OTHERS = {
    "payment.resolve": Action(
        ("payment", "resolve"),
        "Resolve a payment",
        (
            Field("payment", "Payment", required=True),
            Field("settled", "It settled in the transaction", "--settled"),
            Field("failed", "It did not settle and never will", "--failed", kind="check"),
        ),
        _payment_resolve,
        lambda detail: ("payments", detail.payment.id),
        ask="Look it up on the chain first: what is booked here is not undone.",
    ),
    "receipt.mend": Action(
        ("receipt", "mend"),
        "Mend receipts that were set aside",
        (Field("accept", "Accept those that still do not fit", "--accept", kind="check"),),
        lambda given: ReceiptMend(accept="accept" in given),
        lambda left: ("receipts",),
    ),
    "reload": Action(("reload",), "Reload the settings", (), lambda given: Reload(), lambda reloaded: ("settings",)),
}

#: Every action, by its name in addresses.
ACTIONS: Final[Mapping[str, Action]] = {
    **TENANT_ACTIONS,
    **KEY_ACTIONS,
    **PLAN_ACTIONS,
    **BUDGET_ACTIONS,
    **_MODELS,
    **PAYMENT_ACTIONS,
    **END_USER_ACTIONS,
    **PROFILE_ACTIONS,
    **UPKEEP_ACTIONS,
    **_OTHERS,
}
