"""instructor: structured answers through tools, JSON schemas, and streams that fill in as they come."""

from __future__ import annotations

from typing import Any

import instructor
import openai
from pydantic import BaseModel

from tests.clients.programs.report import HELLO, equal, given, raises, report


class Place(BaseModel):
    city: str
    days: int


PLACE = Place(city="Köln", days=3)


def client(mode: instructor.Mode = instructor.Mode.TOOLS, key: str = given.key) -> Any:
    return instructor.from_openai(openai.OpenAI(base_url=given.url, api_key=key), mode=mode)


def tools() -> None:
    equal(client().chat.completions.create(model="scripted", messages=HELLO, response_model=Place), PLACE)


def tools_stream() -> None:
    several = client().chat.completions.create_partial(model="scripted", messages=HELLO, response_model=Place)
    last = list(several)[-1]
    equal((last.city, last.days), ("Köln", 3))


def schema() -> None:
    strict = client(instructor.Mode.JSON_SCHEMA)
    equal(strict.chat.completions.create(model="scripted", messages=HELLO, response_model=Place), PLACE)


def wrong_key() -> None:
    with raises(instructor.core.InstructorError, openai.AuthenticationError, status=401):
        unwrapped(client(key=given.wrong_key), "scripted")


def quota() -> None:
    with raises(openai.RateLimitError, status=429):
        unwrapped(client(key=given.spent_key), "scripted")


def unwrapped(refused: Any, model: str) -> None:
    """Ask; what its retries have wrapped the error into is taken off."""
    try:
        refused.chat.completions.create(model=model, messages=HELLO, response_model=Place, max_retries=1)
    except instructor.core.InstructorError as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, openai.APIStatusError):
            cause = cause.__cause__
        raise cause from None


if __name__ == "__main__":
    report({"tools": tools, "tools_stream": tools_stream, "schema": schema, "wrong_key": wrong_key, "quota": quota})
