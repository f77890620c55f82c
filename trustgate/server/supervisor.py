"""``trustgate serve --workers N``: starts N processes on one port, replaces those that die, and passes signals on.

The supervisor binds the sockets and serves nothing itself. Workers inherit them by fork, so that while one worker is
replaced connections wait for the others in one queue, and none is refused. A pipe that the supervisor alone can write
to ends when it does: a worker whose supervisor was killed stops. Through a pipe of its own each worker gives signs of
life; one that gives none for ``hung_after_s`` (its event loop is blocked, or the process was stopped) is killed and
replaced. In its start, which may keep the event loop busy for long, a thread gives them.

    SIGTERM, SIGINT   all workers end their requests and stop; SIGINT again kills them, as does ``stop_within_s``
    SIGHUP            settings are read anew; where one of them wants a restart, the workers are replaced one by one
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

from trustgate.server.overseer import BEAT_S, Overseer
from trustgate.signals import hold_hangup, take_held_hangup
from trustgate.stderr import write_stderr

_logger = logging.getLogger("trustgate.server")

#: A worker that lived for less than this is replaced after a pause, longer each time.
_SHORT_LIFE_S = 10.0
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.5, 30.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_INTERRUPTED = 130
_READY = b"R"
#: Ends a worker so that another one takes its place: its machine goes on serving.
REPLACED = signal.SIGUSR1
#: How often the supervisor looks after its workers, and after how long it was stopped itself; seconds.
_LOOK_S, _ASLEEP_S = 1.0, 5.0


class Place(Overseer):
    """The place of a worker: its number, and the pipes that join it to its supervisor."""

    every_s = BEAT_S

    def __init__(self, number: int, report: int, supervisor_gone: int) -> None:
        """
        Args:
            number: from 1 on.
            report: the pipe that the supervisor reads.
            supervisor_gone: a descriptor that becomes readable when the supervisor is gone.
        """
        self.number = number
        self.supervisor_gone = supervisor_gone
        self._report = report
        self._has_started = threading.Event()
        # A supervisor that was stopped must not hold up its workers.
        os.set_blocking(report, False)

    def begin_start(self) -> None:
        """Give signs of life from a thread until ``ready``."""
        threading.Thread(target=self._beat_in_start, name="trustgate-start", daemon=True).start()

    def ready(self, status: str) -> None:
        self._has_started.set()
        self._write(_READY)

    def beat(self) -> None:
        self._write(b".")

    def _beat_in_start(self) -> None:
        while not self._has_started.wait(BEAT_S):
            self.beat()

    def _write(self, report: bytes) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._report, report)


class _Worker:
    """A process that runs, and the reading end of the pipe on which it reports."""

    def __init__(self, number: int, pid: int, report: int) -> None:
        self.number = number
        self.pid = pid
        self.report = report
        self.is_ready = False
        #: It was killed here, and has not ended yet.
        self.is_killed = False
        #: Whether it may still report.
        self.may_report = True
        #: When it has given its last sign of life, and when it is killed if it has not ended by then.
        self.beat_s = time.monotonic()
        self.kill_s = math.inf
        #: It was sent to its end, so that another takes its place.
        self.is_replaced = False
        self.started_s = time.monotonic()


class Supervisor:
    """Keeps ``count`` workers running until a signal stops it."""

    def __init__(
        self,
        count: int,
        work: Callable[[Place], int],
        *,
        on_ready: Callable[[], None],
        on_hangup: Callable[[], bool],
        on_stop: Callable[[], None],
        hung_after_s: float,
        stop_within_s: Callable[[], float],
        overseer: Overseer,
        terminal_gone: Callable[[], bool],
    ) -> None:
        """
        Args:
            count: how many workers.
            work: what a worker does, in a process of its own; returns its exit code.
            on_ready: called once, when all workers are.
            on_hangup: reads the settings anew at SIGHUP; returns whether the workers have to be replaced for them.
            on_stop: called once, before the workers are sent SIGTERM: closes what is listened on.
            hung_after_s: how long a worker may give no sign of life; 0: for ever.
            stop_within_s: returns how long a worker that is to stop may take at most.
            overseer: supervises the supervisor.
            terminal_gone: returns whether the terminal is gone that the program was started in.
        """
        self._count = count
        self._work = work
        self._on_ready = on_ready
        self._on_hangup = on_hangup
        self._on_stop = on_stop
        self._hung_after_s = hung_after_s
        self._stop_within_s = stop_within_s
        self._overseer = overseer
        self._looked_s = self._beaten_s = time.monotonic()
        self._terminal_gone = terminal_gone
        self._workers: dict[int, _Worker] = {}
        #: When to start a worker again, by number, and how long the next pause would be.
        self._due_s: dict[int, float] = {}
        self._pause_s: dict[int, float] = {}
        #: The numbers still to be replaced, the next one last, and the one whose turn it is.
        self._to_replace: list[int] = []
        self._replacing: int | None = None
        self._is_stopping = False
        self._was_ready = False
        #: Whether settings that need a restart were changed before all workers had started.
        self._is_outdated = False
        self._exit_code = 0

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT, or until the first start fails.

        In a worker's process this returns, too: what ``work`` returned.

        Returns:
            The exit code.
        """
        with _wakeups() as (wakeup, pending):
            self._alive, self._hold_alive = os.pipe()
            try:
                self._due_s[1] = 0.0
                if take_held_hangup():
                    pending.append(signal.SIGHUP)
                while self._workers or not self._is_stopping:
                    for number in list(self._due_s):
                        if self._due_s[number] <= time.monotonic() and (place := self._start(number)) is not None:
                            return self._be_worker(place)
                    self._wait(wakeup)
                    while pending:
                        self._on_signal(pending.pop(0))
                    self._reap()
                    self._look_after()
                return self._exit_code
            finally:
                for descriptor in (self._alive, self._hold_alive, *(each.report for each in self._workers.values())):
                    with contextlib.suppress(OSError):
                        os.close(descriptor)

    # starting

    def _start(self, number: int) -> Place | None:
        """Fork. Returns the worker's place in its own process, None in the supervisor's."""
        del self._due_s[number]
        report, told = os.pipe()
        # Until the worker has handlers of its own a signal waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(told)
            self._workers[number] = _Worker(number, pid, report)
            return None
        os.close(report)
        return Place(number, told, self._alive)

    def _be_worker(self, place: Place) -> int:
        os.close(self._hold_alive)
        for other in self._workers.values():
            os.close(other.report)
        self._workers.clear()
        signal.set_wakeup_fd(-1)
        # A group of its own: Ctrl-C at a terminal is the supervisor's to pass on.
        os.setpgid(0, 0)
        for number in _SIGNALS:
            if not _is_ignored(number):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        hold_hangup()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        place.begin_start()
        return self._work(place)

    # waiting

    def _wait(self, wakeup: socket.socket) -> None:
        """Wait for a signal, a worker's report, the time to start one, or the time to look after all."""
        waiting = {worker.report: worker for worker in self._workers.values() if worker.may_report}
        timeout_s = min([_LOOK_S, *(due_s - time.monotonic() for due_s in self._due_s.values())])
        readable, _, _ = select.select([wakeup.fileno(), *waiting], [], [], max(0.0, timeout_s))
        for each in readable:
            if each == wakeup.fileno():
                with contextlib.suppress(BlockingIOError):
                    wakeup.recv(4096)
                continue
            worker = waiting[each]
            reported = os.read(worker.report, 4096)
            worker.may_report = bool(reported)  # else it ends: the signal of that comes, or has come
            worker.beat_s = time.monotonic()
            if _READY in reported:
                self._became_ready(worker)

    def _became_ready(self, worker: _Worker) -> None:
        worker.is_ready = True
        if self._is_stopping:
            return
        if not self._was_ready and worker.number < self._count:
            # One after the other: what is wrong stops the first, and the database is migrated by one.
            self._due_s[worker.number + 1] = 0.0
        elif not self._was_ready:
            self._was_ready = True
            self._on_ready()
            if self._is_outdated:
                self._replace_all()
        else:
            _logger.info("worker %d is ready (process %d)", worker.number, worker.pid)
        if self._replacing == worker.number:
            self._replacing = None
            self._replace_next()

    def _look_after(self) -> None:
        """Kill workers that hang, and give a sign of life."""
        now_s = time.monotonic()
        if now_s - self._looked_s > _ASLEEP_S:
            # This process was stopped, and its workers perhaps with it.
            for worker in self._workers.values():
                worker.beat_s = now_s
        self._looked_s = now_s
        for worker in self._workers.values():
            silent_s = now_s - worker.beat_s
            if worker.is_killed:
                continue
            if 0 < self._hung_after_s < silent_s:
                where = "" if worker.is_ready else " in its start"
                why = f"has given no sign of life for {silent_s:.0f} s{where}"
            elif now_s > worker.kill_s:
                why = "does not stop"
            else:
                continue
            _logger.error("worker %d (process %d) %s; it is killed", worker.number, worker.pid, why)
            _send(worker.pid, signal.SIGKILL)
            worker.is_killed = True
        if self._overseer.every_s and now_s - self._beaten_s >= min(self._overseer.every_s, _LOOK_S):
            self._beaten_s = now_s
            self._overseer.beat()

    # signals

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(number)
        elif number == signal.SIGHUP and self._terminal_gone():
            self._stop(signal.SIGTERM)
        elif number == signal.SIGHUP:
            self._overseer.reloading()
            if self._on_hangup():
                self._replace_all()
            else:
                self._send_all(signal.SIGHUP)
            self._overseer.reloaded()

    def _stop(self, number: int) -> None:
        if self._is_stopping and number == signal.SIGINT:
            write_stderr(b"Stopped at once; running requests are cut.\n")
            self._exit_code = _INTERRUPTED
            self._send_all(signal.SIGKILL)
            return
        if number == signal.SIGINT:
            write_stderr(b"\nStopping when running requests have ended; Ctrl-C again stops at once.\n")
        self._is_stopping = True
        self._due_s.clear()
        self._to_replace.clear()
        self._on_stop()
        self._overseer.stopping(self._stop_within_s())
        for worker in self._workers.values():
            self._end(worker)

    def _end(self, worker: _Worker, number: int = signal.SIGTERM) -> None:
        worker.kill_s = time.monotonic() + self._stop_within_s()
        _send(worker.pid, number)

    def _send_all(self, number: int) -> None:
        for worker in self._workers.values():
            _send(worker.pid, number)

    def _replace_all(self) -> None:
        if self._is_stopping:
            return
        if not self._was_ready:
            # Workers that have started have the old settings, and serve the port until the others have started.
            self._is_outdated = True
            return
        self._to_replace = list(range(self._count, 0, -1))
        if self._replacing is None:
            self._replace_next()

    def _replace_next(self) -> None:
        """End one worker; it is started again when it has ended, and the next one's turn comes when it is ready."""
        if not self._to_replace:
            return
        number = self._replacing = self._to_replace.pop()
        worker = self._workers.get(number)
        if worker is not None:  # else it is about to be started anyhow
            _logger.info("replacing worker %d (process %d)", number, worker.pid)
            worker.is_replaced = True
            self._end(worker, REPLACED)

    def _reap(self) -> None:
        for worker in list(self._workers.values()):
            found, status = os.waitpid(worker.pid, os.WNOHANG)
            if not found:
                continue
            os.close(worker.report)
            del self._workers[worker.number]
            code = os.waitstatus_to_exitcode(status)
            if self._is_stopping:
                self._exit_code = self._exit_code or (code if code >= 0 else 1)
                continue
            if not self._was_ready:
                # It has logged why. The first start is all or nothing.
                self._exit_code = code if code > 0 else 1
                self._stop(signal.SIGTERM)
                continue
            self._start_again(worker, code)

    def _start_again(self, worker: _Worker, code: int) -> None:
        if worker.is_replaced:
            self._due_s[worker.number] = 0.0
            return
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        now_s = time.monotonic()
        pause_s = 0.0
        if now_s - worker.started_s < _SHORT_LIFE_S:
            pause_s = self._pause_s.get(worker.number, 0.0)
            self._pause_s[worker.number] = min(max(2 * pause_s, _FIRST_PAUSE_S), _LAST_PAUSE_S)
        else:
            self._pause_s.pop(worker.number, None)
        when = f" in {pause_s:g} s" if pause_s else ""
        _logger.error("worker %d (process %d) %s; it is replaced%s", worker.number, worker.pid, how, when)
        self._due_s[worker.number] = now_s + pause_s


def _is_ignored(number: int) -> bool:
    """Returns whether a signal stays ignored that was at the start: SIGHUP alone (nohup).

    A shell without job control starts what it does not wait for with SIGINT ignored: a server ends by it all the same.
    """
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def _wakeups() -> Iterator[tuple[socket.socket, list[int]]]:
    """A socket that becomes readable when a signal comes, and the list that signals are put into."""
    pending: list[int] = []
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    before = {}
    for number in _SIGNALS:
        if not _is_ignored(number):
            before[number] = signal.signal(number, lambda number, _: pending.append(number))
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    try:
        yield reading, pending
    finally:
        signal.set_wakeup_fd(-1)
        reading.close()
        writing.close()
        for number, handler in before.items():
            signal.signal(number, handler)
