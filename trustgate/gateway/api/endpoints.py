"""The endpoints the path serves, each described once: route, wire type, what to hold, gate, meter and remember.

Adding one is an entry of the table below, and where its request is a new one a wire type (``wire``) and a function that
reads it (``reading``). The path, the routes, the plans' names and ``/openapi.json`` follow from the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Literal

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.gateway.api.batch_files import BatchFile
from trustgate.gateway.api.body_ids import ANTHROPIC_MARKS, OPENAI_MARKS, RESPONSES_MARKS
from trustgate.gateway.api.dialects import ANTHROPIC, EVENTS, OPENAI, RESPONSES, Dialect
from trustgate.gateway.api.members import BOUNDS, COMMON
from trustgate.gateway.api.object_ids import Kind
from trustgate.gateway.api.parsing import (
    Call,
    broken_call,
    explain,
    json_fault,
    read_batch,
    read_chat,
    read_completion,
    read_count,
    read_embedding,
    read_file,
    read_image,
    read_messages,
    read_moderation,
    read_nothing,
    read_rerank,
    read_response,
    read_speech,
    read_transcription,
    with_ids,
    with_members,
)
from trustgate.gateway.api.schemas import (
    BatchRequest,
    ChatRequest,
    CompletionRequest,
    CountTokensRequest,
    EmbeddingRequest,
    FileRequest,
    ImageRequest,
    InputTokensRequest,
    MessagesRequest,
    ModerationRequest,
    Nothing,
    RerankRequest,
    ResponsesRequest,
    SpeechRequest,
    TranscriptionRequest,
)
from trustgate.models.metering import whole

__all__ = ["ENDPOINTS", "Call", "Endpoint"]

Body = Literal["json", "form", "none"]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One route of the path. ``name`` is what plans and receipts call it; several routes may share one."""

    name: str
    #: ``{id}`` in it is an upstream's id, which must belong to the caller's tenant (``names`` holds the kind).
    path: str
    #: Where the upstream serves it, below its base URL.
    upstream_path: str
    summary: str
    method: Literal["GET", "POST", "DELETE"] = "POST"
    body: Body = "json"
    wire: type[Any] = Nothing
    read: Callable[[Any], Call] = read_nothing
    dialect: Dialect = OPENAI
    #: What an answer that is no stream of events may be: a JSON object, or anything (relayed as it comes).
    answers: Literal["object", "any"] = "object"
    #: Reads the usage of a whole answer.
    meter: Callable[[bytes], whole.Reported] = whole.read_answer
    #: Whether the answer holds generated tokens that a bound applies to.
    generates: bool = False
    #: The member that bounds the completion when the gateway has to set one; and what OpenAI's own servers want.
    max_tokens_member: str = "max_tokens"
    openai_max_tokens_member: str = ""
    #: Whether a bound of 0 is one by the API's own definition.
    zero_is_none: bool = False
    #: Whether a stream reports its usage only when ``stream_options.include_usage`` asks for it.
    asks_usage: bool = False
    #: Whether a passport's default parameters belong into the request.
    takes_defaults: bool = False
    #: Whether a try that failed may be made again: not where a second try could make a second thing.
    retries: bool = True
    #: The kind of id that the answer gives out, that the path names, that the answer lists, and whether it is deleted.
    makes: Kind | None = None
    names: Kind | None = None
    lists: Kind | None = None
    deletes: bool = False
    #: Its file is a recording.
    hears: bool = False
    #: It only counts what another request would use.
    counts: bool = False

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(self.wire)

    @cached_property
    def has_model(self) -> bool:
        return "model" in self.wire.__struct_fields__

    @cached_property
    def is_sold(self) -> bool:
        """Whether a request costs something by itself: not one that looks at, lists, ends or counts."""
        return (self.has_model and not self.counts) or self.makes == "batch"

    @cached_property
    def is_plain(self) -> bool:
        """Names no upstream's ids and gives none out: the usual case."""
        return self.has_model and (self.makes or self.names or self.lists) is None

    @cached_property
    def sells_keyless(self) -> bool:
        """Whether callers without a key can buy it: nothing that an upstream keeps or has kept, and no form."""
        return self.is_sold and self.is_plain and self.body == "json" and self.name != "responses"

    @cached_property
    def needed(self) -> frozenset[str]:
        """The fields without which nothing can be decided."""
        return frozenset(field.name for field in msgspec.structs.fields(self.wire) if field.required)

    @cached_property
    def _unremarkable(self) -> frozenset[str]:
        """The members that need no second look."""
        return COMMON | frozenset(self.wire.__struct_fields__)

    @cached_property
    def decisive(self) -> frozenset[str]:
        """The fields of a form that may be said once only, and not after its beginning was sent on."""
        return frozenset(self.wire.__struct_fields__) & {"model", "stream", "n", "purpose"}

    def is_bounded_by(self, bounds: Iterable[tuple[str, float]]) -> bool:
        """Returns whether one of these bounds has a name that every server of this endpoint reads."""
        return any(name in self._bound_members for name, _ in bounds)

    @cached_property
    def _bound_members(self) -> frozenset[str]:
        return frozenset(self.wire.__struct_fields__) & BOUNDS

    def keeps_bound(self, value: float, most: int) -> bool:
        """Returns whether a bound of the client's may stay as it is where ``most`` is allowed.

        0 means "nothing" where the API defines it so (the texts of ``/completions`` are scored with it, a prompt is put
        into a cache with it); elsewhere some servers take it for "no bound" (Ollama), as all take -1.
        """
        return 0 < value <= most or (value == 0 and self.zero_is_none)

    def peek(self, body: bytes) -> Call:
        """Read a body once. Raises ``InvalidRequest`` when it is not a JSON object in UTF-8."""
        if self.body == "none":
            return _NOTHING_ASKED
        try:
            if not body.isascii():
                body.decode()  # msgspec looks into no text that it skips
            call = self.read(self._decoder.decode(body))
            call = with_members(call, body, _members(body), self._unremarkable, generates=self.generates)
            return with_ids(call, body, _MARKS.get(self.dialect, OPENAI_MARKS))
        except msgspec.ValidationError as error:
            return broken_call(body, error)
        except RecursionError:
            raise InvalidRequest("The JSON body is nested too deeply.", code="invalid_json") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(
                f"We could not parse the JSON body of your request: {json_fault(body, error)}.", code="invalid_json"
            ) from None

    def peek_form(self, fields: dict[str, str], batch: BatchFile | None = None, audio_ms: int = 0) -> Call:
        """Read the fields of a form: each is text, and converted to what its member is.

        ``batch``: the requests in its file; ``audio_ms``: how long a recording that is its file may be.
        """
        try:
            call = self.read(msgspec.convert(fields, self.wire, strict=False))
            if batch is not None:
                return msgspec.structs.replace(call, model=batch.model)
            return call if not self.hears else msgspec.structs.replace(call, audio_ms=audio_ms)
        except msgspec.ValidationError as error:
            return Call(model=fields.get("model", ""), choices=0, invalid=explain(error))


