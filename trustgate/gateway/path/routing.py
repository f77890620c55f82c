"""Where a request goes: by its model's name, or by the ids of upstreams that it names.

Owns the rule that an id leads to the target that made it, and only for its own tenant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote

import msgspec
from starlette.types import Scope

from trustgate.access.directory import Caller
from trustgate.errors import Conflict, InvalidRequest, Unavailable
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.api.members import steers
from trustgate.gateway.api.object_accounting import Lasting, ObjectAccounting
from trustgate.gateway.api.object_ids import Kind, ObjectId, ObjectIds, Work
from trustgate.gateway.api.resource_ids import KeptAnswer, ResourceIds
from trustgate.gateway.api.uploads import Payload, Upload
from trustgate.gateway.path.conversation import conversation_key
from trustgate.models.catalog import Resolved
from trustgate.models.pricing import PriceTable
from trustgate.models.upstream.targets import Target, Targets, model_not_found
from trustgate.types import UNMETERED_CALLS, Prices, Profile


class Route(msgspec.Struct, eq=False):
    """Where one request is to go upstream, and what is known of the objects that it names."""

    call: Call
    path: str
    #: As the client has sent it, and whose request it is.
    body: Payload
    tenant_id: str
    #: What its tenant is billed of what models cost, millionths.
    factor_ppm: int
    service: str
    #: The body names a model.
    asks_model: bool
    #: The endpoint neither takes ids of upstreams nor gives them out.
    is_plain: bool = False
    is_unmetered: bool = False
    #: What the path names, and what the body builds on.
    handle: ObjectId | None = None
    used: ObjectId | None = None
    #: ``used``, and what else has its id: given out by another upstream.
    candidates: tuple[ObjectId, ...] = ()
    is_modelless: bool = False
    #: The body names the model in places where it cannot be changed.
    is_verbatim: bool = False
    objects: ObjectAccounting | None = None
    #: Of a list: the ids of its tenant's own, and who made them: (passport, the upstream's name for the model).
    own: frozenset[str] | None = None
    owners: frozenset[tuple[str, str]] = frozenset()
    #: What it lists, and which of these ids are another tenant's at an upstream, by its base URL.
    lists: Kind | None = None
    hidden: dict[str, frozenset[str]] = {}


class Routing:
    def __init__(self, targets: Targets, handles: ObjectIds, lasting: Lasting) -> None:
        self._targets = targets
        self._handles = handles
        self._lasting = lasting

    def looks_up_ids(self, endpoint: Endpoint, call: Call) -> bool:
        """Returns whether a request may name or list ids of upstreams, which ``catch_up`` is to have in memory then."""
        return bool(call.uses or call.shared or endpoint.names is not None or endpoint.lists is not None)

    async def catch_up(self) -> None:
        """Read into memory the ids that other processes have given out. Raises ``Unavailable``."""
        await self._handles.catch_up()

    def begin(self, endpoint: Endpoint, call: Call, body: Payload, scope: Scope, caller: Caller) -> Route:
        """Look up the ids that the request names.

        Raises ``NotFound`` for one that is not its tenant's, ``Conflict`` where what is to be deleted is not paid yet.
        """
        tenant_id, profile = caller.tenant.id, caller.profile
        route = Route(
            *(call, endpoint.upstream_path, body, tenant_id, caller.price_factor_ppm, endpoint.name, bool(call.model)),
            endpoint.is_plain,
        )
        if call.uses or call.shared:
            self._use(route, endpoint, tenant_id)
            call = route.call
        if call.inner_models or call.model.startswith(_TRAINED):
            for name in (call.model, *call.inner_models):
                if name.startswith(_TRAINED):
                    self._check_trained(name, name, tenant_id)
        if call.stored and endpoint.stores is not None:
            route.objects = KeptAnswer(self._handles, self._lasting, endpoint, caller, call, None)
        if endpoint.is_plain:
            return route
        if endpoint.names is not None:
            self._find_named(route, endpoint, endpoint.names, scope["path_params"], tenant_id)
        if scope["query_string"] and (endpoint.body == "none" or endpoint.is_unmetered):
            filters = endpoint.lists == "chat_completion"
            route.path += "?" + _checked_query(scope["query_string"].decode("latin-1"), filters=filters)
        known = route.handle or (None if endpoint.has_model else route.used)
        # What changes or runs an object may name another model than that was made with.
        if known is not None and known.model and not route.asks_model:
            route.call = call = msgspec.structs.replace(call, model=known.model)
        elif not call.model and endpoint.is_unmetered:
            route.call = call = self._as_assistant(call, tenant_id)
        if endpoint.makes == "batch" and route.used is not None:
            if not route.used.model:
                raise InvalidRequest("That file was not uploaded for a batch.", param="input_file_id")
            work = route.used.work
            if work is None:
                raise InvalidRequest(
                    "That file was uploaded before its lines were looked at: upload it again.", param="input_file_id"
                )
            if work.profile != ("" if profile is None else profile.id):
                # Its lines go upstream as they are: nothing could be changed in them now.
                raise InvalidRequest(
                    "That file was uploaded before this account's profile was changed: upload it again, so that its "
                    "lines are looked at by the profile as it is now.",
                    param="input_file_id",
                )
            route.call = call = msgspec.structs.replace(
                call,
                work=work,
                prompt_tokens=work.largest_prompt,
                max_tokens=work.largest_bound or None,
                features=work.features,
            )
        if endpoint.lists is not None:
            own = self._handles.of_tenant(endpoint.lists, tenant_id)
            route.lists, route.own = endpoint.lists, frozenset([each.id for each in own])
            route.owners = frozenset([(each.passport, each.upstream_model) for each in own])
        route.is_modelless = not call.model and (not endpoint.has_model or endpoint.is_unmetered)
        if endpoint.is_unmetered:
            return self._begin_unmetered(route, endpoint, scope, caller)
        batch = body.batch if isinstance(body, Upload) else None
        route.is_verbatim = batch is not None or endpoint.makes == "message_batch"
        route.objects = ObjectAccounting(self._handles, self._lasting, endpoint, caller, call, route.handle, batch)
        return route

    def _check_trained(self, model: str, asked: str, tenant_id: str) -> None:
        """Raise ``NotFound`` for an upstream's model, or a checkpoint of one, that was trained for a stranger.

        ``model``: begins with ``_TRAINED``. ``asked``: its name in the request.
        """
        if any(self._handles.is_strangers("model", name, tenant_id) for name in {model, _CHECKPOINT.sub("", model)}):
            raise model_not_found(asked)

    def reads_files(self, profile: Profile | None) -> bool:
        """Returns whether ``read_files`` has to be waited for before targets and headers are used; it may be."""
        return profile is not None or bool(self._targets.readings)

    async def read_files(self, targets: Sequence[Target], profile: Profile | None) -> None:
        """As ``Targets.read_files``."""
        await self._targets.read_files(targets, profile)

    def headers(self, profile: Profile) -> list[tuple[str, str, str]]:
        """Returns the headers that the caller's profile sets for upstreams, as ``Targets.headers``."""
        return self._targets.headers(profile)

    def _find_named(
        self, route: Route, endpoint: Endpoint, names: Kind, ids: Mapping[str, str], tenant_id: str
    ) -> None:
        """Find the object that a request's path names, and set the path upstream with its id.

        Args:
            route: Is given the object and the path.
            endpoint: The request's.
            names: The kind of object.
            ids: The path's parameters: the object's id, and those of what belongs to it.
            tenant_id: Whose it has to be.

        Raises:
            NotFound: It is not its tenant's.
            Conflict: It is to be deleted, and is not settled.
        """
        object_id = ids["id"]
        route.handle = self._handles.find(names, object_id, tenant_id)
        route.path = endpoint.upstream_path.replace("{id}", quote(object_id, safe=""))
        for kind in endpoint.children:
            child_id = ids[kind]
            self._handles.check_child(kind, child_id, route.handle)
            route.path = route.path.replace(f"{{{kind}}}", quote(child_id, safe=""))
        if endpoint.deletes and route.handle.owed >= 0:
            raise Conflict(
                f"This {names} is not settled: look at it once more when it has ended, then delete it.",
                code=f"{names}_not_settled",
                retryable=False,
            )

    def _use(self, route: Route, endpoint: Endpoint, tenant_id: str) -> None:
        """Look up the ids in the body. One that its tenant does not have is its operator's, or ``NotFound``."""
        call = route.call
        owns = self._handles.owns
        own = [(kind, object_id) for kind, object_id, _ in call.shared if owns(kind, object_id, tenant_id)]
        others = []
        for kind, object_id, member in call.shared:
            if (kind, object_id) not in own:
                self.check_shared(kind, object_id, tenant_id)
                others.append(member)
        if others:
            steering = tuple(dict.fromkeys((*call.steering, *others)))
            route.call = msgspec.structs.replace(call, steering=steering)
        for kind, object_id in (*call.uses, *own):
            handles = self._handles.find_all(kind, object_id, tenant_id)
            # A batch goes where its file is; a file named in a message may lie anywhere.
            if kind not in _ANYWHERE or not endpoint.has_model or endpoint.is_unmetered:
                route.used, route.candidates = handles[-1], handles

    def _as_assistant(self, call: Call, tenant_id: str) -> Call:
        """Returns a call that names no model as one for that of the assistant that it names, if it does."""
        named = next((object_id for kind, object_id in call.uses if kind == "assistant"), None)
        if named is None:
            return call
        return msgspec.structs.replace(call, model=self._handles.find("assistant", named, tenant_id).model)

    def check_shared(self, kind: Kind, object_id: str, tenant_id: str) -> None:
        """Raise ``NotFound`` for an object that is no operator's to share: another tenant's."""
        if self._handles.is_strangers(kind, object_id, tenant_id):
            self._handles.find_all(kind, object_id, tenant_id)

    def _begin_unmetered(self, route: Route, endpoint: Endpoint, scope: Scope, caller: Caller) -> Route:
        route.is_unmetered = True
        features = (*route.call.features, UNMETERED_CALLS)
        # The same body means another thing for another object.
        place = route.path if endpoint.names is not None else route.call.place
        route.call = call = msgspec.structs.replace(route.call, features=features, place=place)
        child = None
        if endpoint.children:
            kind: Any = endpoint.children[-1]
            child = kind, scope["path_params"][kind]
        route.objects = ResourceIds(self._handles, self._lasting, endpoint, caller, call, route.handle, child=child)
        return route

    def targets(self, route: Route, resolved: Resolved | None, profile: Profile | None = None) -> list[Target]:
        """Returns what to try, in order, under a profile.

        None of it has another tenant's object under an id that the request names. Raises ``NotFound`` (404),
        ``InvalidRequest`` (400) and ``Unavailable`` (503).
        """
        call = route.call
        if route.is_plain and resolved is not None and not (resolved.passport.fallbacks or call.uses or call.shared):
            # The usual case: one place serves it, for every caller.
            if resolved.upstream_model.startswith(_TRAINED):
                self._check_trained(resolved.upstream_model, call.model, route.tenant_id)
            return [self._targets.only(resolved, route.service)]
        found = self._targets_of(route, resolved, profile)
        if call.work is not None:
            found = _priced_as_held(found, route, call.work)
        if not call.uses and not call.shared:
            return found
        named = (*route.call.uses, *((kind, object_id) for kind, object_id, _ in route.call.shared))
        for kind, object_id in named:
            urls = {target.upstream.base_url for target in found}
            foreign = {url for url in urls if self._handles.strangers_at(url, kind, (object_id,), route.tenant_id)}
            found = [target for target in found if target.upstream.base_url not in foreign]
            if not found:
                raise _made_elsewhere(self._handles.find(kind, object_id, route.tenant_id))
        return found

    def _targets_of(self, route: Route, resolved: Resolved | None, profile: Profile | None) -> list[Target]:
        # A wildcard's name may have had something before it.
        if resolved is not None and resolved.upstream_model.startswith(_TRAINED):
            self._check_trained(resolved.upstream_model, route.call.model, route.tenant_id)
        if route.own is not None:
            return self._list_targets(route, profile)
        if route.is_unmetered:
            return [self._unmetered_target(route, resolved, profile)]
        if route.handle is not None:
            return [self._targets.made_by(route.handle.passport, route.handle.upstream_model, route.service, profile)]
        if route.is_modelless:
            return [self._targets.default(route.service)]
        targets = self._targets.route(
            route.call.model,
            resolved,
            route.service,
            profile,
            sticky=_sticky(route, resolved) if resolved is not None and resolved.passport.fallbacks else b"",
            prompt_tokens=route.call.prompt_tokens,
        )
        if route.is_verbatim:
            able = [target for target in targets if target.model == route.call.model]
            if not able:
                upstream_model = targets[0].model if resolved is None else resolved.upstream_model
                raise InvalidRequest(
                    f"In a batch the model {route.call.model!r} must be called {upstream_model!r}.",
                    param="file" if route.call.work is None else "requests",
                )
            return able[:1]
        if route.used is None:
            return targets
        made = self._targets.made_by
        upstreams = [made(each.passport, each.upstream_model, "", profile).upstream for each in route.candidates]
        able = [target for target in targets if target.upstream in upstreams]
        if not able:
            raise _made_elsewhere(route.used)
        return able

    def _list_targets(self, route: Route, profile: Profile | None) -> list[Target]:
        """Returns one target for each server that made something in a list."""
        found: dict[int, Target] = {}
        for passport, model in route.owners:
            with suppress(Unavailable):  # its passport is gone
                target = self._targets.made_by(passport, model, route.service, profile)
                found.setdefault(id(target.upstream), target)
                if route.lists is not None:
                    url = target.upstream.base_url
                    hidden = self._handles.strangers_at(url, route.lists, route.own or (), route.tenant_id)
                    route.hidden[url] = hidden
        targets = list(found.values()) or [self._targets.default(route.service)]
        return [msgspec.structs.replace(target, price=_FREE) for target in targets]

    def _unmetered_target(self, route: Route, resolved: Resolved | None, profile: Profile | None) -> Target:
        """Returns where a resource's call goes: where the object is that it names, else where its model is, else where
        its endpoint is. ``resolved``: has the price of the call.
        """
        of = route.handle or route.used
        made_by = None if of is None else self._targets.made_by(of.passport, of.upstream_model, route.service, profile)
        if resolved is None:
            raise model_not_found(route.call.model)
        if not route.asks_model:
            target = made_by or self._targets.service(route.service)
            return msgspec.structs.replace(target, price=resolved.price, model="")
        targets = self._targets.route(route.call.model, resolved, route.service, profile)
        if made_by is not None and of is not None:
            targets = [target for target in targets if target.upstream is made_by.upstream]
            if not targets:
                raise _made_elsewhere(of)
        return msgspec.structs.replace(targets[0], price=resolved.price)


