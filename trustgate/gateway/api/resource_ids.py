"""What is learned from the answers of resources (``api.resources``), and of answers that an upstream is asked to keep.

Owns which ids in such an answer are its tenant's from then on. Nothing is metered here: a resource's call costs what
its price says, an answer that is kept costs what it does without that.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.gateway.api.object_accounting import ObjectAccounting, unkept
from trustgate.gateway.api.object_ids import Kind
from trustgate.models.metering.events import read_object
from trustgate.models.metering.lenient import dict_of, read_json
from trustgate.models.upstream.targets import Target
from trustgate.types import Usage

_NOTHING = Usage()
#: Objects that the stream of a run gives out (OpenAI API reference, "Assistants", "Streaming").
_STREAMED: dict[str, Kind] = {"thread": "thread", "thread.run": "run", "thread.message": "message"}


class ResourceIds(ObjectAccounting):
    """The dealings of a resource's call with ids."""

    def whole(self, body: bytes, usage: Usage, target: Target) -> tuple[bytes, Usage]:
        endpoint = self._endpoint
        if endpoint.deletes and self._handle is not None:
            if endpoint.children:
                self._forget_child()
            else:
                self._handles.forget(self._handle)
            return body, _NOTHING
        handle, model = self._handle, self._call.model
        if handle is not None and handle.kind == "assistant" and handle.model != model:
            # What it is run with from now on.
            self._handles.keep(msgspec.structs.replace(handle, model=model, upstream_model=target.model))
        if endpoint.makes is not None:
            object_id = read_object(body)[0]
            if object_id and not self._handles.can_keep(self._made(endpoint.makes, object_id, target)):
                raise unkept(endpoint.makes)
            self._keep(endpoint.makes, object_id, target)
        for path, kind in endpoint.learns:
            value: Any = read_json(body)
            for name in path.split("."):
                value = dict_of(value).get(name)
            self._keep(kind, value, target)
        return body, _NOTHING

    def learn(self, event: bytes, target: Target) -> None:
        made = dict_of(read_json(event)) if self._endpoint.makes == "run" and b'"object"' in event else {}
        kind = made.get("object")
        if isinstance(kind, str) and kind in _STREAMED:
            self._keep(_STREAMED[kind], made.get("id"), target)

    def seen(self, object_id: str, target: Target) -> None:
        """The stream of a run is no Response."""

    def settle(self, object_id: str, status: str, usage: Usage, target: Target) -> Usage:
        return _NOTHING

    def _keep(self, kind: Kind, object_id: Any, target: Target) -> None:
        if isinstance(object_id, str):
            self._handles.keep(self._made(kind, object_id, target))

    def _forget_child(self) -> None:
        child = self._child
        if child is not None and not self._endpoint.keeps_child:
            for handle in self._handles.of_id(child[0], child[1], self._tenant_id):
                self._handles.forget(handle)


class KeptAnswer(ObjectAccounting):
    """An answer to a request with ``store``: its id is its tenant's, and its usage is what it is."""

    def whole(self, body: bytes, usage: Usage, target: Target) -> tuple[bytes, Usage]:
        self._note(read_object(body)[0], target)
        return body, usage

    def learn(self, event: bytes, target: Target) -> None:
        if self._handle is None:
            self._note(read_object(event)[0], target)

    def seen(self, object_id: str, target: Target) -> None:
        """Its stream's chunks are read by ``learn``."""

    def settle(self, object_id: str, status: str, usage: Usage, target: Target) -> Usage:
        return usage

    def _note(self, object_id: str, target: Target) -> None:
        if self._endpoint.stores is not None and object_id:
            self._handle = self._made(self._endpoint.stores, object_id, target)
            self._handles.keep(self._handle)
