"""TLS for the public listener: a certificate from files, taken anew when the files change.

Owns the settings of TLS: 1.2 and newer, ciphers with forward secrecy, HTTP/2 offered before HTTP/1.1 (RFC 9113).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from trustgate.errors import SettingsError

_logger = logging.getLogger("trustgate.server")

_LOOK_EVERY_S = 5.0


class Certificate:
    """A certificate with its key. New connections get what the files held when they were last looked at."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises ``SettingsError`` when the files are no certificate and its key."""
        self._certificate = certificate
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        self.context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self._seen = self._stamp()
        self._told: object = None
        fault = self._load(self.context)
        if fault is not None:
            raise SettingsError(
                f"The certificate {certificate} with the key {key} cannot be used: {fault}.",
                hint="Both must be PEM files; the certificate's file holds its whole chain, the key has no password.",
            )

    def _load(self, context: ssl.SSLContext) -> str | None:
        """Take the files into the context; gives what is wrong with them, if anything is."""
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except ssl.SSLError as error:
            return (error.reason or "it is not PEM").replace("_", " ").lower()
        except OSError as error:
            return error.strerror or "it cannot be read"
        except ValueError as error:
            return str(error)
        return None

    def _stamp(self) -> tuple[object, ...]:
        try:
            return tuple((found.st_mtime_ns, found.st_size) for found in (self._certificate.stat(), self._key.stat()))
        except OSError:
            return ()

    def look(self) -> None:
        """Take the files anew if they have changed. A pair that cannot be used changes nothing."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        # Tried apart: a certificate with another's key would leave the context with half of each.
        fault = self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) or self._load(self.context)
        if fault is None:
            self._seen, self._told = stamp, None
            _logger.info("the certificate was taken anew")
        elif self._told != (stamp, fault):
            # Looked at again and again: what could not be read may be readable next time, with the same stamp.
            self._told = stamp, fault
            _logger.warning("the changed certificate cannot be used (%s): the earlier one stays", fault)

    async def look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await asyncio.to_thread(self.look)


def _no_password() -> str:
    raise ValueError("the key has a password")
