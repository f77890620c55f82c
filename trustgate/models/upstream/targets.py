"""Targets: where passports lead. Which of them to try for a request, in what order, and which to leave alone.

Owns upstream credentials in memory, the circuit breakers and the health of each upstream. No file is read on the event
loop: keys are read in threads, when a passport comes, when a request is the first to need one, and again at each health
probe.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec

from trustgate.errors import InvalidRequest, NotFound, OperatorError, Unavailable
from trustgate.models.catalog import Catalog, Resolved
from trustgate.models.pricing import PriceTable
from trustgate.models.profiles import header_parts, may_serve, preference
from trustgate.models.upstream.breaker import Breaker
from trustgate.models.upstream.pools import TargetLoad, by_key, by_load, by_weight
from trustgate.types import PROMPT_PREFIX, HeaderValue, Passport, Profile

_logger = logging.getLogger("trustgate.models")

#: The capability by which a passport marks that its server refuses ``stream_options``: streams are estimated then.
NO_STREAM_OPTIONS = "no_stream_options"

ReadCredential = Callable[[Passport], str | None]

#: How long a command or a request waits for a key to be read, seconds.
_READ_S = 2.0
_NOT_PROBED, _NOT_READ = "not probed yet", "its key is not read yet:"


class Upstream:
    """One base URL with one credential: its breakers are per model, its health is its own."""

    def __init__(self, base_url: str, credential: str | None) -> None:
        self.base_url = base_url
        self.credential = credential
        #: None until the first probe; then whether the last one reached it, and what it said.
        self.healthy: bool | None = None
        self.detail = _NOT_PROBED
        self.models: tuple[str, ...] = ()
        #: What reads its key for the first time; None once that was waited for.
        self.reading: asyncio.Future[None] | None = None


class Quirks:
    """What was learned of a model of an upstream from its answers, for as long as the gateway runs."""

    __slots__ = ("takes_stream_options",)

    def __init__(self) -> None:
        #: Whether a stream may ask for its usage with ``stream_options``; None: not known yet.
        self.takes_stream_options: bool | None = None


class Target(msgspec.Struct, frozen=True):
    """One thing to try: a model of an upstream, under a passport."""

    passport: Passport
    model: str
    upstream: Upstream
    breaker: Breaker
    price: PriceTable
    quirks: Quirks
    load: TargetLoad
    #: It is for prompts that are too long for those before it.
    only_too_long: bool = False

    @property
    def has_room(self) -> bool:
        """Whether it may be sent another request within its passport's limits."""
        return self.load.has_room(self.passport.pool)

    @property
    def takes_stream_options(self) -> bool:
        """Whether a stream may be asked for its usage by a member that its client did not send."""
        return self.quirks.takes_stream_options is not False and NO_STREAM_OPTIONS not in self.passport.capabilities


#: Where a model is asked with which key: base URL, model, and the variable or file of the key.
_Place = tuple[str, str, str]


def _place(passport: Passport, upstream: Upstream, model: str) -> _Place:
    return upstream.base_url, model, passport.credential_env or passport.credential_file or ""


