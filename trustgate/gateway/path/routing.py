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
from trustgate.types import ApiKey


class Route:
    """The way of one request."""

    __slots__ = ("call", "candidates", "handle", "is_modelless", "is_verbatim", "keeper", "path", "service", "used")

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
        self.keeper: ObjectAccounting | None = None

    @property
    def unresolved_names(self) -> tuple[str, ...]:
        """What plans are matched against when the model's name means nothing."""
        return () if self.is_modelless else (self.call.model,)


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
        way = Route(call, endpoint.upstream_path)
        way.service = endpoint.name
        if call.uses:
            for kind, object_id in call.uses:
                handles = self._handles.find_all(kind, object_id, tenant_id)
                # A batch goes where its file is; a file named in a message may lie anywhere.
                if kind == "response" or not endpoint.has_model:
                    way.used, way.candidates = handles[-1], handles
        if endpoint.is_plain:
            return way
        if endpoint.names is not None:
            object_id = scope["path_params"]["id"]
            way.handle = self._handles.find(endpoint.names, object_id, tenant_id)
            way.path = endpoint.upstream_path.replace("{id}", quote(object_id, safe=""))
            if endpoint.deletes and way.handle.owed >= 0:
                raise Conflict(
                    f"This {endpoint.names} is not settled: look at it once more when it has ended, then delete it.",
                    code=f"{endpoint.names}_not_settled",
                    retryable=False,
                )
        if endpoint.body == "none" and scope["query_string"]:
            way.path += "?" + _checked_query(scope["query_string"].decode("latin-1"))
        known = way.handle or (None if endpoint.has_model else way.used)
        if known is not None:
            way.call = call = msgspec.structs.replace(call, model=known.model)
        if endpoint.makes == "batch" and way.used is not None:
            if not way.used.model:
                raise InvalidRequest("That file was not uploaded for a batch.", param="input_file_id")
            work = way.used.work
            if work is None:
                raise InvalidRequest(
                    "That file was uploaded before its lines were looked at: upload it again.", param="input_file_id"
                )
            way.call = call = msgspec.structs.replace(
                call,
                work=work,
                prompt_tokens=work.largest_prompt,
                max_tokens=work.largest_bound or None,
                features=work.features,
            )
        way.is_modelless = not endpoint.has_model and not call.model
        batch = body.batch if isinstance(body, Upload) else None
        way.is_verbatim = batch is not None
        way.keeper = ObjectAccounting(
            self._handles, self._lasting, endpoint, tenant_id, key.id, call, way.handle, batch
        )
        return way

    def targets(self, way: Route, resolved: Resolved | None) -> list[Target]:
        """What to try, in order. Raises ``NotFound`` (404) and ``Unavailable`` (503)."""
        if way.handle is not None:
            return [self._targets.made_by(way.handle.passport, way.handle.upstream_model, way.service)]
        if way.is_modelless:
            return [self._targets.default(way.service)]
        targets = self._targets.route(way.call.model, resolved, way.service)
        if way.is_verbatim:
            if targets[0].model != way.call.model:
                raise InvalidRequest(
                    f"In a batch the model {way.call.model!r} must be called {targets[0].model!r}.", param="file"
                )
            return targets[:1]
        if way.used is None:
            return targets
        upstreams = [self._targets.made_by(each.passport, each.upstream_model).upstream for each in way.candidates]
        able = [target for target in targets if target.upstream in upstreams]
        if not able:
            raise InvalidRequest(
                f"The {way.used.kind} {way.used.id!r} was made by another model's server.",
                param=_PARAM_OF.get(way.used.kind),
                code=f"{way.used.kind}_elsewhere",
            )
        return able


def _checked_query(query: str) -> str:
    """The query as it is. Raises ``InvalidRequest`` where one of its names steers the upstream."""
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