def _priced_as_held(targets: list[Target], route: Route, work: Work) -> list[Target]:
    """Returns the targets that a batch may go to: at the prices by which its worst case is held.

    Raises ``InvalidRequest`` where there is none: a price was changed since its lines were looked at.
    """
    if work.prices is None:
        return targets
    is_factor_same = work.factor_ppm == route.factor_ppm
    able = [target for target in targets if is_factor_same and target.price.hash in work.prices]
    if not able:
        again = "send it again" if route.handle is None and route.used is None else "upload it again"
        raise InvalidRequest(
            f"The price of the model {route.call.model!r} was changed after the batch's lines were looked at: {again}, "
            "so that what they may cost is held by the price as it is now.",
            param="input_file_id" if route.used is not None else "requests",
        )
    return able


def _made_elsewhere(handle: ObjectId) -> InvalidRequest:
    kind = handle.kind
    return InvalidRequest(
        f"The {kind.replace('_', ' ')} {handle.id!r} was made by another model's server.",
        param=_PARAM_OF.get(kind),
        code=f"{kind}_elsewhere",
    )


def _sticky(route: Route, resolved: Resolved | None) -> bytes:
    """Returns what the model's pool is to keep at one target; b"" where it does not."""
    passport = None if resolved is None else resolved.passport
    if passport is None or not passport.fallbacks or passport.pool.choice not in ("tenant", "conversation"):
        return b""
    tenant = route.tenant_id.encode()
    return tenant if passport.pool.choice == "tenant" else tenant + b"\0" + conversation_key(route.body)