#: What the ids in a body are called, by API.
_MARKS = {RESPONSES: RESPONSES_MARKS, ANTHROPIC: ANTHROPIC_MARKS}
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NOTHING_ASKED = Call(model="", choices=0)


# the table

_TRANSCRIPTION: dict[str, Any] = {
    "body": "form",
    "wire": TranscriptionRequest,
    "read": read_transcription,
    "hears": True,
    "dialect": EVENTS,
    "answers": "any",
    "meter": whole.read_transcript,
}


def _looks(name: str, kind: Kind, path: str, summary: str, **members: Any) -> Endpoint:
    """Returns a route that looks at, ends or deletes what an upstream holds, by its id."""
    dialect = RESPONSES if kind == "response" else OPENAI
    return Endpoint(
        **{
            "name": name,
            "path": f"/v1{path}",
            "upstream_path": path,
            "summary": summary,
            "method": "GET",
            "body": "none",
            "dialect": dialect,
            "names": kind,
            "meter": whole.read_kept,
            **members,
        }
    )


ENDPOINTS = (
    Endpoint(
        name="chat.completions",
        path="/v1/chat/completions",
        upstream_path="/chat/completions",
        summary="Answer a conversation.",
        wire=ChatRequest,
        read=read_chat,
        generates=True,
        openai_max_tokens_member="max_completion_tokens",
        asks_usage=True,
        takes_defaults=True,
    ),
    Endpoint(
        name="completions",
        path="/v1/completions",
        upstream_path="/completions",
        summary="Go on with a text.",
        wire=CompletionRequest,
        read=read_completion,
        generates=True,
        zero_is_none=True,
        asks_usage=True,
        takes_defaults=True,
    ),
    Endpoint(
        name="embeddings",
        path="/v1/embeddings",
        upstream_path="/embeddings",
        summary="Turn texts into vectors.",
        wire=EmbeddingRequest,
        read=read_embedding,
        meter=whole.read_scores,
        takes_defaults=True,
    ),
    Endpoint(
        name="responses",
        path="/v1/responses",
        upstream_path="/responses",
        summary="Answer a conversation that the upstream may keep.",
        wire=ResponsesRequest,
        read=read_response,
        meter=whole.read_response,
        dialect=RESPONSES,
        generates=True,
        max_tokens_member="max_output_tokens",
        makes="response",
    ),
    Endpoint(
        name="responses",
        path="/v1/responses/input_tokens",
        upstream_path="/responses/input_tokens",
        summary="Count the tokens of a request for a response.",
        wire=InputTokensRequest,
        read=read_response,
        meter=whole.read_nothing_used,
        counts=True,
    ),
    Endpoint(
        name="responses",
        path="/v1/responses/compact",
        upstream_path="/responses/compact",
        summary="Make a long conversation shorter.",
        wire=InputTokensRequest,
        read=read_response,
    ),
    _looks("responses", "response", "/responses/{id}", "Look at a response, or follow it as a stream."),
    _looks("responses", "response", "/responses/{id}", "Delete a response.", method="DELETE", deletes=True),
    _looks("responses", "response", "/responses/{id}/cancel", "End a response in the background.", method="POST"),
    _looks("responses", "response", "/responses/{id}/input_items", "List what a response was given."),
    Endpoint(
        name="messages",
        path="/v1/messages",
        upstream_path="/messages",
        summary="Answer a conversation, in Anthropic's words.",
        wire=MessagesRequest,
        read=read_messages,
        dialect=ANTHROPIC,
        generates=True,
        zero_is_none=True,
    ),
    Endpoint(
        name="messages",
        path="/v1/messages/count_tokens",
        upstream_path="/messages/count_tokens",
        summary="Count the tokens of a conversation, in Anthropic's words.",
        wire=CountTokensRequest,
        read=read_count,
        dialect=ANTHROPIC,
        meter=whole.read_nothing_used,
        counts=True,
    ),
    Endpoint(
        name="moderations",
        path="/v1/moderations",
        upstream_path="/moderations",
        summary="Judge whether texts or images are harmful.",
        wire=ModerationRequest,
        read=read_moderation,
        meter=whole.read_scores,
    ),
    *(
        Endpoint(
            name="rerank",
            path=path,
            upstream_path="/rerank",
            summary="Order documents by how well they answer a query.",
            wire=RerankRequest,
            read=read_rerank,
            meter=whole.read_scores,
        )
        for path in ("/v1/rerank", "/rerank")
    ),
    Endpoint(
        name="images.generations",
        path="/v1/images/generations",
        upstream_path="/images/generations",
        summary="Make images.",
        wire=ImageRequest,
        read=read_image,
        dialect=EVENTS,
        meter=whole.read_images,
    ),
    Endpoint(
        name="audio.speech",
        path="/v1/audio/speech",
        upstream_path="/audio/speech",
        summary="Speak a text.",
        wire=SpeechRequest,
        read=read_speech,
        dialect=EVENTS,
        answers="any",
        meter=whole.read_speech,
    ),
    Endpoint(
        name="images.edits",
        path="/v1/images/edits",
        upstream_path="/images/edits",
        summary="Change images.",
        body="form",
        wire=ImageRequest,
        read=read_image,
        dialect=EVENTS,
        meter=whole.read_images,
    ),
    Endpoint(
        name="audio.transcriptions",
        path="/v1/audio/transcriptions",
        upstream_path="/audio/transcriptions",
        summary="Write down what is said in a recording.",
        **_TRANSCRIPTION,
    ),
    Endpoint(
        name="audio.translations",
        path="/v1/audio/translations",
        upstream_path="/audio/translations",
        summary="Write down in English what is said in a recording.",
        **_TRANSCRIPTION,
    ),
    Endpoint(
        name="files",
        path="/v1/files",
        upstream_path="/files",
        summary="Give the upstream a file to keep.",
        body="form",
        wire=FileRequest,
        read=read_file,
        meter=whole.read_nothing_used,
        retries=False,
        makes="file",
    ),
    Endpoint(
        name="files",
        path="/v1/files",
        upstream_path="/files",
        summary="List the files the upstream keeps for the caller.",
        method="GET",
        body="none",
        meter=whole.read_nothing_used,
        lists="file",
    ),
    _looks("files", "file", "/files/{id}", "Look at what is known of a file."),
    _looks("files", "file", "/files/{id}", "Delete a file.", method="DELETE", deletes=True),
    _looks("files", "file", "/files/{id}/content", "Get a file's content.", answers="any"),
    Endpoint(
        name="batches",
        path="/v1/batches",
        upstream_path="/batches",
        summary="Have the requests in a file answered in the background.",
        wire=BatchRequest,
        read=read_batch,
        retries=False,
        makes="batch",
    ),
    Endpoint(
        name="batches",
        path="/v1/batches",
        upstream_path="/batches",
        summary="List the caller's batches.",
        method="GET",
        body="none",
        meter=whole.read_nothing_used,
        lists="batch",
    ),
    _looks("batches", "batch", "/batches/{id}", "Look at a batch."),
    _looks("batches", "batch", "/batches/{id}/cancel", "End a batch.", method="POST"),
)
