"""A server that is older than those that are tested is refused, by the version that it reports to a new session."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from trustgate.errors import StoreUnusable
from trustgate.settings import PostgresAddress
from trustgate.store import open_store


def _message(kind: bytes, body: bytes) -> bytes:
    """A message of PostgreSQL's protocol 3.0 (its documentation, "Message Formats")."""
    return kind + struct.pack("!i", 4 + len(body)) + body


def _greeting(version: str) -> bytes:
    """AuthenticationOk, ParameterStatus, BackendKeyData, ReadyForQuery."""
    parameters = {"server_version": version, "client_encoding": "UTF8", "server_encoding": "UTF8", "TimeZone": "UTC"}
    told = [_message(b"S", f"{name}\0{value}\0".encode()) for name, value in parameters.items()]
    return b"".join((_message(b"R", bytes(4)), *told, _message(b"K", bytes(8)), _message(b"Z", b"I")))


async def test_an_older_postgres_is_refused_with_its_version_and_the_one_that_is_needed(tmp_path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack("!i", await reader.readexactly(4))
        await reader.readexactly(size - 4)
        writer.write(_greeting("14.11 (Debian 14.11-1)"))
        await reader.read(1)  # the session ends here, or with what is asked first
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        address = PostgresAddress(f"postgresql://someone@127.0.0.1:{port}/some?sslmode=disable", "secret")
        with pytest.raises(StoreUnusable) as refused:
            await open_store(tmp_path / "trustgate.duckdb", address)
    assert refused.value.message.endswith(f"127.0.0.1:{port}/some is Postgres 14; 15 or newer is needed.")
    assert refused.value.hint == "Use a newer server."
