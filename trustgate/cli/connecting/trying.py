"""A first request with a configuration: by the program itself where it is installed, else by one of the same form.

Owns both. A program runs in a temporary folder that has the configuration; its own configuration is neither read nor
changed. The key is in its environment, never among its arguments.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from trustgate.cli.connecting.clients import ECHO, PROMPT, ClientTarget, Connectable
from trustgate.cli.connecting.merging import document_text
from trustgate.errors import OperatorError
from trustgate.settings.environment import plain_environment

_PROGRAM_TIMEOUT_S = 180.0
_REQUEST_TIMEOUT_S = 60.0
_SHOWN = 400
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}


class FirstAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A first answer. ``by``: the program's path, or the request that was made in its place."""

    by: str
    is_program: bool
    answer: str


def try_client(client: Connectable, target: ClientTarget, key: str) -> FirstAnswer:
    """Send one request, and then, where the program is installed, run it.

    The request is first because programs retry for minutes where they get an error, or exit with 0.

    Args:
        client: the program.
        target: what it is configured for.
        key: the API key.

    Returns:
        The program's answer; where it is not installed, that of the request.

    Raises:
        OperatorError: the request or the program failed.
    """
    answered = _asked(client, target, key)
    program = shutil.which(client.program) if client.program else None
    return answered if program is None else _run(client, target, key, program)


def _run(client: Connectable, target: ClientTarget, key: str, program: str) -> FirstAnswer:
    assert client.path is not None
    assert client.document is not None
    assert client.trial is not None
    with tempfile.TemporaryDirectory(prefix="trustgate-connect-", ignore_cleanup_errors=True) as made:
        # Programs that resolve links would else see another path than the one they were given.
        folder = Path(made).resolve()
        file = folder / _within_home(client.path())
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(document_text(client.format, client.document(target)))
        trial = client.trial(target, folder, file)
        work = folder / "work"
        work.mkdir()
        environment = {
            **plain_environment(),
            **client.variables(target),
            **trial.environment,
            (client.key_variable or target.variable): key,
            "NO_COLOR": "1",
        }
        returncode, output, complaints = _ran([program, *trial.arguments], work, environment)
    said = _tail(output, key)
    # Some programs exit with 0 though their request failed. The built-in model repeats the prompt.
    if returncode != 0 or not said or (target.model == ECHO and "ready" not in said):
        what = _tail(complaints, key) or said or "It printed nothing."
        raise OperatorError(
            f"{program} failed with exit code {returncode}: {what}",
            hint="The same request without the program was answered: is this version of it too old, or too new?",
        )
    return FirstAnswer(by=program, is_program=True, answer=said)


def _ran(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, bytes, bytes]:
    """Run a program, and end the processes that it has started with it: they have the key.

    Its output goes to files: a pipe would stay open until such a process has closed it too.

    Returns:
        The exit code, the output and the error output.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
        try:
            started = subprocess.Popen(  # noqa: S603 - the operator's own program
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=complaints,
                start_new_session=True,
            )
        except OSError as error:
            raise OperatorError(f"{command[0]} cannot be run: {error.strerror}.") from None
        try:
            started.wait(_PROGRAM_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            message = f"{command[0]} did not answer within {_PROGRAM_TIMEOUT_S:.0f} s."
            raise OperatorError(message, hint="The same request without the program was answered.") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        output.seek(0)
        complaints.seek(0)
        return started.returncode, output.read(), complaints.read()


def _within_home(path: Path) -> Path:
    """Returns the path below the user's home, or its last name: where the file stands in a folder that acts as one."""
    try:
        return path.relative_to(Path.home())
    except ValueError:
        return Path(path.name)


def _tail(output: bytes, key: str) -> str:
    return _COLOURS.sub("", output.decode(errors="replace").replace(key, "…")).strip()[-_SHOWN:]


def _asked(client: Connectable, target: ClientTarget, key: str) -> FirstAnswer:
    import httpx

    said: Any = [{"role": "user", "content": PROMPT}]
    bodies: dict[str, dict[str, Any]] = {
        "chat": {"messages": said},
        "responses": {"input": PROMPT, "store": False},
        "messages": {"messages": said, "max_tokens": 200},
    }
    url = target.origin + _PATHS[client.api]
    try:
        answer = httpx.post(
            url,
            json={"model": target.model, **bodies[client.api]},
            headers={"authorization": f"Bearer {key}"},
            timeout=_REQUEST_TIMEOUT_S,
            trust_env=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OperatorError(
            f"{url} could not be reached: {str(error) or type(error).__name__}.",
            hint="Start the gateway: trustgate serve. Or give its address: --url URL",
        ) from None
    if answer.status_code != 200:
        message = _message_of(answer).replace(key, "…")
        raise OperatorError(f"{url} answered {answer.status_code}: {message}", hint=_next(answer, target))
    text = _text_of(answer)
    if text is None:
        raise OperatorError(
            f"{url} answered 200, but not as this API does.",
            hint="Is a gateway at this address? Give it with --url URL",
        )
    return FirstAnswer(by=f"POST {url}", is_program=False, answer=text.replace(key, "…")[-_SHOWN:])


def _message_of(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return str(answer.text[:_SHOWN])


def _next(answer: Any, target: ClientTarget) -> str:
    match answer.status_code:
        case 401:
            return f"Is the key in {target.variable} of this gateway? trustgate key list shows which there are."
        case 403:
            return "See what the key may do, and its plan: trustgate key show KEY, trustgate plan show PLAN"
        case 404:
            return "See which models there are: trustgate passport list"
    return "trustgate doctor"


def _text_of(answer: Any) -> str | None:
    """Returns the text of an answer in any of the APIs; "" where it has none, None for what is no such answer."""
    try:
        match answer.json():
            case {"choices": [{"message": {"content": text}}, *_]}:
                return str(text or "")
            case {"content": [*parts], "role": "assistant"}:
                return "".join(part.get("text", "") for part in parts)
            case {"output": [*items]}:
                found = (part for item in items for part in item.get("content") or ())
                return "".join(part.get("text", "") for part in found)
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    return None