class Targets:
    def __init__(
        self,
        catalog: Catalog,
        default_base_url: str,
        read_credential: ReadCredential,
        chance: random.Random | None = None,
    ) -> None:
        """``chance``: what draws by weights."""
        self._chance = random.Random() if chance is None else chance  # noqa: S311 - no secret
        self._catalog = catalog
        self._default_base_url = default_base_url.rstrip("/")
        self._read_credential = read_credential
        self._upstreams: dict[tuple[str, str | None, str | None], Upstream] = {}
        #: By base URL, model and where the key is found, then by the kind of endpoint that is asked.
        self._breakers: dict[_Place, dict[str, Breaker]] = {}
        self._quirks: dict[_Place, Quirks] = {}
        #: Targets already made, by passport, model and kind of endpoint; each is good for the passport and price in it.
        self._made: dict[tuple[str, str, str], Target] = {}
        #: By passport, and of a tenant's own key by that too.
        self._loads: dict[str, TargetLoad] = {}
        #: Upstreams with a key of a tenant's own, with a passport that leads there, and when that was last used.
        self._own: dict[tuple[str, str | None, str | None], tuple[Passport, float]] = {}
        #: The secrets of profiles' headers, by variable and file; None: it cannot be read, or is not read yet.
        self._secrets: dict[tuple[str | None, str | None], str | None] = {}
        #: What reads secrets of them for the first time; each is there until that was waited for.
        self._first_readings: dict[tuple[str | None, str | None], asyncio.Future[None]] = {}
        #: What reads files that were not read before.
        self.readings: set[asyncio.Future[None]] = set()

    def apply_settings(self, default_base_url: str, read_credential: ReadCredential) -> None:
        """Go by another default upstream from the next request on."""
        self._default_base_url = default_base_url.rstrip("/")
        self._read_credential = read_credential
        self._made.clear()
        self._secrets.clear()

    def route(
        self,
        name: str,
        resolved: Resolved | None,
        service: str = "",
        profile: Profile | None = None,
        *,
        sticky: bytes = b"",
        prompt_tokens: int = 0,
    ) -> list[Target]:
        """Returns what to try for a model name, in order, each admitted by its breaker when its turn comes.

        ``service``: the kind of endpoint that asks. Each has breakers of its own, so that a server that fails at one
        thing is still asked for the others. ``profile``: the caller's, under which the name was resolved. ``sticky``:
        what a pool goes by that keeps tenants or conversations at one target. ``prompt_tokens``: the estimate of the
        prompt; targets whose context is known to be too small for it are tried last. Fallbacks for prompts that are too
        long stand at the end, marked, unless the prompt is known to be so.

        Raises ``NotFound`` (404 ``model_not_found``) for a name no passport answers for.
        """
        if resolved is None:
            raise model_not_found(name)
        if not resolved.passport.fallbacks:
            return [self.only(resolved, service)]
        first = self._first_choice(resolved, service, profile, sticky)
        found = [*first, *self._fallbacks(resolved.passport, only_too_long=False)]
        larger = list(self._fallbacks(resolved.passport, only_too_long=True))
        if profile is not None:
            found, larger = self._arranged(found, profile), self._arranged(larger, profile)

        def is_too_small(each: Resolved) -> bool:
            return (each.passport.context_length or prompt_tokens) < prompt_tokens

        if larger and all(map(is_too_small, found)):
            found, larger = [*found, *larger], []
        if any(map(is_too_small, found)):
            found.sort(key=is_too_small)
        targets = [self.only(each, service) for each in found]
        return targets + [msgspec.structs.replace(self.only(each, service), only_too_long=True) for each in larger]

    def _first_choice(self, resolved: Resolved, service: str, profile: Profile | None, sticky: bytes) -> list[Resolved]:
        """Returns the passport and its fallbacks of rank 0, in the order that its pool has for this request."""
        pool = resolved.passport.pool
        candidates = [(resolved, pool.weight)]
        for fallback in resolved.passport.fallbacks:
            other = self._catalog.resolve(fallback.passport) if fallback.rank == 0 else None
            if other is not None:
                other = other if profile is None else self._catalog.under(profile, other)
                candidates.append((other, fallback.weight))
        if len(candidates) == 1:
            return [resolved]
        if pool.choice == "least_busy":
            return by_load(candidates, lambda each: self.only(each, service).load.in_flight, self._chance)
        if pool.choice == "weighted" or not sticky:
            return by_weight(candidates, self._chance)
        return by_key(candidates, lambda each: each.passport.id, sticky)

    def _arranged(self, found: list[Resolved], profile: Profile) -> list[Resolved]:
        """Returns those that the profile lets serve, in its order of preference, with the tenant's own keys."""
        able = [self._catalog.under(profile, each) for each in found if may_serve(profile.rules, each.passport)]
        return sorted(able, key=lambda each: preference(profile.rules, each.passport))

    def made_by(
        self,
        passport_id: str,
        model: str,
        service: str = "",
        profile: Profile | None = None,
        *,
        even_revoked: bool = False,
    ) -> Target:
        """Returns the target that once made something, by its passport's id ("": the default upstream).

        ``profile``: its tenant's, with whose key it was made; ``even_revoked``: for what is still to be charged.

        Raises ``Unavailable`` (503) when there is no such passport any more.
        """
        if not passport_id:
            return self.default(service)
        try:
            passport = self._catalog.passport(passport_id)
        except NotFound:
            passport = None
        if passport is None or (passport.status == "revoked" and not even_revoked):
            raise Unavailable("The model's server that made this is no longer served here.", code="model_unavailable")
        resolved = Resolved(passport, model, (), self._catalog.price_of(passport, model))
        return self.only(resolved if profile is None else self._catalog.under(profile, resolved), service)

    def service(self, name: str) -> Target:
        """Returns where the calls of an endpoint without a meter go: the server of its passport, else the default."""
        passport = self._catalog.service(name)
        if passport is None:
            return self.default(name)
        return self.only(Resolved(passport, "", (), PriceTable(passport.prices)), name)

    def default(self, service: str = "") -> Target:
        """Returns the default upstream, for what concerns no model."""
        return self.only(Resolved(_DEFAULT, "", (), PriceTable(_DEFAULT.prices)), service)

    def headers(self, profile: Profile) -> list[tuple[str, str, str]]:
        """Returns the headers that a profile sets for upstreams: name, value, and whose servers alone get it ("": all).

        Those of one provider come last. Raises ``Unavailable`` (503) for a missing secret.
        """
        found = []
        for key, value in profile.rules.headers.items():
            text = value.text if value.text is not None else self._secret(value)
            if text is None:
                raise Unavailable(
                    "This request cannot be sent as the operator wants it: the secret of a header cannot be read.",
                    code="model_unavailable",
                )
            name, provider = header_parts(key)
            found.append((name, text, provider))
        return sorted(found, key=lambda header: header[2] != "")

    def _secret(self, value: HeaderValue) -> str | None:
        key = value.env, value.file
        if key not in self._secrets:
            self._read_secret(key)
        return self._secrets[key]

    async def read_files(self, targets: Sequence[Target], profile: Profile | None) -> None:
        """Wait a moment for the files with keys that targets and a profile's headers need, as far as none was read.

        A key that takes longer is as one that cannot be read, until it is. Requests that come meanwhile wait too.
        """
        upstreams = {id(each.upstream): each.upstream for each in targets if each.upstream.reading is not None}
        unread = [each.reading for each in upstreams.values() if each.reading is not None]
        secrets = []
        for value in () if profile is None else profile.rules.headers.values():
            key = value.env, value.file
            if value.file is not None and key not in self._secrets:
                self._secrets[key] = None
                reading = self._begin_reading(partial(self._read_secret, key))
                if reading is not None:
                    self._first_readings[key] = reading
            if key in self._first_readings:
                secrets.append(key)
                unread.append(self._first_readings[key])
        if unread:
            await asyncio.wait(unread, timeout=_READ_S)
        for upstream in upstreams.values():
            upstream.reading = None
        for key in secrets:
            self._first_readings.pop(key, None)

    def _begin_reading(self, read: Callable[[], None]) -> asyncio.Future[None] | None:
        """Begin to read a file in a thread; where no event loop runs, read it now.

        Returns:
            What ends when it is read; None where it is read.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            read()
            return None
        reading = loop.run_in_executor(None, read)
        self.readings.add(reading)
        reading.add_done_callback(self.readings.discard)
        return reading

    def _read_secret(self, key: tuple[str | None, str | None]) -> None:
        place = Passport(id="", slug="", api_model_id="", credential_env=key[0], credential_file=key[1])
        try:
            self._secrets[key] = self._read_credential(place)
        except OperatorError as error:
            self._secrets[key] = None
            _logger.error("The header of a profile cannot be set: %s", error.message)

    def refresh_secrets(self) -> None:
        """Read what profiles name anew, as far as it was wanted: the secrets of headers, and tenants' own keys.

        A key that was not used for an hour is forgotten.
        """
        for key in list(self._secrets):
            self._read_secret(key)
        for place, (passport, used_at) in list(self._own.items()):
            upstream = self._upstreams.get(place)
            if upstream is None or time.monotonic() - used_at > _OWN_KEPT_S:
                del self._own[place]
                self._upstreams.pop(place, None)
                self._made.clear()
            elif self.refresh_credential(passport, upstream):
                upstream.healthy = None

    def _fallbacks(self, passport: Passport, *, only_too_long: bool) -> Iterator[Resolved]:
        further = [each for each in passport.fallbacks if each.rank > 0 and each.only_too_long == only_too_long]
        for rank in sorted({fallback.rank for fallback in further}):
            of_rank = [(fallback, fallback.weight) for fallback in further if fallback.rank == rank]
            for chosen in by_weight(of_rank, self._chance):
                resolved = self._catalog.resolve(chosen.passport)
                if resolved is not None:
                    yield resolved

    def only(self, resolved: Resolved, service: str) -> Target:
        """Returns the target of a passport itself: all that ``route`` gives where it has no fallbacks."""
        passport, model = resolved.passport, resolved.upstream_model
        name = passport.id
        if resolved.has_own_key:
            place = (passport.base_url or self._default_base_url, passport.credential_env, passport.credential_file)
            name = f"{name} {place[1]} {place[2]}"
            self._own[place] = passport, time.monotonic()
        made = self._made.get((name, model, service))
        if made is None or made.passport is not passport or made.price is not resolved.price:
            made = self._make(resolved, service, self._loads.setdefault(name, TargetLoad()))
            self._made[name, model, service] = made
        return made

    def _make(self, resolved: Resolved, service: str, load: TargetLoad) -> Target:
        upstream = self.upstream_of(resolved.passport)
        key = _place(resolved.passport, upstream, resolved.upstream_model)
        breakers = self._breakers.get(key)
        if breakers is None or key not in self._quirks:
            breakers = self._make_room(key)
        breaker = breakers.get(service) or breakers.setdefault(service, Breaker())
        passport, model, quirks = resolved.passport, resolved.upstream_model, self._quirks[key]
        return Target(passport, model, upstream, breaker, resolved.price, quirks, load)

    def _make_room(self, key: _Place) -> dict[str, Breaker]:
        """Begin to keep what is learned of a model; others whose breakers are all closed may be forgotten for it."""
        if len(self._breakers) >= _MODELS_MOST:
            self._made.clear()
            self._breakers = {
                each: breakers
                for each, breakers in self._breakers.items()
                if any(breaker.is_open for breaker in breakers.values())
            }
            self._quirks = {each: quirks for each, quirks in self._quirks.items() if each in self._breakers}
        self._quirks.setdefault(key, Quirks())
        return self._breakers.setdefault(key, {})

    def upstream_of(self, passport: Passport) -> Upstream:
        key = (passport.base_url or self._default_base_url, passport.credential_env, passport.credential_file)
        upstream = self._upstreams.get(key)
        if upstream is None:
            upstream = self._upstreams[key] = Upstream(key[0].rstrip("/"), None)
            if passport.credential_file is None:
                self.refresh_credential(passport, upstream)
            else:
                upstream.healthy, upstream.detail = False, f"{_NOT_READ} {passport.credential_file}"
                upstream.reading = self._begin_reading(partial(self._read_first, passport, upstream))
        return upstream

    async def read_keys(self, passports: Sequence[Passport]) -> None:
        """Read the upstream keys of passports that come, in a thread: a file may be on a disk that does not answer.

        Requests find the passports afterwards. A key that takes longer than a moment to read is read again with the
        next probe; until then its upstream counts as one that is away.
        """
        upstreams = [self.upstream_of(each) for each in passports if each.credential_file is not None]
        if unread := [each.reading for each in upstreams if each.reading is not None]:
            await asyncio.wait(unread, timeout=_READ_S)

    def _read_first(self, passport: Passport, upstream: Upstream) -> None:
        if self.refresh_credential(passport, upstream) and upstream.detail.startswith(_NOT_READ):
            upstream.healthy, upstream.detail = None, _NOT_PROBED

    def refresh_credential(self, passport: Passport, upstream: Upstream) -> bool:
        """Read the upstream's key anew; one that cannot be read makes the upstream unhealthy (False)."""
        try:
            upstream.credential = self._read_credential(passport)
            return True
        except OperatorError as error:
            upstream.credential = None
            upstream.healthy = False
            upstream.detail = error.message
            return False

    def upstreams(self) -> list[tuple[Passport, Upstream]]:
        """Every upstream that an active passport leads to, with one such passport.

        None that is asked with a tenant's own key: whether that key is good is no concern of the operator's.
        """
        seen: dict[int, tuple[Passport, Upstream]] = {}
        for passport in self._catalog.passports():
            if passport.status != "revoked":
                upstream = self.upstream_of(passport)
                seen.setdefault(id(upstream), (passport, upstream))
        return list(seen.values())

    def failing_models(self) -> dict[str, list[str]]:
        """Returns by base URL the models whose requests keep failing: a breaker of theirs has opened."""
        failing: dict[str, list[str]] = {}
        for (base_url, model, _), breakers in self._breakers.items():
            if any(breaker.is_tripped() for breaker in breakers.values()) and model not in failing.get(base_url, ()):
                failing.setdefault(base_url, []).append(model)
        return failing

    def names(self, profile: Profile | None = None) -> list[str]:
        """Returns the names of the models that there are, as clients call them; of a wildcard, its upstream's list.

        ``profile``: the caller's, whose own names come first.
        """
        names: dict[str, None] = {}
        if profile is not None:
            rules = profile.rules
            names = dict.fromkeys(name for name in rules.names if not name.startswith(PROMPT_PREFIX))
            if rules.own_names_only:
                return list(names | dict.fromkeys(filter(None, (rules.default_model,))))
        for passport in self._catalog.passports():
            if passport.status == "revoked" or passport.is_service:
                continue
            if not passport.is_wildcard:
                names[passport.slug] = None
                continue
            for model in self.upstream_of(passport).models:
                names.setdefault(_name_under(passport, model), None)
        return list(names)

    def is_available(self, passport: Passport, model: str) -> bool:
        """Returns whether a request for this passport could be served now, as far as is known: of one kind at least.

        By its own target, or by another of its pool.
        """
        if self._is_available(passport, model):
            return True
        beside = (self._catalog.resolve(each.passport) for each in passport.fallbacks if each.rank == 0)
        return any(each is not None and self._is_available(each.passport, each.upstream_model) for each in beside)

    def _is_available(self, passport: Passport, model: str) -> bool:
        upstream = self.upstream_of(passport)
        breakers = self._breakers.get(_place(passport, upstream, model))
        return upstream.healthy is not False and not (
            breakers and all(breaker.is_open for breaker in breakers.values())
        )


