"""What systemd is for a unit of ``Type=notify``: a socket that takes datagrams of lines (sd_notify(3))."""

from __future__ import annotations

import queue
import socket
import threading
import time

from tests.support.processes import PATIENCE_S


class Manager:
    """The socket of a service manager. It is always read: a full one would have datagrams dropped."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._told: queue.Queue[list[str]] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while (data := self._socket.recv(4096)) != b"":
            self._told.put(data.decode().split("\n"))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def wait_for(self, line: str) -> list[str]:
        """Returns the lines of the next datagram that has this one."""
        until_s = time.monotonic() + PATIENCE_S
        while line not in (lines := self._told.get(timeout=max(0.0, until_s - time.monotonic()))):
            pass
        return lines
