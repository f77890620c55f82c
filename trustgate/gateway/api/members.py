"""The top-level members of a request's body, judged by their names.

What is judged here must be what the upstream reads. So a member that would steer an upstream away from it (another
model, another address, another key) is found, a bound is read under every name that some server gives it, and a name
that only one of two readers would take for a known one (another case, another Unicode form, escapes, a member that
comes twice) is refused (``api.member_names``). All other members pass unread.

Owns the lists of such names. Sources: the request types of LiteLLM (``all_litellm_params``), OpenRouter ("Provider
routing", "Model routing"), Vercel AI Gateway, Azure OpenAI ("On your data"), vLLM and SGLang (protocol modules), TGI
and LoRAX (``adapter_id``), llama.cpp (server README), Ollama ("OpenAI compatibility", "Modelfile"), LM Studio, MLX.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.gateway.api.member_names import Members, alike, misnamed, plain
from trustgate.gateway.api.schemas import MaybeChoices, Metadata, Tokens

#: Members that pass without a second look, besides those of the endpoint's own wire type.
COMMON = frozenset(
    (
        *("audio", "cache_control", "chat_template_kwargs", "dimensions", "echo", "effort", "encoding_format"),
        *("enable_thinking", "frequency_penalty", "function_call", "functions", "grammar", "guided_json", "ignore_eos"),
        *("include", "include_reasoning", "input_type", "instructions", "json_schema", "language", "logit_bias"),
        *("logprobs", "min_p", "min_tokens", "modalities", "output_config", "parallel_tool_calls", "prediction"),
        *("presence_penalty", "prompt_cache_key", "prompt_cache_retention", "quality", "reasoning", "reasoning_effort"),
        *("reasoning_format", "repetition_penalty", "response_format", "safety_identifier", "seed", "service_tier"),
        *("size", "speed", "stop", "stop_sequences", "stop_token_ids", "store", "stream", "stream_options", "style"),
        *(
            "suffix",
            "system",
            "task",
            "temperature",
            "text",
            "thinking",
            "tool_choice",
            "tool_stream",
            "tools",
            "top_k",
        ),
        *(
            "top_logprobs",
            "top_n",
            "top_p",
            "truncate",
            "truncation",
            "user",
            "verbosity",
            "voice",
            "web_search_options",
        ),
    )
)

#: Members that steer an upstream: none may be sent unless the plan allows it.
STEERING = frozenset(
    (
        # Another model, or another copy of it.
        *("adapter_id", "adapter_source", "adapters", "deployment", "deployment_id", "deployment_name", "draft_model"),
        *(
            "engine",
            "fallbacks",
            "context_window_fallbacks",
            "context_window_fallback_dict",
            "content_policy_fallbacks",
        ),
        *("fallback_depth", "fastest_response", "lora", "lora_adapter", "lora_adapters", "lora_id", "lora_name"),
        *("lora_path", "lora_request", "max_fallbacks", "model_alias_map", "model_base_name", "model_config"),
        *("model_extra_args", "model_file", "model_file_id_mapping", "model_group", "model_id", "model_info"),
        *(
            "model_list",
            "model_name",
            "model_uid",
            "models",
            "order",
            "plugins",
            "preset",
            "provider",
            "provider_options",
        ),
        *("providerOptions", "providers", "route", "router", "routing_strategy", "silent_model", "specific_deployment"),
        *("tag_regex", "tags", "target_model_names", "transforms", "weight", "base_model", "backend", "hf_model_name"),
        # Another address, another key, other code.
        *("aembedding", "acompletion", "api_base", "api_key", "api_token", "api_type", "api_version", "async_call"),
        *("azure", "azure_ad_token", "azure_ad_token_provider", "azure_endpoint", "azure_password", "azure_scope"),
        *("azure_username", "base_url", "bootstrap_host", "bootstrap_port", "bootstrap_room", "client", "client_id"),
        *("client_secret", "complete_response", "custom_llm_provider", "custom_logit_processor", "custom_params"),
        *("custom_prompt_dict", "data_residency", "data_sources", "dataSources", "default_headers", "default_query"),
        *("disaggregated_params", "extra_body", "extra_headers", "extra_query", "headers", "allowed_model_region"),
        *("http_client", "initial_prompt_value", "kv_transfer_params", "litellm_params", "logger_fn", "organization"),
        *("logits_processors", "mcp_config", "nvext", "project", "proxy_server_request", "provider_specific_header"),
        *("region_name", "secret_fields", "self", "session_params", "shared_session", "ssl_verify", "tenant_id"),
        *("use_client", "use_in_pass_through", "use_litellm_proxy", "vllm_xargs", "vertex_credentials"),
        *("vertex_location", "vertex_project", "watsonx_credentials", "provider_affinity_header"),
        # Another prompt than the one that was judged.
        *("assistant_continue_message", "bos_token", "chat_template", "ensure_alternating_roles", "eos_token"),
        *("final_prompt_value", "prompt_environment", "prompt_id", "prompt_label", "prompt_variables"),
        *("prompt_version", "roles", "supports_system_message", "user_continue_message", "cached_content"),
        # Work that was not requested, or an answer that no model made.
        *("allowed_openai_params", "cache", "cache_key", "caching", "caching_groups", "client_side_timeout"),
        *("configurable_clientside_auth_params", "cooldown_time", "disable_add_transform_inline_image_block"),
        *("force_timeout", "additional_drop_params", "drop_params", "guardrails", "guardrail_config", "max_retries"),
        *("merge_reasoning_content_in_choices", "mock_response", "mock_timeout", "mock_tool_calls", "no-log"),
        *("num_retries", "preset_cache_key", "request_timeout", "retry_policy", "retry_strategy", "stream_chunk_size"),
        *("stream_timeout", "text_completion", "timeout", "timeout_by_service_tier", "verbose", "stream_response"),
        *("search_tool_name", "turn_off_message_logging", "use_chat_completions_api", "policies"),
        # What the server keeps for everybody: its queue, its slots, its memory.
        *("budget_duration", "data_parallel_rank", "id_slot", "itpm", "keep_alive", "max_budget", "rid", "otpm"),
        *("max_parallel_requests", "priority", "request_id", "rpm", "slot_id", "tpm", "ttl", "cost_per_query"),
        # LiteLLM: a router of the caller's own, its checks switched off, its loggers and other people's accounts.
        *("user_config", "router_settings", "router_settings_override", "routing_groups", "routing_strategy_args"),
        *("disable_global_guardrail", "disable_global_guardrails", "opted_out_global_guardrails", "disable_fallbacks"),
        *("callbacks", "success_callback", "failure_callback", "service_callback", "callback_settings"),
        *("standard_callback_dynamic_params", "deployment_url", "nvcf_function_id", "workspace_id", "use_xai_oauth"),
        *("agentcore_runtime_session_id", "bedrock_tags", "tiered_pricing", "cost_per_second"),
        *("stream_timeout_by_service_tier", "atext_completion", "aimg_generation", "enable_tag_filtering"),
    )
)
#: What such names begin with, or end with: LiteLLM's own members, its loggers' credentials, its prices.
_STEERING_FORM = re.compile(
    r"_.*|(?:litellm|langfuse|langsmith|arize|posthog|gcs|s3|aws|dd|humanloop|newrelic|signoz|wandb|weave|vertex|oci)_.*"
    r"|(?:anthropic|openai)_(?:federation|identity|issuer|keycloak|service|organization|disable).*"
    r"|(?:mock|user_api_key|braintrust|lunary|gigachat|anthropic.workspace)_.*"
    r"|(?:auto|adaptive|complexity|quality)_router_.*|.*_(?:base_url|api_base|api_key|api_url|endpoint_url|webhook_url)"
    r"|(?:input|output|cache_creation|cache_read|search_context|citation|ocr|annotation)_.*(?:cost|cost_per)_?.*"
)

#: Names that servers give the bound on a completion, besides those of OpenAI's own types.
BOUNDS = frozenset(
    (
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "max_tokens_to_sample"),
        *("max_length", "max_gen_len", "max_gen_toks", "max_generated_tokens", "n_predict", "num_predict"),
        *("tokens_to_generate",),
    )
)
#: Names of how many answers are made.
CHOICES = frozenset(
    ("n", "best_of", "n_cmpl", "num_return_sequences", "num_generations", "candidate_count", "num_images", "n_iter")
)
#: Objects in which servers take such members: Ollama, Gemini, TGI, SGLang.
NESTED = frozenset(("options", "generation_config", "generationConfig", "parameters", "sampling_params"))
#: In them they are called so too.
_NESTED_BOUNDS = BOUNDS | {"maxOutputTokens", "maxTokens", "maxNewTokens"}
_NESTED_CHOICES = CHOICES | {"candidateCount", "numReturnSequences"}


class JudgedMembers(msgspec.Struct, frozen=True):
    """What the members say beyond their wire type."""

    #: Members that steer the upstream.
    steering: tuple[str, ...] = ()
    #: Further bounds on one completion, by name (``options.num_predict``: inside of an object), as they are given.
    bounds: tuple[tuple[str, float], ...] = ()
    choices: int = 1
    fault: InvalidRequest | None = None


def judge(members: Members, wire: frozenset[str], *, generates: bool) -> JudgedMembers:
    """Judge the members that are neither ``COMMON`` nor of the endpoint's ``wire`` type."""
    steering: list[str] = []
    bounds: list[tuple[str, float]] = []
    choices = 1
    for name in members.keys() - wire - COMMON:
        raw = members[name]
        # Of an endpoint that has no model (LiteLLM routes batches and files by it).
        kind = "steering" if name == "model" else _kind(name)
        if kind == "alike":
            return JudgedMembers(fault=alike(name))
        if bytes(raw) == b"null":
            continue
        try:
            if kind == "steering":
                steering.append(name)
            elif kind == "elsewhere":
                if _goes_on_elsewhere(name, bytes(raw)):
                    steering.append(name)
            elif kind == "metadata":
                _check_metadata(raw)
            elif not generates and kind != "choices":
                continue
            elif kind == "bound":
                bounds.append((name, _tokens(raw)))
            elif kind == "choices":
                choices = max(choices, int(_choices(raw)))
            elif kind == "nested" and bytes(raw)[:1] == b"{":
                inner_bounds, inner_choices = _inside(name, raw)
                bounds += inner_bounds
                choices = max(choices, inner_choices)
        except msgspec.ValidationError as error:
            return JudgedMembers(fault=_wrong(name, error))
    return JudgedMembers(tuple(sorted(steering)), tuple(sorted(bounds)), choices)


