"""What every client's program is given, and how it reports. Standard library only: it runs in several environments.

A program reads one JSON object from stdin, tries each of its features and prints one JSON object: the feature's name →
null, or why it does not work.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What the model says, and the prompt of the tests.
REPLY = "Hello from LiteLLM!"
TEXT = "Grüße aus Köln, 你好 👋"
HELLO = [{"role": "user", "content": "Hello, who are you?"}]

#: Two functions, so that one answer calls both.
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name} in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "population")
]
CALLS = [(name, {"city": "Köln", "days": 3}) for name in ("weather", "population")]

PNG = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PARTS = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PNG}}],
    }
]


@dataclass(frozen=True)
class Given:
    #: The gateway's address, without a path.
    origin: str
    #: A key that works, one that does not exist, and one whose quota is used up.
    key: str
    wrong_key: str
    spent_key: str

    @property
    def url(self) -> str:
        """What clients call the base URL."""
        return f"{self.origin}/v1"


given = Given(**json.load(sys.stdin)) if not sys.stdin.isatty() else Given("", "", "", "")
folder = Path(tempfile.mkdtemp(prefix="trustgate-client-"))

Feature = Callable[[], Any]


def report(features: Mapping[str, Feature]) -> None:
    """Try each of them, in order, and print what came of it."""
    with asyncio.Runner() as runner:
        found = {name: _tried(feature, runner) for name, feature in features.items()}
    print(json.dumps(found))


def _tried(feature: Feature, runner: asyncio.Runner) -> str | None:
    try:
        result = feature()
        if inspect.iscoroutine(result):
            runner.run(asyncio.wait_for(result, 60))
    except Exception as error:  # noqa: BLE001 - whatever a client raises is what there is to report
        lines = traceback.format_exception(error)
        return f"{type(error).__name__}: {error}"[:2000] + "\n" + "".join(lines)[-3000:]
    return None


@contextlib.contextmanager
def raises(*kinds: type[BaseException], status: int | None = None) -> Iterator[None]:
    """The block raises one of these, with that HTTP status if one is named."""
    try:
        yield
    except kinds as error:
        seen = getattr(error, "status_code", None)
        assert status in (None, seen), f"the error has status {seen}, not {status}"
        return
    raise AssertionError(f"nothing was raised, or not {kinds}")


def equal(found: object, expected: object) -> None:
    assert found == expected, f"{found!r} is not {expected!r}"
