"""What a model's name means to a caller, worked out once for each key and name.

Owns what follows from the two alone, whatever else a request has. Both are replaced, never changed: the directory
makes another ``Caller`` when its key, tenant, plan or a budget changes, the catalog another ``state`` when a name may
mean or cost something else. So what is kept here is good for as long as both are the very objects that it was made of,
and a change holds from the next request on, without a call to this cache.
"""

from __future__ import annotations

from typing import Final

import msgspec

from trustgate.access.budget_reach import Drawer
from trustgate.access.directory import Caller
from trustgate.access.plans import allows_model, completion_cap
from trustgate.errors import InvalidRequest, PermissionDenied
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.path.profiling import bounds_completion
from trustgate.gateway.path.worst_case import completion_bound
from trustgate.models.catalog import Catalog, Resolved
from trustgate.models.pricing import PriceTable
from trustgate.models.upstream.targets import model_not_found
from trustgate.types import Passport, Prices

#: Callers choose the names: beyond so many all are worked out anew, and one longer than this (characters) each time.
_MOST: Final = 10_000
_NAME_MOST: Final = 256
#: A request that sets no bound on its completion.
_BOUNDLESS: Final = Call(model="")


class CallerModel(msgspec.Struct, frozen=True, eq=False):
    """A model's name, or that a request names none, as one caller means it."""

    caller: Caller
    #: The catalog's, when this was worked out.
    state: object
    #: The passport that answers; None: the name means nothing, or there is none.
    resolved: Resolved | None
    #: What may answer in its place, in no order.
    fallbacks: tuple[Resolved, ...]
    #: What plans are matched against: the passport's own names, or the name itself where it means nothing.
    plan_names: tuple[str, ...]
    #: These and the name that was asked for: what budgets are matched against.
    names: tuple[str, ...]
    #: The most tokens that plan and key let one completion have; None: they have no bound.
    completion_cap: int | None
    #: ``completion_bound`` of a request that sets no bound itself.
    usual_bound: int
    #: A bound on the completion is sent along: what it uses is limited, or its profile has one.
    is_bounded: bool
    #: Who draws on budgets with a request for it that names no end user.
    drawer: Drawer
    #: The model has to have a price, since a limit on money would not bind it otherwise.
    wants_price: bool


class CallerModels:
    """Finds what names mean to callers; see the module."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[tuple[str, str | None], CallerModel] = {}

    def find(self, caller: Caller, name: str | None) -> CallerModel:
        """Returns what ``name`` means to a caller. None: the request is for no model, as an upload is."""
        key = caller.key.id, name
        known = self._known.get(key)
        if known is not None and known.caller is caller and known.state is self._catalog.state:
            return known
        if len(self._known) >= _MOST:
            self._known.clear()
        made = self._work_out(caller, name)
        if name is None or len(name) <= _NAME_MOST:
            self._known[key] = made
        return made

    def priced_by_call(self, model: CallerModel, endpoint: Endpoint, *, is_asked: bool) -> CallerModel:
        """Returns the same for a call of an endpoint without a meter: with the price of that, whatever its model costs.

        What makes nothing is free. ``is_asked``: the request itself names the model; one that means nothing stays so.
        """
        if is_asked and model.resolved is None:
            return model
        service = self._catalog.service(endpoint.name)
        prices = Prices(free=True) if not endpoint.is_sold else Prices() if service is None else service.prices
        price = PriceTable(prices)
        if model.resolved is not None:
            resolved = msgspec.structs.replace(model.resolved, price=price)
        else:
            resolved = Resolved(service or Passport(id="", slug=endpoint.service_slug, api_model_id=""), "", (), price)
        wants_price = model.wants_price or model.caller.wants_price(())
        usual_bound = completion_bound(_BOUNDLESS, resolved, model.completion_cap)
        return msgspec.structs.replace(
            model, resolved=resolved, fallbacks=(), wants_price=wants_price, usual_bound=usual_bound
        )

    def check_inner(self, caller: Caller, name: str) -> None:
        """Check a model that a body names where it goes upstream as it is.

        Raises ``NotFound`` for one that means nothing, ``PermissionDenied`` for one that the plan does not include,
        ``InvalidRequest`` for one that its server calls otherwise.
        """
        model = self.find(caller, name)
        if model.resolved is None:
            raise model_not_found(name)
        if not allows_model(caller, model.plan_names):
            raise PermissionDenied(
                f"The plan {caller.plan.name!r}, or this API key, does not include the model {name!r}.",
                code="model_not_allowed",
                param="model",
            )
        if model.resolved.upstream_model != name:
            raise InvalidRequest(
                f"Here the model {name!r} must be called {model.resolved.upstream_model!r}.", param="model"
            )

    def _work_out(self, caller: Caller, name: str | None) -> CallerModel:
        state, profile = self._catalog.state, caller.profile
        resolved = None if name is None else self._catalog.resolve(name, profile)
        names: tuple[str, ...] = () if name is None else (name,)
        plan_names = names
        fallbacks: tuple[Resolved, ...] = ()
        if resolved is not None and name is not None:
            plan_names, names = resolved.names, resolved.all_names(name)
            fallbacks = tuple(self._catalog.fallbacks(resolved.passport, profile))
        cap = completion_cap(caller)
        return CallerModel(
            caller=caller,
            state=state,
            resolved=resolved,
            fallbacks=fallbacks,
            plan_names=plan_names,
            names=names,
            completion_cap=cap,
            usual_bound=completion_bound(_BOUNDLESS, resolved, cap),
            is_bounded=caller.is_metered or (profile is not None and bounds_completion(profile.rules)),
            drawer=Drawer(caller.tenant.id, caller.key.account_id, caller.plan.name, names),
            wants_price=caller.wants_price(names),
        )
