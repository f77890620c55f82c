"""The endpoints of what upstreams keep for their users: conversations, vector stores, threads, videos and the like.

None of them has a meter: the answer does not tell what the call costs. So a call that makes or changes something may
have a price (that of the passport ``endpoint:NAME``), and a plan includes them by the feature ``unmetered_calls``.
Every id is its tenant's alone (``api.object_ids``). Adding a resource is a line or two of the table below.

In a path ``{id}`` is an id that must be the caller's own; each further name in braces is an id below that, of the kind
of that name. Source: OpenAI API reference.
"""

from __future__ import annotations

from typing import Any

from trustgate.gateway.api.dialects import RUNS
from trustgate.gateway.api.endpoint import Endpoint
from trustgate.gateway.api.object_ids import Kind
from trustgate.gateway.api.parsing import read_container_file, read_items, read_resource, read_voice
from trustgate.gateway.api.schemas import (
    ContainerFileRequest,
    ItemsRequest,
    Modelled,
    ModelRequired,
    Nothing,
    Streamable,
    VoiceRequest,
)
from trustgate.models.metering import whole


class _Resource:
    """Makes the endpoints of one name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _of(self, method: str, path: str, summary: str, **members: Any) -> Endpoint:
        return Endpoint(
            **{
                "name": self.name,
                "path": f"/v1{path}",
                "upstream_path": path,
                "summary": summary,
                "method": method,
                "body": "none",
                "read": read_resource,
                "dialect": RUNS,
                "meter": whole.read_nothing_used,
                "is_unmetered": True,
                **members,
            }
        )

    def post(self, path: str, summary: str, *, of: Kind | None = None, **members: Any) -> Endpoint:
        """Returns a call with a body that makes or changes something, and so may have a price."""
        per_call = {"body": "json", "wire": Nothing, "retries": False, "is_sold_by_call": True}
        return self._of("POST", path, summary, names=of, **{**per_call, **members})

    def act(self, path: str, summary: str, of: Kind | None, **members: Any) -> Endpoint:
        """Returns a call that ends or relabels what was made: it costs nothing."""
        return self._of("POST", path, summary, names=of, retries=False, **members)

    def update(self, path: str, summary: str, of: Kind | None, **members: Any) -> Endpoint:
        return self.act(path, summary, of, **{"body": "json", "wire": Nothing, **members})

    def get(self, path: str, summary: str, of: Kind, **members: Any) -> Endpoint:
        return self._of("GET", path, summary, names=of, **members)

    def drop(self, path: str, summary: str, of: Kind, **members: Any) -> Endpoint:
        return self._of("DELETE", path, summary, names=of, deletes=True, retries=False, answers="any", **members)

    def list(self, path: str, summary: str, kind: Kind) -> Endpoint:
        """Returns the list of all objects of a kind: of the upstream's, the caller's own are shown."""
        return self._of("GET", path, summary, lists=kind)


def _fine_tuning(jobs: _Resource) -> tuple[Endpoint, ...]:
    job: Kind = "fine_tuning_job"
    learns = (("fine_tuned_model", "model"),)
    return (
        jobs.post("/fine_tuning/jobs", "Train a model on files.", wire=ModelRequired, makes=job, has_inner_models=True),
        jobs.list("/fine_tuning/jobs", "List the caller's trainings.", job),
        jobs.get("/fine_tuning/jobs/{id}", "Look at a training.", job, learns=learns),
        jobs.get("/fine_tuning/jobs/{id}/events", "List what happened in a training.", job),
        jobs.get("/fine_tuning/jobs/{id}/checkpoints", "List a training's checkpoints.", job),
        *(
            jobs.act(f"/fine_tuning/jobs/{{id}}/{verb}", f"Have a training {verb}d.", job)
            for verb in ("pause", "resume")
        ),
        jobs.act("/fine_tuning/jobs/{id}/cancel", "End a training.", job),
        jobs.post("/fine_tuning/alpha/graders/run", "Grade a sample.", has_inner_models=True),
        jobs.update("/fine_tuning/alpha/graders/validate", "Check a grader.", None, has_inner_models=True),
    )


def _threads(assistants: _Resource, threads: _Resource) -> tuple[Endpoint, ...]:
    thread: Kind = "thread"
    run: dict[str, Any] = {"wire": Streamable}
    of_run = "/threads/{id}/runs/{run}"
    of_message = "/threads/{id}/messages/{message}"
    return (
        assistants.post("/assistants", "Make an assistant.", wire=ModelRequired, makes="assistant"),
        assistants.list("/assistants", "List the caller's assistants.", "assistant"),
        assistants.get("/assistants/{id}", "Look at an assistant.", "assistant"),
        assistants.update("/assistants/{id}", "Change an assistant.", "assistant", wire=Modelled),
        assistants.drop("/assistants/{id}", "Delete an assistant.", "assistant"),
        threads.post("/threads", "Begin a thread.", makes=thread),
        threads.post(
            "/threads/runs", "Begin a thread and run it.", **run, makes="run", learns=(("thread_id", thread),)
        ),
        threads.get("/threads/{id}", "Look at a thread.", thread),
        threads.update("/threads/{id}", "Change a thread's labels.", thread),
        threads.drop("/threads/{id}", "Delete a thread.", thread),
        threads.post("/threads/{id}/messages", "Add a message to a thread.", of=thread, makes="message"),
        threads.get("/threads/{id}/messages", "List a thread's messages.", thread),
        threads.get(of_message, "Look at a message.", thread),
        threads.update(of_message, "Change a message's labels.", thread),
        threads.drop(of_message, "Delete a message.", thread),
        threads.post("/threads/{id}/runs", "Run a thread.", of=thread, **run, makes="run"),
        threads.get("/threads/{id}/runs", "List a thread's runs.", thread),
        threads.get(of_run, "Look at a run.", thread),
        threads.update(of_run, "Change a run's labels.", thread),
        threads.act(f"{of_run}/cancel", "End a run.", thread),
        threads.post(f"{of_run}/submit_tool_outputs", "Go on with a run.", of=thread, **run),
        threads.get(f"{of_run}/steps", "List a run's steps.", thread),
        threads.get(f"{of_run}/steps/{{step}}", "Look at a step.", thread),
    )


def _vector_stores(stores: _Resource) -> tuple[Endpoint, ...]:
    store: Kind = "vector_store"
    of_file, of_batch = "/vector_stores/{id}/files/{file}", "/vector_stores/{id}/file_batches/{file_batch}"
    return (
        stores.post("/vector_stores", "Make a vector store.", makes=store),
        stores.list("/vector_stores", "List the caller's vector stores.", store),
        stores.get("/vector_stores/{id}", "Look at a vector store.", store),
        stores.update("/vector_stores/{id}", "Change a vector store.", store),
        stores.drop("/vector_stores/{id}", "Delete a vector store.", store),
        stores.post("/vector_stores/{id}/search", "Search a vector store.", of=store),
        stores.post("/vector_stores/{id}/files", "Add a file to a vector store.", of=store),
        stores.get("/vector_stores/{id}/files", "List a vector store's files.", store),
        stores.get(of_file, "Look at a file in a vector store.", store),
        stores.update(of_file, "Change a file's attributes.", store),
        stores.drop(of_file, "Take a file out of a vector store.", store, keeps_child=True),
        stores.get(f"{of_file}/content", "Get the text of a file in a vector store.", store),
        stores.post("/vector_stores/{id}/file_batches", "Add files to a vector store.", of=store, makes="file_batch"),
        stores.get(of_batch, "Look at how the adding of files goes.", store),
        stores.act(f"{of_batch}/cancel", "End the adding of files.", store),
        stores.get(f"{of_batch}/files", "List the files that are being added.", store),
    )


def _containers(containers: _Resource) -> tuple[Endpoint, ...]:
    container: Kind = "container"
    of_file = "/containers/{id}/files/{container_file}"
    files: dict[str, Any] = {"body": "form", "takes_json": True, "makes": "container_file"}
    files |= {"wire": ContainerFileRequest, "read": read_container_file}
    return (
        containers.post("/containers", "Make a container for programs.", makes=container),
        containers.list("/containers", "List the caller's containers.", container),
        containers.get("/containers/{id}", "Look at a container.", container),
        containers.drop("/containers/{id}", "Delete a container.", container),
        containers.post("/containers/{id}/files", "Put a file into a container.", of=container, **files),
        containers.get("/containers/{id}/files", "List a container's files.", container),
        containers.get(of_file, "Look at a container's file.", container),
        containers.get(f"{of_file}/content", "Get a container's file.", container, answers="any"),
        containers.drop(of_file, "Delete a container's file.", container),
    )


def _evals(evals: _Resource) -> tuple[Endpoint, ...]:
    of_run = "/evals/{id}/runs/{eval_run}"
    return (
        evals.post("/evals", "Define an evaluation.", makes="eval", has_inner_models=True),
        evals.list("/evals", "List the caller's evaluations.", "eval"),
        evals.get("/evals/{id}", "Look at an evaluation.", "eval"),
        evals.update("/evals/{id}", "Rename an evaluation.", "eval"),
        evals.drop("/evals/{id}", "Delete an evaluation.", "eval"),
        evals.post("/evals/{id}/runs", "Run an evaluation.", of="eval", makes="eval_run", has_inner_models=True),
        evals.get("/evals/{id}/runs", "List an evaluation's runs.", "eval"),
        evals.get(of_run, "Look at an evaluation's run.", "eval"),
        evals.act(of_run, "End an evaluation's run.", "eval"),
        evals.drop(of_run, "Delete an evaluation's run.", "eval"),
        evals.get(f"{of_run}/output_items", "List what a run came to.", "eval"),
        evals.get(f"{of_run}/output_items/{{output_item}}", "Look at one of a run's results.", "eval"),
    )


def _videos(videos: _Resource) -> tuple[Endpoint, ...]:
    form: dict[str, Any] = {"body": "form", "takes_json": True, "wire": Modelled, "makes": "video"}
    return (
        videos.post("/videos", "Make a video.", **form),
        videos.list("/videos", "List the caller's videos.", "video"),
        videos.post("/videos/edits", "Change a video.", **form),
        videos.post("/videos/extensions", "Make a video longer.", **form),
        videos.post("/videos/characters", "Make a character from a video.", **form | {"makes": "character"}),
        videos.get("/videos/characters/{id}", "Look at a character.", "character"),
        videos.get("/videos/{id}", "Look at a video.", "video"),
        videos.drop("/videos/{id}", "Delete a video.", "video"),
        videos.get("/videos/{id}/content", "Get a video.", "video", answers="any"),
        videos.post("/videos/{id}/remix", "Make a video from another.", of="video", makes="video"),
    )


def _skills(skills: _Resource) -> tuple[Endpoint, ...]:
    of_version = "/skills/{id}/versions/{version}"
    return (
        skills.post("/skills", "Give the upstream a skill to keep.", body="form", takes_json=True, makes="skill"),
        skills.list("/skills", "List the caller's skills.", "skill"),
        skills.get("/skills/{id}", "Look at a skill.", "skill"),
        skills.update("/skills/{id}", "Change a skill's default version.", "skill"),
        skills.drop("/skills/{id}", "Delete a skill.", "skill"),
        skills.get("/skills/{id}/content", "Get a skill.", "skill", answers="any"),
        skills.post("/skills/{id}/versions", "Add a version of a skill.", of="skill", body="form", takes_json=True),
        skills.get("/skills/{id}/versions", "List a skill's versions.", "skill"),
        skills.get(of_version, "Look at a skill's version.", "skill"),
        skills.drop(of_version, "Delete a skill's version.", "skill"),
        skills.get(f"{of_version}/content", "Get a skill's version.", "skill", answers="any"),
    )


def _voices(voices: _Resource) -> tuple[Endpoint, ...]:
    consent: Kind = "voice_consent"
    form: dict[str, Any] = {"body": "form", "wire": VoiceRequest, "read": read_voice}
    return (
        voices.post("/audio/voices", "Make a voice from a recording.", **form, makes="voice"),
        voices.post("/audio/voice_consents", "Give a speaker's consent.", body="form", makes=consent),
        voices.list("/audio/voice_consents", "List the caller's consents.", consent),
        voices.get("/audio/voice_consents/{id}", "Look at a consent.", consent),
        voices.update("/audio/voice_consents/{id}", "Rename a consent.", consent),
        voices.drop("/audio/voice_consents/{id}", "Delete a consent.", consent),
    )


def _conversations(conversations: _Resource) -> tuple[Endpoint, ...]:
    conversation: Kind = "conversation"
    of_item = "/conversations/{id}/items/{item}"
    items: dict[str, Any] = {"wire": ItemsRequest, "read": read_items}
    return (
        conversations.post("/conversations", "Begin a conversation.", **items, makes=conversation),
        conversations.get("/conversations/{id}", "Look at a conversation.", conversation),
        conversations.update("/conversations/{id}", "Change a conversation's labels.", conversation),
        conversations.drop("/conversations/{id}", "Delete a conversation.", conversation),
        conversations.post("/conversations/{id}/items", "Add to a conversation.", of=conversation, **items),
        conversations.get("/conversations/{id}/items", "List what a conversation holds.", conversation),
        conversations.get(of_item, "Look at an item of a conversation.", conversation),
        conversations.drop(of_item, "Take an item out of a conversation.", conversation),
    )


def _uploads(uploads: _Resource) -> tuple[Endpoint, ...]:
    return (
        uploads.post("/uploads", "Begin to send a large file in parts.", makes="upload"),
        uploads.post("/uploads/{id}/parts", "Send a part of a file.", of="upload", body="form", makes="part"),
        uploads.update(
            "/uploads/{id}/complete", "Put the parts of a file together.", "upload", learns=(("file.id", "file"),)
        ),
        uploads.act("/uploads/{id}/cancel", "Give up sending a file.", "upload"),
    )


RESOURCES = (
    *_conversations(_Resource("conversations")),
    *_vector_stores(_Resource("vector_stores")),
    *_uploads(_Resource("uploads")),
    *_containers(_Resource("containers")),
    *_videos(_Resource("videos")),
    *_threads(_Resource("assistants"), _Resource("threads")),
    *_evals(_Resource("evals")),
    *_fine_tuning(_Resource("fine_tuning")),
    *_skills(_Resource("skills")),
    *_voices(_Resource("audio.voices")),
    _Resource("content_provenance_checks").post(
        "/content_provenance_checks", "Check where an image comes from.", body="form"
    ),
    _Resource("models").drop("/models/{id}", "Delete a model that the caller has trained.", "model"),
)
