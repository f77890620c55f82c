"""Where a request goes: by its model's name, or by the ids of upstreams that it names.

Owns the rule that an id leads to the target that made it, and only for its own tenant.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote

import msgspec
from starlette.types import Scope

from trustgate.errors import Conflict, InvalidRequest
from trustgate.gateway.api.endpoints import Call, Endpoint
from trustgate.gateway.api.members import steers
from trustgate.gateway.api.object_accounting import Lasting, ObjectAccounting
from trustgate.gateway.api.object_ids import Kind, ObjectId, ObjectIds
from trustgate.gateway.api.uploads import Payload, Upload
from trustgate.models.catalog import Resolved
from trustgate.models.upstream.targets import Target, Targets
from trustgate.types import ApiKey, Profile


class Route:
    """Where one request is to go upstream, and what is known of the objects that it names."""

    __slots__ = ("call", "candidates", "handle", "is_modelless", "is_verbatim", "objects", "path", "service", "used")

    def __init__(self, call: Call, path: str) -> None:
        self.call = call
        self.path = path
        self.service = ""
        #: What the path names, and what the body builds on.
        self.handle: ObjectId | None = None
        self.used: ObjectId | None = None
        #: ``used``, and what else has its id: given out by another upstream.
        self.candidates: tuple[ObjectId, ...] = ()
        self.is_modelless = False
        #: The body names the model in places where it cannot be changed.
        self.is_verbatim = False
        self.objects: ObjectAccounting | None = None


class Routing:
    def __init__(self, targets: Targets, handles: ObjectIds, lasting: Lasting) -> None:
        self._targets = targets
        self._handles = handles
        self._lasting = lasting

    def begin(self, endpoint: Endpoint, call: Call, body: Payload, scope: Scope, key: ApiKey) -> Route:
        """Look up the ids that the request names.

        Raises ``NotFound`` for one that is not its tenant's, ``Conflict`` where what is to be deleted is not paid yet.
        """
        tenant_id = key.tenant_id
        route = Route(call, endpoint.upstream_path)
        route.service = endpoint.name
        if call.uses:
            for kind, object_id in call.uses:
                handles = self._handles.find_all(kind, object_id, tenant_id)
                # A batch goes where its file is; a file named in a message may lie anywhere.
                if kind == "response" or not endpoint.has_model:
                    route.used, route.candidates = handles[-1], handles
        if endpoint.is_plain:
            return route
        if endpoint.names is not None:
            object_id = scope["path_params"]["id"]
            route.handle = self._handles.find(endpoint.names, object_id, tenant_id)
            route.path = endpoint.upstream_path.replace("{id}", quote(object_id, safe=""))
            if endpoint.deletes and route.handle.owed >= 0:
                raise Conflict(
                    f"This {endpoint.names} is not settled: look at it once more when it has ended, then delete it.",
                    code=f"{endpoint.names}_not_settled",
                    retryable=False,
                )
        if endpoint.body == "none" and scope["query_string"]:
            route.path += "?" + _checked_query(scope["query_string"].decode("latin-1"))
        known = route.handle or (None if endpoint.has_model else route.used)
        if known is not None:
            route.call = call = msgspec.structs.replace(call, model=known.model)
        if endpoint.makes == "batch" and route.used is not None:
            if not route.used.model:
                raise InvalidRequest("That file was not uploaded for a batch.", param="input_file_id")
            work = route.used.work
            if work is None:
                raise InvalidRequest(
                    "That file was uploaded before its lines were looked at: upload it again.", param="input_file_id"
                )
            route.call = call = msgspec.structs.replace(
                call,
                work=work,
                prompt_tokens=work.largest_prompt,
                max_tokens=work.largest_bound or None,
                features=work.features,
            )
        route.is_modelless = not endpoint.has_model and not call.model
        batch = body.batch if isinstance(body, Upload) else None
        route.is_verbatim = batch is not None
        route.objects = ObjectAccounting(
            self._handles, self._lasting, endpoint, tenant_id, key.id, call, route.handle, batch
        )
        return route

    def headers(self, profile: Profile | None) -> list[tuple[str, str]]:
        """Returns the headers that the caller's profile sets for upstreams. Raises ``Unavailable`` (503)."""
        return [] if profile is None else self._targets.headers(profile)

    def targets(self, route: Route, resolved: Resolved | None, profile: Profile | None = None) -> list[Target]:
        """Returns what to try, in order, under a profile. Raises ``NotFound`` (404) and ``Unavailable`` (503)."""
        if route.handle is not None:
            return [self._targets.made_by(route.handle.passport, route.handle.upstream_model, route.service, profile)]
        if route.is_modelless:
            return [self._targets.default(route.service)]
        targets = self._targets.route(route.call.model, resolved, route.service, profile)
        if route.is_verbatim:
            if targets[0].model != route.call.model:
                raise InvalidRequest(
                    f"In a batch the model {route.call.model!r} must be called {targets[0].model!r}.", param="file"
                )
            return targets[:1]
        if route.used is None:
            return targets
        made = self._targets.made_by
        upstreams = [made(each.passport, each.upstream_model, "", profile).upstream for each in route.candidates]
        able = [target for target in targets if target.upstream in upstreams]
        if not able:
            raise InvalidRequest(
                f"The {route.used.kind} {route.used.id!r} was made by another model's server.",
                param=_PARAM_OF.get(route.used.kind),
                code=f"{route.used.kind}_elsewhere",
            )
        return able


def _checked_query(query: str) -> str:
    """Returns the query as it is. Raises ``InvalidRequest`` where one of its names steers the upstream."""
    for name, _ in parse_qsl(query, keep_blank_values=True):
        # ``order`` is that of a list (OpenAI API reference, "List files"), not OpenRouter's of providers.
        if name == "model" or (name != "order" and steers(name)):
            raise InvalidRequest(
                f"The query parameter {name[:80]!r} is not taken here: it steers the server behind this gateway.",
                param=name[:80],
                code="unsupported_parameter",
            )
    return query


_PARAM_OF: dict[Kind, Any] = {"response": "previous_response_id", "file": "input_file_id"}
