"""What callers without a key can buy, what it costs and how it is paid: read by ``discovery`` and ``openapi``.

Owns which models are offered at which endpoint, and the price that an example of a request would be asked. Both are
read off the parts that serve requests, so what is published is what a 402 asks.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from trustgate.access.directory import Caller, Directory
from trustgate.access.plans import allows_model, completion_cap
from trustgate.gateway.api.bazaar import SOLD_KEYLESS, bazaar, example
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.path.worst_case import completion_bound, worst_case
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.models.catalog import Catalog, Resolved
from trustgate.models.published import published
from trustgate.models.upstream.targets import Targets
from trustgate.payment.x402_wire import atomic, requirements, usd
from trustgate.types import Offer, PaymentTerms, matches

#: What a model must be able to do for an endpoint; one of which nothing is said is taken for one that chats.
_NEEDS: Final = {
    "chat.completions": "chat",
    "messages": "chat",
    "completions": "completions",
    "embeddings": "embeddings",
    "moderations": "moderations",
    "rerank": "rerank",
    "images.generations": "images",
    "audio.speech": "speech",
}
_KINDS: Final = frozenset(_NEEDS.values())
_FRESH_US: Final = 60 * MICROSECONDS_PER_SECOND
_ENCODE: Final = msgspec.json.encode


class Model(NamedTuple):
    """A model that is sold, and what it costs (``models.published``)."""

    name: str
    resolved: Resolved
    pricing: Any


class Item(NamedTuple):
    """An endpoint that is sold. ``example_nano_usd``: what its example costs, with the cheapest model."""

    endpoint: Endpoint
    url: str
    model: str
    example_nano_usd: int
    offers: tuple[Offer, ...]
    #: What every request costs; None: it depends on the request.
    fixed_nano_usd: int | None

    @property
    def price(self) -> dict[str, Any]:
        """The price as ``x-payment-info`` has it."""
        if self.fixed_nano_usd is not None:
            return {"mode": "fixed", "currency": "USD", "amount": usd(self.fixed_nano_usd)}
        least = min(10**9 // 10**offer.decimals for offer in self.offers)
        return {"mode": "dynamic", "currency": "USD", "min": usd(max(1, least))}

    @property
    def accepts(self) -> list[dict[str, Any]]:
        """The ways to pay for the example (x402 ``PaymentRequirements``)."""
        return [requirements(offer, atomic(self.example_nano_usd, offer)) for offer in self.offers]

    @property
    def extensions(self) -> dict[str, Any]:
        return bazaar(self.endpoint, self.model)


class OpenSale(NamedTuple):
    """All that is sold without a key at this moment."""

    url: str
    terms: PaymentTerms
    models: tuple[Model, ...]
    items: tuple[Item, ...]


class Storefront:
    def __init__(self, directory: Directory, catalog: Catalog, targets: Targets, public_url: str) -> None:
        """``public_url``: what clients call the gateway, without a slash at its end."""
        self.public_url = public_url
        self._directory = directory
        self._catalog = catalog
        self._targets = targets
        #: What was found last, and what it was found from.
        self._found: tuple[OpenSale, Caller, object, list[str], int] | None = None

    def sale(self) -> OpenSale | None:
        """Returns what is sold now; None while nothing is.

        Any client may ask, so it is worked out anew only where something has changed, or after a while (prices may
        depend on the time).
        """
        at_us = now_us()
        caller = self._directory.keyless(at_us)
        if caller is None or caller.terms is None:
            return None
        names = self._targets.names(caller.profile)
        if self._found is not None:
            sale, of, state, named, found_us = self._found
            if of is caller and state is self._catalog.state and named == names and at_us - found_us < _FRESH_US:
                return sale
        sale = self._find(caller, caller.terms, names)
        self._found = sale, caller, self._catalog.state, names, at_us
        return sale

    def _find(self, caller: Caller, terms: PaymentTerms, names: list[str]) -> OpenSale:
        models = tuple(self._models(caller, terms, names))
        items = (self._item(caller, terms, endpoint, models) for endpoint in SOLD_KEYLESS)
        return OpenSale(self.public_url, terms, models, tuple(item for item in items if item is not None))

    def quote_example(self, endpoint: Endpoint) -> tuple[int, str] | None:
        """Returns what the example of an endpoint costs, nano-USD, and its model; None where it is not sold now."""
        sale = self.sale()
        found = (item for item in (() if sale is None else sale.items) if item.endpoint is endpoint)
        item = next(found, None)
        return None if item is None else (item.example_nano_usd, item.model)

    def _models(self, caller: Caller, terms: PaymentTerms, names: list[str]) -> list[Model]:
        found = []
        for name in names:
            resolved = self._catalog.resolve(name, caller.profile)
            if resolved is None or not allows_model(caller, resolved.names):
                continue
            if terms.price_nano_usd is None and (not resolved.price.known or resolved.price.prices.free):
                continue
            pricing = published(resolved.price, caller.price_factor_ppm, terms.price_nano_usd)
            found.append(Model(name, resolved, pricing))
        return found

    def _item(self, caller: Caller, terms: PaymentTerms, endpoint: Endpoint, models: tuple[Model, ...]) -> Item | None:
        """Returns the endpoint with its cheapest model; None where the plan or no model serves it."""
        if not all(matches(scope.endpoints, endpoint.name) for scope in (caller.plan.scope, caller.key.scope)):
            return None
        quotes = {
            model.name: self._quote(caller, terms, endpoint, model) for model in models if _serves(model, endpoint)
        }
        sold = {name: quote for name, quote in quotes.items() if quote > 0}
        if not sold:
            return None
        name = min(sold, key=lambda name: (sold[name], name))
        url = self.public_url + endpoint.path
        return Item(endpoint, url, name, sold[name], terms.offers, terms.price_nano_usd)

    def _quote(self, caller: Caller, terms: PaymentTerms, endpoint: Endpoint, model: Model) -> int:
        """Returns what the endpoint's example would be asked with this model, nano-USD."""
        if terms.price_nano_usd is not None:
            return terms.price_nano_usd
        resolved = model.resolved
        call = endpoint.peek(_ENCODE(example(endpoint, model.name)))
        others = self._catalog.fallbacks(resolved.passport, caller.profile) if resolved.passport.fallbacks else ()
        bound = completion_bound(call, resolved, completion_cap(caller))
        return worst_case(endpoint, call, resolved, bound, caller.price_factor_ppm, now_us(), others).cost_nano_usd


def _serves(model: Model, endpoint: Endpoint) -> bool:
    kinds = _KINDS.intersection(model.resolved.passport.capabilities)
    return _NEEDS[endpoint.name] in kinds or (not kinds and _NEEDS[endpoint.name] == "chat")
