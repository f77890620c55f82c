"""A real Postgres for tests: a cluster of their own, from Debian's package, or the one that TEST_POSTGRES_URL names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from tests.support import nursery
from tests.support.processes import PATIENCE_S, free_port, wait_until
from trustgate.settings import PostgresAddress
from trustgate.store import open_store

#: The user that Debian's package makes.
_SYSTEM_USER = "postgres"


def find_programs() -> Path | None:
    """The folder with initdb and postgres of the newest version that is installed; None where there is none."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


class _Schemas:
    """Schemas for tests in one database."""

    url: str
    _clean: str | None = None

    def schema(self) -> str:
        """A URL with a new, empty schema of its own."""
        return f"{self.url}{'&' if '?' in self.url else '?'}search_path={new_schema(self.url)}"

    def clean(self) -> str:
        """A URL with the schema that tests use one after another, as a new store leaves it.

        To make a schema takes half a second, to empty one a twentieth of that.
        """
        if self._clean is None:
            self._clean, untouched = self.schema(), self.schema()
            for url in (self._clean, untouched):
                asyncio.run(_make_store(url))
            names = [url.rpartition("=")[2] for url in (self._clean, untouched)]
            tables = run_sql(self.url, f"SELECT tablename FROM pg_tables WHERE schemaname = '{names[1]}'")
            self._reset = "".join(
                f'DELETE FROM {names[0]}."{table}"; INSERT INTO {names[0]}."{table}" TABLE {names[1]}."{table}";'
                for (table,) in tables
            )
            self._meta = f"{names[0]}.meta"
        else:
            run_sql(self.url, f"{self._reset} UPDATE {self._meta} SET store_id = 'store_{uuid4().hex}'")
        return self._clean


async def _make_store(url: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        await (await open_store(Path(home) / "trustgate.duckdb", PostgresAddress(url))).close()


class Postgres(_Schemas):
    """A cluster of the tests' own, with ``fsync``. It can be stopped, killed and started again on the same port."""

    def __init__(self, data: Path | None = None) -> None:
        """``data``: an empty folder for its files, such as a disk that can be filled up."""
        programs = find_programs()
        assert programs is not None, "Postgres is missing (apt-get install postgresql)"
        self._programs = programs
        # Short, because a socket lies in it, and not below pytest's folder, which is root's alone.
        self.folder = Path(tempfile.mkdtemp(prefix="tgpg"))
        #: A server refuses to run as root.
        self._user = _SYSTEM_USER if os.geteuid() == 0 else None
        self._data = self.folder / "data" if data is None else data / "data"
        if self._user is not None:
            for folder in (self.folder, self._data.parent):
                shutil.chown(folder, self._user, self._user)
        self.port = free_port()
        self.url = f"postgresql://trustgate@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self._data), "-U", "trustgate", "-A", "trust", "--no-sync", "-E", "UTF8")

    @property
    def pid(self) -> int:
        """The process that starts all others of the server."""
        assert self._process is not None, "Postgres does not run"
        return self._process.pid

    def start(self) -> Self:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port)),
                    *("-k", str(self.folder), "-h", "127.0.0.1", "-c", "max_connections=200"),
                    *("-c", "shared_buffers=32MB"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )
        nursery.guard(self._process.pid)
        wait_until(self._answers, "Postgres to answer")
        return self

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: connections are cut, as a restart does it. SIGQUIT: at once, without a checkpoint."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(PATIENCE_S)

    def backends(self) -> list[int]:
        """The processes that the server has started: of connections, and of its own."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def kill(self) -> None:
        """``kill -9``, of the server and of all that it has started."""
        found = self.backends()
        self.stop(signal.SIGKILL)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # A new one refuses to start while any of them is attached to the memory that they shared.
        wait_until(lambda: not any(_runs(pid) for pid in found), "the server's processes to end")

    def send(self, number: int) -> None:
        """Send a signal to the server and to all that it has started: SIGSTOP makes it a server that hangs."""
        for pid in (self.pid, *self.backends()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is None or self._process.poll() is not None

    def close(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        done = subprocess.run(
            [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        )
        return done.returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class GivenPostgres(_Schemas):
    """A server that runs already. Tests make schemas in it, and cannot stop it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def close(self) -> None:
        """It stays as it is."""


def new_schema(url: str) -> str:
    """Make a schema; gives its name."""
    name = f"test_{uuid4().hex[:16]}"
    run_sql(url, f"CREATE SCHEMA {name}")
    return name


def run_sql(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements; several at once where a semicolon is between them. Gives the rows of the last single one."""
    import asyncpg

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            rows: list[Any] = []
            for statement in statements:
                if ";" in statement:
                    await connection.execute(statement)
                else:
                    rows = await connection.fetch(statement)
            return [tuple(row) for row in rows]
        finally:
            await connection.close()

    return asyncio.run(run())