_Kind = Literal["", "steering", "elsewhere", "bound", "choices", "nested", "metadata", "alike"]

#: Members of one API that servers behind this gateway read in others too, or that name what it does not remember:
#: LiteLLM turns a chat request into a response, with these members (its bridge to ``/responses``), xAI answers later
#: what is ``deferred``, and Anthropic keeps a ``thread`` under the ids of its messages. An endpoint whose wire type has
#: such a member reads it itself. Not among them: Anthropic's ``diagnostics``, whose ``previous_message_id`` has digests
#: compared and nothing shown, and tokens that only the same organisation, body and minutes make valid.
_ELSEWHERE = frozenset(("previous_response_id", "conversation", "prompt", "background", "deferred", "thread"))


def _goes_on_elsewhere(name: str, raw: bytes) -> bool:
    """Returns whether such a member names what an upstream keeps, or wants an answer that comes later."""
    if name in ("background", "deferred"):
        return raw == b"true"
    if name == "prompt":
        return raw[:1] == b"{"
    return name != "thread" or b"previous_message_id" in raw or b"\\" in raw


@lru_cache(maxsize=4096)
def _kind(name: str) -> _Kind:
    if name in BOUNDS:
        return "bound"
    if name in CHOICES:
        return "choices"
    if name in NESTED:
        return "nested"
    if name == "metadata":
        return "metadata"
    if name in STEERING or _STEERING_FORM.fullmatch(name) is not None:
        return "steering"
    if name in _ELSEWHERE:
        return "elsewhere"
    return "alike" if plain(name) in _KNOWN and name not in _KNOWN_NAMES else ""


