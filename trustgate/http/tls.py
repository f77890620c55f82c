"""TLS for the public listener: a certificate from files, taken anew when the files change.

Owns the settings of TLS: 1.2 and newer, ciphers with forward secrecy, HTTP/2 offered before HTTP/1.1 (RFC 9113).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from datetime import UTC, datetime
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
        #: Why the files that are there now cannot be used; None: what they hold is served.
        self.fault: str | None = None
        self.expires_us = _expiry_us(certificate)
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
            self.fault = None
            return
        # Tried apart: a certificate with another's key would leave the context with half of each.
        fault = self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) or self._load(self.context)
        self.fault = fault
        if fault is None:
            self._seen, self._told = stamp, None
            self.expires_us = _expiry_us(self._certificate)
            _logger.info("the certificate was taken anew")
        elif self._told != (stamp, fault):
            # Looked at again and again: what could not be read may be readable next time, with the same stamp.
            self._told = stamp, fault
            _logger.warning("the changed certificate cannot be used (%s): the earlier one stays", fault)

    async def look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if await asyncio.to_thread(self._stamp) != self._seen or self.fault is not None:
                # On the loop, as handshakes are: one beside it would find one pair's certificate, another's key.
                self.look()


def _expiry_us(path: Path) -> int | None:
    """Returns when the first certificate of a PEM file ends, microseconds since the epoch; None where it is not told.

    RFC 5280 section 4.1: notAfter is the second time of the sequence after the issuer.
    """
    try:
        text = path.read_text(encoding="ascii", errors="replace")
        begin, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
        certificate = ssl.PEM_cert_to_DER_cert(text[begin:end])
        members = _der_members(_der_content(_der_content(certificate)))
        # version (optional), serialNumber, signature, issuer, validity
        _, validity = members[4 if members[0][0] == _DER_VERSION else 3]
        tag, content = _der_members(validity)[1]
        return _der_time_us(tag, content.decode("ascii"))
    except (OSError, ValueError, IndexError):
        return None


#: Tags of DER: [0], UTCTime.
_DER_VERSION, _DER_UTC_TIME = 0xA0, 0x17


def _der_members(data: bytes) -> list[tuple[int, bytes]]:
    """Returns tag and content of each value in a sequence's content. Raises ``IndexError`` where it is cut."""
    found = []
    while data:
        content, end = _der_read(data)
        found.append((data[0], content))
        data = data[end:]
    return found


def _der_content(data: bytes) -> bytes:
    return _der_read(data)[0]


def _der_read(data: bytes) -> tuple[bytes, int]:
    """Returns the content of the first value, and where that ends."""
    length, begin = data[1], 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(data[2:begin])
    if begin + length > len(data):
        raise IndexError("it is cut")
    return data[begin : begin + length], begin + length


def _der_time_us(tag: int, text: str) -> int:
    """RFC 5280 section 4.1.2.5: UTCTime's years are of 1950 to 2049."""
    if tag == _DER_UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    at = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    return int(at.timestamp()) * 1_000_000


def _no_password() -> str:
    raise ValueError("the key has a password")
