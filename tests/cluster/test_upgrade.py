"""Two versions of the program on one Postgres: a newer one comes beside an older one, or is refused with the reason."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import httpx

from tests.cluster.side_by_side import Neighbour, SideBySide, chat
from tests.environments import ROOT
from tests.support.postgres import GivenPostgres, Postgres, run_sql

#: A step of the schema that a newer version has, which older ones survive, and one that they do not.
_SURVIVED = """
def _survived(connection: SqlConnection) -> None:
    connection.execute("CREATE TABLE added (n BIGINT)")
    connection.execute("ALTER TABLE receipts ADD COLUMN added BIGINT NOT NULL DEFAULT 0")

STEPS += (_survived,)
SURVIVED |= {_survived}
"""
_NOT_SURVIVED = """
def _not_survived(connection: SqlConnection) -> None:
    connection.execute("ALTER TABLE receipts DROP COLUMN added")

STEPS += (_not_survived,)
"""


def build(folder: Path, *steps: str) -> dict[str, str]:
    """A version of the program with these steps, as what a process is started with to be of it."""
    shutil.copytree(ROOT / "trustgate", folder / "trustgate", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "trustgate/store/postgres/migrations.py").open("a") as file:
        file.writelines(steps)
    return {"PYTHONPATH": str(folder)}


def status(gateway: Neighbour, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{gateway.port}/v1/chat/completions"
    return httpx.post(url, content=chat("trustgate/echo"), headers=headers, timeout=60).status_code


def test_a_newer_version_comes_beside_an_older_one_that_survives_its_schema_and_no_other_does(
    postgres: Postgres | GivenPostgres, tmp_path: Path
) -> None:
    url = postgres.schema()
    with contextlib.ExitStack() as stack:
        old = SideBySide(tmp_path, url, 1, "builtin:echo", {})
        stack.callback(old.close)
        first = old.neighbours[0]
        key = old.gateway.add_tenant("acme", plan="internal")
        assert status(first, key) == 200

        def beside(name: str, *steps: str) -> Neighbour:
            made = Neighbour(tmp_path, name, url, "builtin:echo", build(tmp_path / f"{name}-program", *steps))
            made.gateway.home.mkdir(mode=0o700)
            shutil.copy(first.gateway.home / "log.key", made.gateway.home)
            stack.callback(made.close)
            return made.start()

        newer = beside("newer", _SURVIVED)
        newer.wait()
        assert run_sql(url, "SELECT count(*) FROM added") == [(0,)]
        assert [status(each, key) for each in (first, newer, first)] == [200] * 3
        # An older one that ends meanwhile comes again.
        first.close()
        first.start().wait()
        assert [status(each, key) for each in (first, newer)] == [200] * 2
        old.books()

        newest = beside("newest", _SURVIVED, _NOT_SURVIVED)
        assert newest.exit_code() == 6
        assert "is older than this version's, and process" in newest.said()
        assert "Stop every `trustgate serve` of this database, then start this version" in newest.said()
        assert [status(each, key) for each in (first, newer)] == [200] * 2
        first.close()
        newer.close()
        newest.start().wait()
        assert status(newest, key) == 200
        first.start()
        assert first.exit_code() != 0
        assert "was written by a newer TrustGate" in first.said()