#: What the gateway itself reads of requests, besides the names above.
_READ = frozenset(
    (
        *("background", "conversation", "documents", "input", "messages", "metadata", "model", "previous_response_id"),
        *("prompt", "query", "stream", "stream_options", "tools", "functions", "completion_window", "endpoint"),
        *("input_file_id", "file_id", "container", "instructions", "system", "response_format", "modalities", "text"),
        *("logprobs", "top_logprobs", "stream_format", "tool_choice", "requests"),
    )
)
_KNOWN_NAMES = COMMON | STEERING | BOUNDS | CHOICES | NESTED | _READ
_KNOWN = frozenset(plain(name) for name in STEERING | BOUNDS | CHOICES | NESTED | _READ)


def steers(name: str) -> bool:
    """Returns whether a form's field, or a query's, of this name steers an upstream, looks like one that counts, or is
    an id.

    ``name``: it may have indices and members: ``models[]``, ``video[id]``.
    """
    bare, *inner = _SEGMENT.findall(name) or [name]
    if _kind(bare) in ("steering", "alike") or bare.endswith(_IDS):
        return True
    return bare != "metadata" and any(each == "id" or each.endswith(_IDS) for each in inner)


_SEGMENT = re.compile(r"[^\[\]]+")
_IDS = ("file_id", "file_ids", "vector_store_id", "vector_store_ids", "container", "container_id")


