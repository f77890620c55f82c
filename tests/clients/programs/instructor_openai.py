"""instructor: structured answers through tools, JSON schemas, and streams that fill in as they come."""

from __future__ import annotations

from typing import Any

import instructor
import openai
from instructor.core import InstructorRetryException
from pydantic import BaseModel

from tests.clients.programs.report import HELLO, equal, given, raises, report


class Place(BaseModel):
    city: str
    days: int


PLACE = {"city": "Köln", "days": 3}


def client(mode: instructor.Mode = instructor.Mode.TOOLS, key: str = given.key) -> Any:
    return instructor.from_openai(openai.OpenAI(base_url=given.url, api_key=key), mode=mode)


def tools() -> None:
    answer = client().chat.completions.create(model="scripted", messages=HELLO, response_model=Place)
    equal(answer.model_dump(), PLACE)


def tools_stream() -> None:
    several = client().chat.completions.create_partial(model="scripted", messages=HELLO, response_model=Place)
    equal(list(several)[-1].model_dump(), PLACE)


def schema() -> None:
    strict = client(instructor.Mode.JSON_SCHEMA)
    answer = strict.chat.completions.create(model="scripted", messages=HELLO, response_model=Place)
    equal(answer.model_dump(), PLACE)


def wrong_key() -> None:
    with raises(openai.AuthenticationError, status=401):
        ask(client(key=given.wrong_key))


def quota() -> None:
    with raises(openai.RateLimitError, status=429):
        ask(client(key=given.spent_key))


def ask(refused: Any) -> None:
    """Raises what the SDK below it raised: its own retries wrap that."""
    try:
        refused.chat.completions.create(model="scripted", messages=HELLO, response_model=Place, max_retries=1)
    except InstructorRetryException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, openai.APIStatusError):
            cause = cause.__cause__
        raise cause or error from None


if __name__ == "__main__":
    report({"tools": tools, "tools_stream": tools_stream, "schema": schema, "wrong_key": wrong_key, "quota": quota})