#: Stands for the default upstream where no model, and so no passport, leads to one.
_DEFAULT = Passport(id="", slug="the default upstream", api_model_id="")

#: A tenant's own key is read anew for so long after it was last used, seconds.
_OWN_KEPT_S = 3_600.0

#: Wildcards let callers name models freely; what is known of them is forgotten beyond this many.
_MODELS_MOST = 10_000


def model_not_found(name: str) -> NotFound | InvalidRequest:
    """Returns the refusal of a model that does not exist, and of a stored prompt for which none is known."""
    if name.startswith(PROMPT_PREFIX):
        prompt = name.removeprefix(PROMPT_PREFIX)
        return InvalidRequest(
            f"No model is named, and none is known here for the prompt {prompt!r}. Name one in 'model'; or the "
            f"operator names the one that it is for: trustgate passport alias {shlex.quote(name)} SLUG",
            code="missing_required_parameter",
            param="model",
        )
    return NotFound(
        f"The model {name!r} does not exist or you do not have access to it.", code="model_not_found", param="model"
    )


def all_open(model: str, retry_after_s: float) -> Unavailable:
    """Every target of the model is resting after failures."""
    return Unavailable(
        f"The model {model!r} is not available right now: its upstream keeps failing.",
        code="model_unavailable",
        headers={"retry-after": str(max(1, round(retry_after_s)))},
        retryable=True,
    )


def all_full(model: str, retry_after_s: float) -> Unavailable:
    """Every target of the model has been sent as much as its operator lets it be sent."""
    return Unavailable(
        f"The model {model!r} is not available right now: its upstream gets no more requests for the moment.",
        code="model_unavailable",
        headers={"retry-after": str(max(1, math.ceil(retry_after_s)))},
        retryable=True,
    )


def _name_under(wildcard: Passport, model: str) -> str:
    """Returns the name by which a client reaches an upstream's model through a wildcard passport."""
    if wildcard.slug == wildcard.api_model_id:
        return model
    return wildcard.slug.replace("*", model, 1)
