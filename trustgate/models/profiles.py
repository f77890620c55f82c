"""What a profile makes of models: which may serve, in which order, with whose key and at what price; and valid rules.

Owns what makes the rules of a profile valid, and what a request with a tenant's own key costs: the fee.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.models.passports import check_name
from trustgate.models.prices import FREE
from trustgate.settings import why_not_variable_name
from trustgate.types import HeaderValue, OwnCredential, Passport, Prices, ProfileRules, matches

#: Efforts of reasoning, the least first (OpenAI API reference, ``reasoning_effort``).
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
#: The bound on a completion, by the name that profiles have for it, and its other names.
MAX_TOKENS = "max_tokens"
_MAX_TOKENS_NAMES = frozenset({"max_completion_tokens", "max_output_tokens"})
#: What a request is about; a profile that set it would answer another one.
_NOT_PARAMETERS = frozenset(
    (
        *("model", "messages", "prompt", "input", "stream", "stream_options", "system", "instructions"),
        *("previous_response_id", "conversation", "tools", "functions", "n", "best_of", "background", "store"),
    )
)
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
#: A header's name (RFC 9110, section 5.6.2), in lower case.
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,64}")
#: Of a header that goes to the servers of one provider alone: ``name@provider``.
_PROVIDER = re.compile(r"[0-9A-Za-z._-]{1,64}")
#: Headers that belong to the connection, the body or the gateway, and those that hold the upstream's key.
_NOT_HEADERS = frozenset(
    (
        *("host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "te"),
        *("trailer", "upgrade", "keep-alive", "proxy-connection", "expect", "accept-encoding", "user-agent"),
        *("x-request-id", "traceparent", "idempotency-key", "authorization", "x-api-key", "api-key"),
    )
)
#: Headers whose value is a secret by their name: it is to be found elsewhere, and not kept here.
_SECRET = re.compile(r"auth|token|secret|passw|credential|cookie|api.?key|signature|(^|-)key$")
_TEXT_MOST = 4_000
_SYSTEM_MOST = 100_000
_ENTRIES_MOST = 1_000
_MOST_FEE_NANO_USD = 1_000 * 10**9


def may_serve(rules: ProfileRules, passport: Passport) -> bool:
    """Returns whether a passport's provider and slug are among those that may serve."""
    return (rules.providers is None or passport.provider in rules.providers) and (
        rules.targets is None or matches(rules.targets, passport.slug)
    )


def preference(rules: ProfileRules, passport: Passport) -> tuple[int, int]:
    """Returns where a passport that may serve stands in the order: by ``targets``, then by ``providers``."""
    target = next((at for at, glob in enumerate(rules.targets or ()) if matches((glob,), passport.slug)), 0)
    return target, 0 if rules.providers is None else rules.providers.index(passport.provider)


def with_own_key(passport: Passport, own: OwnCredential) -> Passport:
    """Returns the passport as it is for a tenant with a key of its own for it."""
    return msgspec.structs.replace(passport, credential_env=own.env, credential_file=own.file)


def fee_prices(own: OwnCredential) -> Prices:
    """Returns what a request with a tenant's own key costs here: the fee, whatever it uses."""
    return Prices(call_nano_usd=own.fee_nano_usd) if own.fee_nano_usd else FREE


def lower_effort(one: object, most: str) -> str:
    """Returns the lesser of two efforts; ``most`` for what is none."""
    return one if isinstance(one, str) and one in EFFORTS and EFFORTS.index(one) <= EFFORTS.index(most) else most


def parameter_name(name: str) -> str:
    """Returns the name that profiles have for a parameter of a request."""
    return MAX_TOKENS if name in _MAX_TOKENS_NAMES else name


# what is valid


def check_rules(rules: ProfileRules) -> None:
    """Raise ``InvalidRequest``, naming the member that cannot be so."""
    for name, target in rules.names.items():
        check_name(name, f"The name {name[:40]!r}")
        check_name(target, f"The model {target[:40]!r}")
        if "*" in name:
            raise InvalidRequest("A name of a profile cannot have a * in it.", param="names")
    if rules.default_model is not None:
        check_name(rules.default_model, "The default model")
    if rules.default_for_unknown and rules.default_model is None:
        raise InvalidRequest(
            "There is no default model for names that do not exist.",
            hint="Name it too: --default-model MODEL",
            param="default_for_unknown",
        )
    for member in (rules.names, rules.parameters, rules.defaults, rules.caps, rules.headers, rules.credentials):
        if len(member) > _ENTRIES_MOST:
            raise InvalidRequest(f"A profile has at most {_ENTRIES_MOST} entries of a kind.")
    _check_parameters(rules)
    if rules.system is not None and not 0 < len(rules.system) <= _SYSTEM_MOST:
        raise InvalidRequest(f"The system message must have 1 to {_SYSTEM_MOST:,} characters.", param="system")
    for words in (rules.providers, rules.targets):
        if words is not None and (not words or not all(_is_word(word) for word in words)):
            raise InvalidRequest("Providers and targets must be names, one at least.", param="providers")
    for name, value in rules.headers.items():
        _check_header(name, value)
    for slug, own in rules.credentials.items():
        _check_credential(slug, own)