def _wrong(name: str, error: msgspec.ValidationError) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{name}': {error}.", param=name, code="invalid_value")


# values


_tokens: Any = msgspec.json.Decoder(Tokens).decode
_choices: Any = msgspec.json.Decoder(MaybeChoices).decode
_metadata = msgspec.json.Decoder(Metadata).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _inside(name: str, raw: msgspec.Raw) -> tuple[list[tuple[str, float]], int]:
    inner = _object(raw)
    if misnamed(bytes(raw), inner) is not None:
        raise msgspec.ValidationError("a member comes twice, or its name is in escapes")
    bounds = [
        (f"{name}.{each}", _tokens(value))
        for each, value in inner.items()
        if each in _NESTED_BOUNDS and bytes(value) != b"null"
    ]
    counts = [value for each, value in inner.items() if each in _NESTED_CHOICES and bytes(value) != b"null"]
    choices = [int(_choices(value)) for value in counts]
    return bounds, max(choices, default=1)


#: What LiteLLM itself reads of a request's metadata, besides the names of ``_STEERING_FORM``.
_METADATA_STEERING = frozenset(
    (
        *("api_base", "api_key", "base_url", "caching_groups", "deployment", "disable_global_guardrail"),
        *("disable_global_guardrails", "fallbacks", "guardrail_config", "guardrails", "headers", "model_group"),
        *("model_info", "opted_out_global_guardrails", "policies", "previous_models", "requester_metadata"),
        *("specific_deployment", "spend_logs_metadata", "tags", "user_config"),
    )
)


def _check_metadata(raw: msgspec.Raw) -> None:
    """Raise ``ValidationError`` unless it is flat, as OpenAI defines it. LiteLLM is steered by structures in it.

    Clients label their requests with it, so a name that steers at the top level (``project``, ``request_id``,
    ``order``) is an ordinary one here.
    """
    for name in _metadata(raw):
        if name in _METADATA_STEERING or _STEERING_FORM.fullmatch(name) is not None:
            raise msgspec.ValidationError(f"{name[:80]!r} steers the server behind this gateway")


def largest(bounds: Iterable[tuple[str, float]]) -> int | None:
    """Returns the largest of several bounds in tokens; None where there is none, or one of them means "no bound"."""
    values = [int(value) for _, value in bounds]
    return max(values) if values and min(values) > 0 else None
