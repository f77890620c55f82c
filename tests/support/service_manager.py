"""What systemd is for a unit of ``Type=notify``: a socket that takes datagrams of lines (sd_notify(3))."""

from __future__ import annotations

import socket

from tests.support.processes import PATIENCE_S


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(PATIENCE_S)

    def close(self) -> None:
        self._socket.close()

    def wait_for(self, line: str) -> list[str]:
        """Returns the lines of the next datagram that has this one."""
        while True:
            lines = self._socket.recv(4096).decode().split("\n")
            if line in lines:
                return lines
