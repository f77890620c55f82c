"""The server as a process: its event loop, its signals, and the jobs that run beside its listeners."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from trustgate.signals import take_held_hangup
from trustgate.stderr import write_stderr
from trustgate.tasks import end_tasks

#: The exit code of a process that SIGINT ended, as shells have it.
_INTERRUPTED = 130


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Returns what makes event loops: uvloop's, much quicker; where it is not installed, asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def stop_on_signal() -> asyncio.Event:
    """Returns an event that SIGTERM and SIGINT set.

    A SIGINT when it is set ends the process at once: Ctrl-C, pressed again.
    Nothing that was acknowledged is lost by that: it is in the journal, as after kill -9.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        if stop.is_set():
            write_stderr(b"Stopped at once; running requests are cut.\n")
            os._exit(_INTERRUPTED)
        write_stderr(b"\nStopping when running requests have ended; Ctrl-C again stops at once.\n")
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    return stop


@contextlib.contextmanager
def on_hangup(stop: asyncio.Event, reload: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Reload on SIGHUP for as long as the block runs.

    SIGHUP also comes when the terminal that the server was started in is closed: then it sets ``stop``. Where it was
    ignored at the start (nohup) it stays ignored.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        yield
        return
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    had_terminal = has_terminal()

    def begin() -> None:
        if had_terminal and not has_terminal():
            stop.set()
            return
        task = loop.create_task(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, begin)
    if take_held_hangup():
        begin()
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def has_terminal() -> bool:
    """Returns whether the process has a terminal, which may have been closed since it started."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextlib.asynccontextmanager
async def background(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the jobs beside the block, and cancel them at its end.

    Raises:
        ExceptionGroup: a job failed; the block is cancelled, for a server must not go on without one of its jobs.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job) for job in jobs]
        try:
            yield
        finally:
            await end_tasks(tasks)
