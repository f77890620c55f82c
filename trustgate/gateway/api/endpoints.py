"""The endpoints the path serves, each described once: route, wire type, what to hold, gate, meter and remember.

Adding one is an entry of the table below, or of that of ``api.resources`` where it has no meter of its own, and where
its request is a new one a wire type (``wire``) and a function that reads it (``reading``). The path, the routes, the
plans' names and ``/openapi.json`` follow from the table.
"""

from __future__ import annotations

from typing import Any

from trustgate.gateway.api.dialects import ANTHROPIC, EVENTS, OPENAI, RESPONSES
from trustgate.gateway.api.endpoint import Body, Endpoint
from trustgate.gateway.api.object_ids import Kind
from trustgate.gateway.api.parsing import (
    read_batch,
    read_chat,
    read_completion,
    read_count,
    read_embedding,
    read_file,
    read_image,
    read_message_batch,
    read_messages,
    read_moderation,
    read_rerank,
    read_resource,
    read_response,
    read_speech,
    read_tokenize,
    read_transcription,
    read_variation,
)
from trustgate.gateway.api.resources import RESOURCES
from trustgate.gateway.api.schemas import (
    BatchRequest,
    ChatRequest,
    CompletionRequest,
    CountTokensRequest,
    EmbeddingRequest,
    FileRequest,
    ImageRequest,
    InputTokensRequest,
    MessageBatchRequest,
    MessagesRequest,
    ModelRequired,
    ModerationRequest,
    RerankRequest,
    ResponsesRequest,
    SpeechRequest,
    TokenizeRequest,
    TranscriptionRequest,
    VariationRequest,
)
from trustgate.models.metering import whole

__all__ = ["ENDPOINTS", "Body", "Endpoint"]


_TRANSCRIPTION: dict[str, Any] = {
    "body": "form",
    "wire": TranscriptionRequest,
    "read": read_transcription,
    "hears": True,
    "dialect": EVENTS,
    "answers": "any",
    "meter": whole.read_transcript,
}


#: The answer to a deletion may be empty.
_DELETES: dict[str, Any] = {"method": "DELETE", "deletes": True, "answers": "any", "meter": whole.read_nothing_used}


def _looks(name: str, kind: Kind, path: str, summary: str, **members: Any) -> Endpoint:
    """Returns a route that looks at, ends or deletes what an upstream holds, by its id."""
    dialect = {"response": RESPONSES, "message_batch": ANTHROPIC}.get(kind, OPENAI)
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


def _message_batches() -> tuple[Endpoint, ...]:
    kind: Kind = "message_batch"
    path, of_one = "/messages/batches", "/messages/batches/{id}"
    both: dict[str, Any] = {"name": "batches", "path": f"/v1{path}", "upstream_path": path, "dialect": ANTHROPIC}
    return (
        Endpoint(
            **both,
            summary="Have messages answered in the background, in Anthropic's words.",
            wire=MessageBatchRequest,
            read=read_message_batch,
            retries=False,
            makes=kind,
        ),
        Endpoint(
            **both,
            summary="List the caller's batches of messages.",
            method="GET",
            body="none",
            meter=whole.read_nothing_used,
            lists=kind,
        ),
        _looks("batches", kind, of_one, "Look at a batch of messages."),
        _looks("batches", kind, of_one, "Delete a batch of messages.", **_DELETES),
        _looks("batches", kind, f"{of_one}/cancel", "End a batch of messages.", method="POST"),
        _looks("batches", kind, f"{of_one}/results", "Get the answers of a batch of messages.", answers="any"),
    )


def _tokenizers() -> tuple[Endpoint, ...]:
    """Returns what vLLM's servers have besides OpenAI's API (its documentation, "OpenAI-Compatible Server")."""
    counting: dict[str, Any] = {"name": "tokenize", "meter": whole.read_nothing_used, "counts": True, "at_root": True}
    return (
        *(
            Endpoint(
                **counting, path=path, upstream_path=path, summary=summary, wire=TokenizeRequest, read=read_tokenize
            )
            for path, summary in (
                ("/tokenize", "Take a text or a conversation apart into a model's tokens."),
                ("/detokenize", "Put a model's tokens together to a text."),
            )
        ),
        Endpoint(
            **counting,
            path="/tokenizer_info",
            upstream_path="/tokenizer_info",
            summary="What a model's tokenizer is set to; model in the query.",
            method="GET",
            body="none",
            wire=ModelRequired,
            read=read_resource,
        ),
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
        stores="chat_completion",
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
        name="chat.completions",
        path="/v1/chat/completions",
        upstream_path="/chat/completions",
        summary="List the answers that the upstream keeps for the caller.",
        method="GET",
        body="none",
        meter=whole.read_nothing_used,
        lists="chat_completion",
    ),
    _looks("chat.completions", "chat_completion", "/chat/completions/{id}", "Look at an answer that is kept."),
    _looks(
        "chat.completions",
        "chat_completion",
        "/chat/completions/{id}",
        "Change the labels of an answer that is kept.",
        method="POST",
        body="json",
    ),
    _looks(
        "chat.completions",
        "chat_completion",
        "/chat/completions/{id}",
        "Delete an answer that is kept.",
        **_DELETES,
    ),
    _looks("chat.completions", "chat_completion", "/chat/completions/{id}/messages", "List what it was given."),
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
    _looks("responses", "response", "/responses/{id}", "Delete a response.", **_DELETES),
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
        takes_json=True,
        wire=ImageRequest,
        read=read_image,
        dialect=EVENTS,
        meter=whole.read_images,
    ),
    Endpoint(
        name="images.variations",
        path="/v1/images/variations",
        upstream_path="/images/variations",
        summary="Make images like another.",
        body="form",
        wire=VariationRequest,
        read=read_variation,
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
        form_hint="This is OpenAI's Files API; Anthropic's is not served: put a file's content into the message.",
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
    _looks("files", "file", "/files/{id}", "Delete a file.", **_DELETES),
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
    *_message_batches(),
    *_tokenizers(),
    *RESOURCES,
)