def _check_parameters(rules: ProfileRules) -> None:
    for name in (*rules.parameters, *rules.defaults, *rules.caps):
        if not _PARAMETER.fullmatch(name):
            raise InvalidRequest(f"{name[:40]!r} is not the name of a parameter.", param="parameters")
        if name in _NOT_PARAMETERS:
            raise InvalidRequest(
                f"{name} cannot be set by a profile: it is what a request is about.", param="parameters"
            )
        if name in _MAX_TOKENS_NAMES:
            raise InvalidRequest(f"A profile calls this {MAX_TOKENS}, on every endpoint.", param="parameters")
    for values in (rules.parameters, rules.defaults, rules.caps):
        bound = values.get(MAX_TOKENS)
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or not 1 <= bound <= 10**9):
            raise InvalidRequest(f"{MAX_TOKENS} must be a number from 1 on.", param="parameters")
    for name, most in rules.caps.items():
        if name == "reasoning_effort":
            if most not in EFFORTS:
                raise InvalidRequest(f"The most effort is one of {', '.join(EFFORTS)}.", param="caps")
        elif isinstance(most, bool) or not isinstance(most, int | float) or not -(10**15) <= most <= 10**15:
            raise InvalidRequest(f"The most that {name} may be is a number, below 10^15.", param="caps")


def header_parts(key: str) -> tuple[str, str]:
    """Returns a header's name, and the provider whose servers alone get it ("": all do).

    ``key``: as the rules have it, ``name@provider``.
    """
    name, _, provider = key.partition("@")
    return name, provider


def _check_header(key: str, value: HeaderValue) -> None:
    name, provider = header_parts(key)
    if key != name and not _PROVIDER.fullmatch(provider):
        raise InvalidRequest(f"Behind the @ of {key[:80]!r} a provider's name is expected.", param="headers")
    if not _HEADER.fullmatch(name):
        raise InvalidRequest(f"{name[:40]!r} is not the name of a header in lower case.", param="headers")
    if name in _NOT_HEADERS:
        raise InvalidRequest(
            f"The header {name} cannot be set by a profile.",
            hint="The upstream's key is a credential: --credential-env PASSPORT=VARIABLE",
            param="headers",
        )
    if sum(each is not None for each in (value.text, value.env, value.file)) != 1:
        raise InvalidRequest(f"The header {name} has one value: a text, a variable or a file.", param="headers")
    if value.text is not None:
        if _SECRET.search(name):
            raise InvalidRequest(
                f"The header {name} seems to hold a secret, which is not kept here.",
                hint=f"Name the variable or the file that has it: --header-env {key}=VARIABLE",
                param="headers",
            )
        if len(value.text) > _TEXT_MOST or not value.text.isprintable() or not value.text.isascii():
            raise InvalidRequest(f"The header {name} must be printable ASCII.", param="headers")
    _check_place(value.env, value.file, "headers")


def _check_credential(slug: str, own: OwnCredential) -> None:
    check_name(slug, "The passport")
    if (own.env is None) == (own.file is None):
        raise InvalidRequest(
            f"The key for {slug} is in a variable or in a file.",
            hint=f"--credential-env {slug}=VARIABLE or --credential-file {slug}=FILE",
            param="credentials",
        )
    _check_place(own.env, own.file, "credentials")
    if not 0 <= own.fee_nano_usd <= _MOST_FEE_NANO_USD:
        raise InvalidRequest("The fee of a request must be between 0 and 1,000 USD.", param="credentials")


def _check_place(env: str | None, file: str | None, param: str) -> None:
    if env is not None and (fault := why_not_variable_name(env)) is not None:
        raise InvalidRequest(f"The variable {fault}.", param=param)
    if file is not None and (not file or not file.isprintable()):
        raise InvalidRequest("The file must be the path of a file.", param=param)


def _is_word(word: str) -> bool:
    return 0 < len(word) <= 200 and word.isprintable() and word == word.strip()


def summed_up(rules: ProfileRules) -> Iterable[tuple[str, Any]]:
    """Returns the members that are set, by name."""
    return ((name, value) for name in rules.__struct_fields__ if (value := getattr(rules, name)) not in (None, {}))
