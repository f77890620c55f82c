"""Which model a name means: passports and aliases in memory, and the order in which they answer.

Owns resolution: a profile's name → id, slug or ``api_model_id`` → alias → wildcard (the most specific first) → none.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from trustgate.errors import NotFound
from trustgate.formats.likeness import did_you_mean
from trustgate.models.pricelist import PriceBook, newest
from trustgate.models.prices import is_priced
from trustgate.models.pricing import PriceTable
from trustgate.models.profiles import fee_prices, may_serve, with_own_key
from trustgate.settings import BUILTIN_SCHEME
from trustgate.types import PROMPT_PREFIX, SERVICE_PREFIX, Alias, Passport, PriceList, Profile, ProfileRules


class Resolved(msgspec.Struct, frozen=True):
    """A passport, and the model name to send its upstream (a wildcard passport fills it from the request)."""

    passport: Passport
    upstream_model: str
    #: The names plans are matched against: the passport's own, or for a wildcard the model's name. Never an
    #: alias, which could otherwise open what a plan does not include.
    names: tuple[str, ...]
    price: PriceTable
    #: It is asked with a key of the tenant's own.
    has_own_key: bool = False

    def all_names(self, asked: str) -> tuple[str, ...]:
        """Returns ``names``, and the name asked for: what budgets are matched against."""
        return self.names if asked in self.names or not asked else (*self.names, asked)


class Catalog:
    def __init__(
        self,
        passports: Iterable[Passport],
        aliases: Iterable[Alias],
        price_lists: Iterable[PriceList] = (),
        default_base_url: str = "",
    ) -> None:
        """``price_lists``: the installed ones, the oldest first. ``default_base_url``: of the default upstream."""
        self._price_lists = tuple(price_lists)
        self._default_base_url = default_base_url
        self._book: PriceBook | None = None
        self._passports = {passport.id: passport for passport in passports}
        self._aliases = {alias.name: alias for alias in aliases}
        self._reindex()

    def _reindex(self) -> None:
        #: Another object whenever a name may mean, or cost, something else than before.
        self.state = object()
        self._by_name: dict[str, Passport] = {}
        serving = [passport for passport in self._passports.values() if passport.status != "revoked"]
        #: What gives calls without a meter their price; no model's.
        self._services = {passport.slug: passport for passport in serving if passport.is_service}
        serving = [passport for passport in serving if not passport.is_service]
        # Later rounds give way to earlier ones: an id beats a slug, a slug an upstream's name for the model.
        for name_of in (_passport_id, _slug, _api_model_id):
            for passport in serving:
                if not passport.is_wildcard:
                    self._by_name.setdefault(name_of(passport), passport)
        # A revoked model must not come back through a wildcard, under any of its names.
        self._revoked_names = {
            name_of(passport)
            for name_of in (_passport_id, _slug, _api_model_id)
            for passport in self._passports.values()
            if passport.status == "revoked"
        }
        # The longest literal part is the most specific pattern.
        wildcards = [passport for passport in serving if passport.is_wildcard]
        self._wildcards = sorted(wildcards, key=lambda p: (-len(p.slug.replace("*", "")), p.slug))
        #: Names already resolved; bounded, since callers choose the names.
        self._resolved: dict[str, Resolved | None] = {}
        #: The same, by profile and name.
        self._with_own_key: dict[tuple[str, str, str, tuple[str, ...]], Resolved] = {}
        self._resolved_under: dict[tuple[str, str], Resolved | None] = {}

    # what the request path asks

    def resolve(self, name: str, profile: Profile | None = None) -> Resolved | None:
        """Returns the passport that answers for a model name, or None.

        ``profile``: the caller's, merged (access.profiles); its names come first, its keys and fees hold.
        """
        if profile is not None:
            return self._resolve_under(profile, name)
        try:
            return self._resolved[name]
        except KeyError:
            pass
        resolved = self._resolve(name)
        if len(self._resolved) < _RESOLVED_MAX:
            self._resolved[name] = resolved
        return resolved

    def _resolve_under(self, profile: Profile, name: str) -> Resolved | None:
        key = profile.id, name
        try:
            return self._resolved_under[key]
        except KeyError:
            pass
        rules = profile.rules
        resolved = self._named_by(rules, name)
        # A request with a stored prompt may name no model either.
        if rules.default_model is not None and (rules.default_for_unknown or name.startswith(PROMPT_PREFIX)):
            resolved = resolved or self._named_by(rules, rules.default_model)
        if resolved is not None:
            may = (may_serve(rules, each.passport) for each in (resolved, *self.fallbacks(resolved.passport)))
            resolved = self.under(profile, resolved) if any(may) else None
        if len(self._resolved_under) < _RESOLVED_MAX:
            self._resolved_under[key] = resolved
        return resolved

    def _named_by(self, rules: ProfileRules, name: str) -> Resolved | None:
        target = rules.names.get(name)
        if target is None and rules.own_names_only and name != rules.default_model:
            return None
        return self.resolve(name if target is None else target)

    def service(self, endpoint: str) -> Passport | None:
        """Returns the passport that gives the calls of an endpoint without a meter their price, where there is one."""
        return self._services.get(SERVICE_PREFIX + endpoint)

    def price_of(self, passport: Passport, upstream_model: str, name: str = "") -> PriceTable:
        """Returns what a model costs: by its passport, else by the price list for its server, else not priced.

        ``name``: as the request has it, where that is another than the upstream's.
        """
        if is_priced(passport.prices) or (passport.base_url or "").startswith(BUILTIN_SCHEME):
            return PriceTable(passport.prices, passport.price_source)
        book = self.price_book
        listed = book.find(passport.base_url or self._default_base_url, *filter(None, (upstream_model, name)))
        return PriceTable(passport.prices) if listed is None else book.price(listed)

    @property
    def price_book(self) -> PriceBook:
        """The price list that holds; read when it is first wanted."""
        if self._book is None:
            self._book = newest(self._price_lists)
        return self._book

    def _resolve(self, name: str) -> Resolved | None:
        alias = self._aliases.get(name)
        passport = self._by_name.get(name)
        if passport is None and alias is not None:
            name = alias.target
            passport = self._by_name.get(name)
        if passport is not None:
            return self._resolved_as(passport, passport.api_model_id, (passport.slug, passport.id))
        # A wildcard stands for models, and these are none.
        if name in self._revoked_names or name.startswith((SERVICE_PREFIX, PROMPT_PREFIX)):
            return None
        for wildcard in self._wildcards:
            if fnmatchcase(name, wildcard.slug):
                return self._resolved_as(wildcard, _fill(wildcard, name), (name,))
        return None

    def _resolved_as(self, passport: Passport, upstream_model: str, names: tuple[str, ...]) -> Resolved:
        return Resolved(passport, upstream_model, names, self.price_of(passport, upstream_model, names[0]))

    def fallbacks(self, passport: Passport, profile: Profile | None = None) -> list[Resolved]:
        """Returns all that may answer in a passport's place, in no order; ``profile``: of those that its rules let."""
        found = (self.resolve(fallback.passport) for fallback in passport.fallbacks)
        others = [resolved for resolved in found if resolved is not None]
        if profile is None:
            return others
        return [self.under(profile, each) for each in others if may_serve(profile.rules, each.passport)]

    def may_serve(self, profile: Profile, resolved: Resolved) -> bool:
        """Returns whether the profile lets this passport serve."""
        return may_serve(profile.rules, resolved.passport)

    def under(self, profile: Profile, resolved: Resolved) -> Resolved:
        """Returns what was resolved without a profile as it is under one: with the tenant's key, at its fee."""
        own = profile.rules.credentials.get(resolved.passport.slug)
        if own is None or resolved.has_own_key:
            return resolved
        # Its names too: a wildcard may lead several to one model, and where an id leads there is none.
        key = profile.id, resolved.passport.id, resolved.upstream_model, resolved.names
        made = self._with_own_key.get(key)
        if made is None:
            if len(self._with_own_key) >= _RESOLVED_MAX:
                self._with_own_key.clear()
            made = self._with_own_key[key] = msgspec.structs.replace(
                resolved,
                passport=with_own_key(resolved.passport, own),
                price=PriceTable(fee_prices(own), "the fee for requests with an upstream key of the tenant's own"),
                has_own_key=True,
            )
        return made

    # what the admin room changes

    @property
    def price_lists(self) -> tuple[PriceList, ...]:
        """The installed ones, the oldest first."""
        return self._price_lists

    def use(self, price_list: PriceList) -> None:
        """Price by this list from the next request on."""
        self._price_lists = (*self._price_lists, price_list)
        self._book = None
        self._reindex()

    def apply_settings(self, default_base_url: str) -> None:
        """Go by another default upstream from the next request on."""
        if default_base_url != self._default_base_url:
            self._default_base_url = default_base_url
            self._reindex()

    def put(self, *records: Passport | Alias) -> None:
        """All at once: the index is made anew, which takes as long as there are models."""
        for record in records:
            if isinstance(record, Passport):
                self._passports[record.id] = record
            else:
                self._aliases[record.name] = record
        self._reindex()

    def remove(self, alias: Alias) -> None:
        self._aliases.pop(alias.name, None)
        self._reindex()

    # what people look up

    def passport(self, ref: str) -> Passport:
        """Returns the passport of this id or slug, revoked ones included. Raises ``NotFound``."""
        passport = self._passports.get(ref) or next((p for p in self._passports.values() if p.slug == ref), None)
        if passport is None:
            hint = did_you_mean(ref, [each.slug for each in self._passports.values()], "trustgate passport list")
            raise NotFound(f"There is no passport {ref!r}.", hint=hint, code="passport_not_found")
        return passport

    def passports(self) -> Iterable[Passport]:
        return self._passports.values()

    def not_priced(self) -> list[str]:
        """The slugs that serve and have no price. Names under a wildcard may have one each: it is not among them."""
        return [
            passport.slug
            for passport in self._passports.values()
            if passport.status != "revoked"
            and not passport.is_wildcard
            and not passport.is_service
            and not self.price_of(passport, passport.api_model_id, passport.slug).known
        ]

    def aliases(self) -> Iterable[Alias]:
        return self._aliases.values()


_RESOLVED_MAX = 10_000


def _fill(wildcard: Passport, name: str) -> str:
    """Returns the upstream's name for ``name``: what the slug's ``*`` matched, put in place of the one in the model id.

    ``openai/*`` with model id ``*`` sends ``gpt-4o`` for ``openai/gpt-4o``; slug and model id ``*`` send it whole.
    """
    if wildcard.slug == wildcard.api_model_id or "*" not in wildcard.api_model_id:
        return name if "*" in wildcard.api_model_id else wildcard.api_model_id
    before, _, after = wildcard.slug.partition("*")
    matched = name[len(before) : len(name) - len(after)]
    return wildcard.api_model_id.replace("*", matched, 1)


def _passport_id(passport: Passport) -> str:
    return passport.id


def _slug(passport: Passport) -> str:
    return passport.slug


def _api_model_id(passport: Passport) -> str:
    return passport.api_model_id