def _checked_query(query: str, *, filters: bool) -> str:
    """Returns the query as it is. Raises ``InvalidRequest`` where one of its names steers the upstream.

    ``filters``: it selects from a list, where ``model`` is what an answer was made by.
    """
    for name, _ in parse_qsl(query, keep_blank_values=True):
        # ``order`` is that of a list (OpenAI API reference, "List files"), not OpenRouter's of providers.
        if (name == "model" and not filters) or (name != "order" and steers(name)):
            raise InvalidRequest(
                f"The query parameter {name[:80]!r} is not taken here: it steers the server behind this gateway.",
                param=name[:80],
                code="unsupported_parameter",
            )
    return query


#: What a list costs.
_FREE = PriceTable(Prices(free=True))
_PARAM_OF: dict[Kind, Any] = {
    "response": "previous_response_id",
    "file": "input_file_id",
    "conversation": "conversation",
    "vector_store": "tools",
    "container": "tools",
}
#: What may lie with another server than the request goes to.
_ANYWHERE = frozenset(("file", "item"))
#: What the names of models that were trained for a caller begin with (OpenAI API reference, "Fine-tuning").
_TRAINED = "ft:"
#: What the name of a model is followed by in those of the checkpoints of its training.
_CHECKPOINT = re.compile(r":ckpt-step-[0-9]+$")
