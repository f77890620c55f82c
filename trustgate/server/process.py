"""The server as a process: its event loop, its signals, and the jobs that run beside its listeners."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

from trustgate.settings.environment import heaps_limited
from trustgate.signals import take_held_hangup
from trustgate.stderr import write_stderr
from trustgate.tasks import end_tasks

#: The exit code of a process that SIGINT ended, as shells have it.
_INTERRUPTED = 130
#: mallopt(3).
_M_ARENA_MAX = -8
#: A mapping's first line in /proc/PID/smaps (proc_pid_smaps(5)): addresses, permissions, offset, device, inode, path.
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) [0-9a-f]+ \S+ ([0-9]+) +(\S.*)")
#: Permissions of what a process maps for itself and cannot write to: code, and constants.
_CODE, _CONSTANTS = "r-xp", "r--p"
#: Pages of code of which the system maps no more than those when one is used, in place of 64 KB.
_PIECE_PAGES = 4


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


def share_one_heap() -> None:
    """Have all threads allocate from one heap (glibc alone), unless MALLOC_ARENA_MAX decides that. Call it at first.

    Else each thread, to eight for each processor, has a heap of its own, and each keeps the most that its thread ever
    used: a database thread, its helpers and those that write files took 4 MB and more besides. What one thread frees
    the next one uses.
    """
    if not heaps_limited():
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def let_go_of_code(*names: str) -> int:
    """Release libraries' code and constants from this process's memory; pages that are used again are mapped again.

    A start runs much code that does not run again, and reads tables once: DuckDB's relocations and symbols alone are
    5 MB. The pages stay in the system's cache: mapping one again takes a microsecond.

    The system maps 64 KB around each page that is used, but not beyond a mapping's end. So code is cut into mappings of
    ``_PIECE_PAGES``, every other of which has an advice that changes nothing for code: to leave it out of core dumps,
    where it is not anyway. Of DuckDB's 52 MB of code 26 MB were resident, now 14.

    On Linux alone. Only pages are released that are mapped from a file, not writable and none of this process's own: no
    byte is lost. Do not name a library that another thread is loading: the loader may write to it between the look at
    its pages and their release.

    Args:
        names: what the libraries' file names begin with.

    Returns:
        How many bytes the process has mapped of that; 0 where nothing was done.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if sys.platform != "linux" or advice is None:
        return 0
    done = 0
    with contextlib.suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        lines = Path("/proc/self/smaps").read_text(errors="surrogateescape").splitlines()
        for start, end, permissions in _unwritten(lines, names):
            if madvise(start, end - start, advice) == 0:
                done += end - start
                if permissions == _CODE:
                    _cut(madvise, start, end)
    return done


def _cut(madvise: Callable[[int, int, int], int], start: int, end: int) -> None:
    """Make mappings of ``_PIECE_PAGES`` of one; stops where the system allows no more of them."""
    piece = _PIECE_PAGES * mmap.PAGESIZE
    for begin in range(start - start % piece + piece, end, 2 * piece):
        if madvise(begin, min(piece, end - begin), mmap.MADV_DONTDUMP) != 0:
            return


def _unwritten(lines: Iterable[str], names: tuple[str, ...]) -> Iterator[tuple[int, int, str]]:
    """Yields the address ranges at which such libraries are mapped, with permissions: those without a page of this
    process's own.

    A page that was written to (the loader's relocations, a debugger's breakpoints) is anonymous, or in the swap.
    """
    found: tuple[int, int, str] | None = None
    is_whole = False
    for line in lines:
        mapping = _MAPPING.fullmatch(line)
        if mapping is not None:
            start, end, permissions, inode, path = mapping.groups()
            is_named = inode != "0" and PurePath(path).name.startswith(names)
            is_unwritable = permissions in (_CODE, _CONSTANTS)
            found = (int(start, 16), int(end, 16), permissions) if is_named and is_unwritable else None
            is_whole = False
        elif found is not None and line.startswith("Anonymous:"):
            is_whole = line.split()[1] == "0"
        elif found is not None and line.startswith("Swap:"):
            if is_whole and line.split()[1] == "0":
                yield found
            found = None


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
