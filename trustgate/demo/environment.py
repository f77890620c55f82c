"""The gateway and the local Solana of a demo, both in this process, in a temporary home folder.

Owns the settings of a demo (none of the user's own), and that nothing is left of it, wherever it ends: no process,
because there is none but this one, and no folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trustgate.admin.commands import Admin
from trustgate.errors import HomeUnusable, TrustGateError
from trustgate.localnet import Localnet, running_localnet
from trustgate.observe.request_log import log_to_stderr
from trustgate.server import run_loop, serve
from trustgate.settings import (
    AnchorSettings,
    LogSettings,
    PaymentSettings,
    ServeSettings,
    Settings,
    UpstreamSettings,
    spare_this_machine_from_proxies,
)
from trustgate.types import Receipt

_logger = logging.getLogger("trustgate.demo")

#: Quicker than a cluster, so that the demo does not wait; and a blockhash, which lives for 150 slots, still lives for
#: half a minute on a slow machine.
_SLOT_MS = 200
_FINALITY_SLOTS = 2
#: What a request that runs when the demo ends still gets.
_GRACE_S = 1.0

_MIB = 1024 * 1024
#: Several times what a demo writes, for a longer session.
_ROOM_BYTES = 32 * _MIB
_ELSEWHERE = "Name a folder on a disk with room: TMPDIR=/var/tmp trustgate demo"


class RequestEnd(NamedTuple):
    """The gateway has answered or refused a request. ``error`` is None where only a receipt describes it."""

    receipt_id: str
    endpoint: str
    error: TrustGateError | None = None


class DemoEnvironment:
    """Made by ``open_environment``."""

    def __init__(
        self, settings: Settings, chain: Localnet, address: str, admin: Admin, observer: _RequestObserver
    ) -> None:
        self.home = settings.home
        self.chain = chain
        #: ``http://127.0.0.1:PORT``.
        self.address = address
        self.admin = admin
        self._observer = observer

    async def next_request(self) -> RequestEnd | None:
        """Returns what happens next, to any request; None once the gateway has stopped."""
        return await self._observer.ends.get()

    def forget(self) -> None:
        """Discard the requests that have ended up to now."""
        while not self._observer.ends.empty():
            self._observer.ends.get_nowait()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Run ``main`` to its end; False where a signal ended it. It is cancelled then, once, however often they come."""
    log_to_stderr(LogSettings(level="warning"))
    spare_this_machine_from_proxies()
    finished = run_loop(_interruptible(main))
    # Nothing is left to be interrupted but the interpreter's own end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return finished


async def _interruptible(main: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    work = asyncio.create_task(main())
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            work.cancel()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if name is not signal.SIGHUP or signal.getsignal(name) is not signal.SIG_IGN:  # nohup
            loop.add_signal_handler(name, interrupt)
    try:
        await work
    except asyncio.CancelledError:
        if not interrupted:
            raise
    return not interrupted


@contextlib.asynccontextmanager
async def open_environment(port: int) -> AsyncIterator[DemoEnvironment]:
    """Run it all within the block. ``port`` 0: the system chooses. Raises ``OperatorError`` where it cannot start.

    Where the gateway fails later, that is raised at the end of the block, in place of what the block raises.
    """
    with _throwaway_home() as home:
        async with running_localnet(slot_ms=_SLOT_MS, finality_slots=_FINALITY_SLOTS) as chain:
            settings = Settings(
                home=home,
                serve=ServeSettings(port=port, shutdown_grace_s=_GRACE_S),
                upstream=UpstreamSettings(url="builtin:echo"),
                anchor=AnchorSettings(rpc=chain.url),
                payment=PaymentSettings(solana_devnet_rpc=chain.url),
                log=LogSettings(level="warning"),
            )
            observer, stop = _RequestObserver(), asyncio.Event()
            serving = asyncio.create_task(serve(settings, stop=stop, observer=observer))
            serving.add_done_callback(observer.end)
            try:
                await asyncio.wait((serving, observer.ready), return_when=asyncio.FIRST_COMPLETED)
                if observer.ready.done():
                    yield DemoEnvironment(settings, chain, *observer.ready.result(), observer)
            finally:
                stop.set()
                await serving
                _remove_socket_folder(settings)


class _RequestObserver:
    """The ``Observer`` of the gateway."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[tuple[str, Admin]] = asyncio.get_running_loop().create_future()
        self.ends: asyncio.Queue[RequestEnd | None] = asyncio.Queue()

    def on_ready(self, address: str, admin: Admin) -> None:
        self.ready.set_result((address, admin))

    def on_receipt(self, receipt: Receipt) -> None:
        self.ends.put_nowait(RequestEnd(receipt.id, receipt.endpoint))

    def on_refusal(self, error: TrustGateError, endpoint: str, receipt_id: str) -> None:
        self.ends.put_nowait(RequestEnd(receipt_id, endpoint, error))

    def end(self, _: object) -> None:
        self.ends.put_nowait(None)


@contextlib.contextmanager
def _throwaway_home() -> Iterator[Path]:
    """A folder for this user alone, removed at the end with all that is in it."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="trustgate-demo-"))
    except OSError as error:
        raise HomeUnusable(f"No temporary folder can be made: {error.strerror}.", hint=_ELSEWHERE) from None
    try:
        free = shutil.disk_usage(folder).free
        if free < _ROOM_BYTES:
            raise HomeUnusable(
                f"The disk of {folder.parent} has {free // _MIB} MiB left; the demo needs {_ROOM_BYTES // _MIB}.",
                hint=_ELSEWHERE,
            )
        yield folder
    finally:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            _logger.warning("the demo's folder %s cannot be removed (%s); remove it by hand", folder, error.strerror)


def _remove_socket_folder(settings: Settings) -> None:
    """Where the home's path is too long for a socket, that was made in a folder of its own."""
    if settings.socket.parent != settings.home:
        with contextlib.suppress(OSError):
            settings.socket.parent.rmdir()
