"""Programs that are given notices: one run a notice, its JSON on stdin, no shell.

Owns the bounds: a run has a time limit after which its whole process group is killed, its output is thrown away, and
its environment is a handful of harmless variables (``settings.environment.plain_environment``): the server's own holds
the keys of upstreams.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from asyncio.subprocess import DEVNULL

from trustgate.notify.webhook import AttemptOutcome
from trustgate.settings.environment import plain_environment
from trustgate.types import Subscriber


async def run_program(subscriber: Subscriber, message_id: str, body: bytes, timeout_s: float) -> AttemptOutcome:
    """Run the program once; exit code 0 is success. Never raises but for cancellation.

    Args:
        message_id: given as the variable ``TRUSTGATE_NOTICE_ID``, the same in every attempt.
        timeout_s: how long it may run.
    """
    name = subscriber.command[0].rpartition("/")[2]
    environment = {**plain_environment(), "TRUSTGATE_NOTICE_ID": message_id}
    try:
        # A file, not a pipe: a program that ends without reading breaks nothing.
        with tempfile.TemporaryFile() as stdin:
            stdin.write(body)
            stdin.seek(0)
            process = await asyncio.create_subprocess_exec(
                *subscriber.command,
                stdin=stdin,
                stdout=DEVNULL,
                stderr=DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        return AttemptOutcome(False, f"{name} cannot be run: {error.strerror or error}")
    try:
        async with asyncio.timeout(timeout_s):
            await process.wait()
    except TimeoutError:
        return AttemptOutcome(False, f"{name} was still running after {timeout_s:g} s and was killed")
    finally:
        await _end(process)
    code = process.returncode
    killed = code is not None and code < 0
    return AttemptOutcome(code == 0, f"{name} was killed by signal {-(code or 0)}" if killed else f"exit code {code}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a program that still runs with its whole process group, and collect it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
