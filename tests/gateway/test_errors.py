"""The table of refusals, held against a running gateway through the exceptions of OpenAI's own SDK.

Each row: what is done, then the status, type, code and param that a client gets, and whether it is told to try again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import ClientFactory, GatewayFactory
from tests.gateway.conftest import HELLO
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream

Do = Callable[[openai.OpenAI, Upstream], Any]


def chat(**members: Any) -> Do:
    def do(client: openai.OpenAI, upstream: Upstream) -> Any:
        return client.post(
            "/chat/completions", body={"model": "gpt-4o", "messages": HELLO, **members}, cast_to=httpx.Response
        )

    return do


def answered(*replies: Reply) -> Do:
    def do(client: openai.OpenAI, upstream: Upstream) -> Any:
        upstream.script(*replies)
        return chat()(client, upstream)

    return do


def with_key(key: str) -> Do:
    return lambda client, upstream: chat()(client.with_options(api_key=key), upstream)


def send(method: str, path: str, **options: Any) -> Do:
    def do(client: openai.OpenAI, upstream: Upstream) -> Any:
        return client.request(
            cast_to=httpx.Response,
            options=openai._models.FinalRequestOptions.construct(method=method, url=path, **options),
        )

    return do


HTML = Reply.html(404)
LEAK = "see http://10.0.0.7:4000/x with sk-upstream-secret-123456"
REFUSED = Reply.error(400, LEAK, type="invalid_request_error", code="bad_thing", param="top_k")

TABLE: dict[str, tuple[Do, int, type[openai.APIStatusError], str, str | None, str | None, str | None]] = {
    # the request
    "no such member type": (
        chat(n="x"),
        400,
        openai.BadRequestError,
        "invalid_request_error",
        "invalid_value",
        "n",
        None,
    ),
    "missing member": (
        *(chat(messages=None), 400, openai.BadRequestError, "invalid_request_error"),
        *("invalid_value", "messages", None),
    ),
    "body too large": (
        *(chat(x="y" * 200_000), 413, openai.APIStatusError, "invalid_request_error", "request_too_large", None, None),
    ),
    "unknown path": (
        send("post", "/nothing"),
        404,
        openai.NotFoundError,
        "invalid_request_error",
        "unknown_url",
        None,
        None,
    ),
    "unknown method": (
        *(send("delete", "/chat/completions"), 405, openai.APIStatusError, "invalid_request_error"),
        *("method_not_allowed", None, None),
    ),
    "unknown response": (
        *(send("get", "/responses/resp_0"), 404, openai.NotFoundError, "invalid_request_error"),
        *("response_not_found", None, None),
    ),
    # the caller
    "wrong key": (
        *(
            with_key("tgk_nobody"),
            401,
            openai.AuthenticationError,
            "invalid_request_error",
            "invalid_api_key",
            None,
            None,
        ),
    ),
    "model not in the plan": (
        *(chat(model="o1-pro"), 403, openai.PermissionDeniedError, "invalid_request_error"),
        *("model_not_allowed", "model", None),
    ),
    "feature not in the plan": (
        *(chat(tools=[{"type": "function"}]), 403, openai.PermissionDeniedError, "invalid_request_error"),
        *("feature_not_allowed", "tools", None),
    ),
    "more tokens than the plan has": (
        *(chat(max_tokens=500_000), 429, openai.RateLimitError, "tokens", "rate_limit_exceeded", None, "false"),
    ),
    # the upstream
    "refused by the upstream": (
        *(answered(REFUSED), 400, openai.BadRequestError, "invalid_request_error", "bad_thing", "top_k", None),
    ),
    "HTML from the upstream": (answered(HTML), 404, openai.NotFoundError, "invalid_request_error", None, None, None),
    "HTML with 200": (
        answered(Reply.html(200)),
        502,
        openai.InternalServerError,
        "upstream_error",
        "upstream_error",
        None,
        "false",
    ),
    "limited by the upstream": (
        *(
            answered(Reply.rate_limited("30")),
            429,
            openai.RateLimitError,
            "requests",
            "rate_limit_exceeded",
            None,
            None,
        ),
    ),
    "unprocessable": (
        *(answered(Reply.error(422, LEAK)), 422, openai.UnprocessableEntityError, "server_error", None, None, None),
    ),
    "the gateway's key refused": (
        *(answered(Reply.error(401, LEAK)), 502, openai.InternalServerError, "upstream_error"),
        *("upstream_authentication_error", None, "false"),
    ),
    "upstream fails": (
        *(
            answered(Reply.error(500, LEAK)),
            502,
            openai.InternalServerError,
            "upstream_error",
            "upstream_error",
            None,
            None,
        ),
    ),
    "upstream breaks off": (
        *(answered(Reply.reset()), 502, openai.InternalServerError, "upstream_error", "upstream_error", None, None),
    ),
    "upstream is silent": (
        *(answered(Reply.hang()), 504, openai.InternalServerError, "upstream_error", "upstream_timeout", None, "false"),
    ),
}


@pytest.fixture(scope="module")
def one_try_gateway(make_module_gateway: GatewayFactory, shared_upstream: Upstream) -> Gateway:
    gateway = make_module_gateway(
        upstream=shared_upstream.api_url,
        environment={
            "TRUSTGATE_UPSTREAM_RETRIES": "0",
            "TRUSTGATE_UPSTREAM_READ_TIMEOUT_S": "0.5",
            "TRUSTGATE_SERVE_MAX_BODY_BYTES": "100000",
            "UPSTREAM_KEY": "sk-upstream-secret-123456",
            "TRUSTGATE_UPSTREAM_KEY_ENV": "UPSTREAM_KEY",
        },
    ).start()
    gateway.cli(
        *("plan", "add", "narrow", "--models", "gpt-*", "--features", "streaming", "--tokens-per-day", "100000"),
    )
    return gateway


@pytest.fixture(scope="module")
def secret(one_try_gateway: Gateway) -> str:
    return one_try_gateway.add_tenant("narrow", plan="narrow")


@pytest.mark.parametrize("what", TABLE)
def test_what_a_client_is_told(
    one_try_gateway: Gateway, secret: str, scripted: Upstream, make_client: ClientFactory, what: str
) -> None:
    do, status, kind, error_type, code, param, should_retry = TABLE[what]
    client = make_client(one_try_gateway.api_url, secret, max_retries=0)
    with pytest.raises(kind) as caught:
        do(client, scripted)
    error = caught.value
    assert (error.status_code, error.type, error.code, error.param) == (status, error_type, code, param)
    assert error.response.headers["content-type"] == "application/json"
    assert error.response.headers.get("x-should-retry") == should_retry
    assert error.response.headers["x-request-id"]
    assert set(error.response.json()) == {"error"}
    for leak in (str(scripted.port), "10.0.0.7", "secret", "nginx", "<html", "Traceback"):
        assert leak not in error.response.text
    if status == 429:
        assert int(error.response.headers["retry-after"]) > 0
