"""The eleven steps in words: where a refused request stopped, and that nothing is claimed that is not known."""

from __future__ import annotations

import pytest

from trustgate.admin.walk import STEPS, Refusal, Seen, walk


def steps_of(status: int, code: str, *, by_upstream: bool = False) -> dict[str, str]:
    refusal = Refusal(status, code, "No.", by_upstream)
    return {step.name: step.state for step in walk(Seen("chat.completions", refusal=refusal))}


@pytest.mark.parametrize(
    ("status", "code", "by_upstream", "stop"),
    [
        (413, "request_too_large", False, "request"),
        (400, "unsupported_content_type", False, "request"),
        (401, "invalid_api_key", False, "bearer auth"),
        (402, "payment_required", False, "payment"),
        (403, "model_not_allowed", False, "plan"),
        (429, "rate_limit_exceeded", False, "quota"),
        (400, "invalid_value", False, "validation"),
        (404, "model_not_found", False, "passport"),
        (502, "upstream_error", False, "fetch"),
        (404, "model_not_found", True, "fetch"),
        (429, "rate_limit_exceeded", True, "fetch"),
    ],
)
def test_a_refusal_names_its_step(status: int, code: str, by_upstream: bool, stop: str) -> None:
    states = steps_of(status, code, by_upstream=by_upstream)
    place = STEPS.index(stop)
    assert tuple(states) == STEPS
    assert {states[name] for name in STEPS[:place]} <= {"passed"}
    assert states[stop] == "stopped"
    # It was answered all the same; there is no receipt of it.
    assert {states[name] for name in STEPS[place + 1 : -1]} == {"not reached"}
    assert states["response"] == "passed"


def test_of_a_refusal_without_a_receipt_no_more_is_said_than_is_known() -> None:
    details = {
        step.name: step.detail for step in walk(Seen("embeddings", refusal=Refusal(400, "invalid_value", "No.")))
    }
    assert details["request"] == "embeddings"
    assert details["bearer auth"] == "the key is valid"
    assert details["payment"] == "nothing is due, or it was paid"
    assert details["validation"] == "400 invalid_value: No."
    assert details["response"] == "400"
