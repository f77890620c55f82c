"""``trustgate`` as a process of its own, without the second that its imports take.

A mother process (``python -m tests.support.nursery``) imports what commands and servers need, once, and forks a child
for each that is started. A child has its own pid, session, folder, environment and files, is killed like any process,
and runs ``trustgate.cli.main`` as the console script does. What imports cost, and what is imported when, is for tests
that start Python themselves.

Nothing outlives the tests, even where they are killed: the mother process, in a session of its own, then ends its
children and the processes given to ``guard``; and children end when it is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

_ROOT = Path(__file__).resolve().parents[2]
#: Rooms whose modules any command or server may import. Those that need a chain's libraries are left to the children.
_ROOMS = ("access", "admin", "cli", "gateway", "models", "receipts", "store")
_LARGEST_ORDER_BYTES = 100_000
#: prctl(2): the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


class Child:
    """A started command; as ``subprocess.Popen`` as far as it goes."""

    def __init__(self, pid: int, report: socket.socket) -> None:
        self.pid = pid
        self._report = report
        # Of a child whose end is never looked at, too.
        weakref.finalize(self, report.close)
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        """None while it runs; minus the signal's number if a signal ended it."""
        return self._look(0)

    def wait(self, timeout_s: float) -> int:
        """Raises ``subprocess.TimeoutExpired``."""
        exit_code = self._look(timeout_s)
        if exit_code is None:
            raise subprocess.TimeoutExpired("trustgate", timeout_s)
        return exit_code

    def send_signal(self, number: int) -> None:
        # The mother has not reaped it before she says so, hence the pid is its own.
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout_s: float) -> int | None:
        if self._exit_code is None and select.select([self._report], [], [], timeout_s)[0]:
            said = self._report.recv(64)
            assert said, "the mother process has died"
            self._exit_code = int(said)
            self._report.close()
        return self._exit_code


def start(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes],
    stderr: IO[bytes],
    new_session: bool = False,
) -> Child:
    """Start ``trustgate arguments…`` there. ``stdin``: nothing to read, unless given."""
    report, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    order = json.dumps([list(arguments), str(folder), dict(environment), new_session]).encode()
    assert len(order) <= _LARGEST_ORDER_BYTES
    with told, Path(os.devnull).open("rb") as nothing:
        files = [file.fileno() for file in (stdin or nothing, stdout, stderr)]
        socket.send_fds(_mother(), [order], [*files, told.fileno()])
        said = report.recv(64)
    assert said, "the mother process has died"
    return Child(int(said), report)


def guard(pid: int) -> None:
    """Have a process killed when the tests end, if it still runs then."""
    with contextlib.suppress(OSError):  # the mother has died: so will these tests
        _mother().send(json.dumps(pid).encode())


def can_start(extra: Mapping[str, str]) -> bool:
    """Whether a process of this environment can be forked: what Python itself reads, it reads when it starts."""
    return not any(name.startswith(("PYTHON", "COVERAGE")) for name in extra)


@cache
def _mother() -> socket.socket:
    from tests.support.processes import clean_environment

    ours, hers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.support.nursery", str(hers.fileno())]
    process = subprocess.Popen(
        command, cwd=_ROOT, env=clean_environment(), pass_fds=[hers.fileno()], start_new_session=True
    )
    hers.close()

    def end() -> None:
        ours.close()
        process.wait(30)

    atexit.register(end)
    return ours


# the mother's side


class _Order(NamedTuple):
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    new_session: bool


def _serve(orders: socket.socket) -> _Order | None:
    """Fork a child for each order. Comes back with its order in each child, and with None when all is over."""
    reports: dict[int, socket.socket] = {}
    guarded: list[int] = []
    mother = os.getpid()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(wake_write)
    while True:
        ready, _, _ = select.select([orders.fileno(), wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap(reports)
        if orders.fileno() in ready:
            said, files, _, _ = socket.recv_fds(orders, _LARGEST_ORDER_BYTES, 4)
            if not said:
                _end_all(reports, guarded)
                return None
            if not files:
                _guard(int(said), guarded)
                continue
            pid = os.fork()
            if not pid:
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != mother:
                    os._exit(1)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                reporting = [report.detach() for report in reports.values()]
                for number in (orders.detach(), wake_read, wake_write, *guarded, *reporting):
                    os.close(number)
                order = _Order(*json.loads(said))
                _become(order, files)
                return order
            for file in files[:3]:
                os.close(file)
            reports[pid] = socket.socket(fileno=files[3])
            reports[pid].send(str(pid).encode())


def _guard(pid: int, guarded: list[int]) -> None:
    """Keep a process in sight, and none that has ended."""
    ended = select.select(guarded, [], [], 0)[0]
    for descriptor in ended:
        guarded.remove(descriptor)
        os.close(descriptor)
    with contextlib.suppress(ProcessLookupError):
        guarded.append(os.pidfd_open(pid))


def _end_all(reports: Mapping[int, socket.socket], guarded: Sequence[int]) -> None:
    for pid in reports:  # not reaped yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for descriptor in guarded:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def _reap(reports: dict[int, socket.socket]) -> None:
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with reports.pop(pid) as report:
            try:
                report.send(str(os.waitstatus_to_exitcode(status)).encode())
            except OSError:
                continue  # it is not waited for any more


def _become(order: _Order, files: list[int]) -> None:
    """Take on the child's session, files, folder and environment, as a new interpreter would have them."""
    if order.new_session:
        os.setsid()
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)
    time.tzset()
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)  # type: ignore[misc]


def _leave(ending: SystemExit) -> NoReturn:
    """End as an interpreter does, but for the taking apart of its modules, which would copy all of the mother's."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1)


def _import_all() -> None:
    importlib.import_module("trustgate.server")
    for room in _ROOMS:
        package = importlib.import_module(f"trustgate.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def main() -> NoReturn:
    from trustgate import cli

    _import_all()
    gc.freeze()
    order = _serve(socket.socket(fileno=int(sys.argv[1])))
    if order is None:
        _leave(SystemExit(0))
    try:
        sys.argv = ["trustgate", *order.arguments]
        cli.main()
    except SystemExit as ending:
        _leave(ending)


if __name__ == "__main__":
    main()
